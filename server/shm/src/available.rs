//! How much memory this process may use: the least limit of its control groups, or else what the machine has.

use std::{fs, path::Path};

/// Bytes; `None` if nothing can be read.
pub fn available() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let groups = limits(&read("/proc/self/cgroup"), |path| fs::read_to_string(path).ok());
    groups.into_iter().chain(machine(&read("/proc/meminfo"))).min()
}

/// The limits that hold for a process of these control groups, by both versions of their file system. A group's limit
/// holds for all below it; inside a container the groups' own folder may be the root.
fn limits(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Vec<u64> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(root).join(group.trim_start_matches('/'));
        let folders = group.ancestors().take_while(|folder| folder.starts_with(root));
        let limits = folders.filter_map(|folder| read(&folder.join(file))?.trim().parse::<u64>().ok());
        found.extend(limits);
    }
    found
}

fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits_of(groups: &str, files: &[(&str, &str)]) -> Vec<u64> {
        let read = |path: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, content)| (*content).to_owned())
        };
        limits(groups, read)
    }

    #[test]
    fn every_group_above_counts() {
        let files = [
            ("/sys/fs/cgroup/pods/a/memory.max", "max\n"),
            ("/sys/fs/cgroup/pods/memory.max", "2000\n"),
            ("/sys/fs/cgroup/memory.max", "5000\n"),
        ];
        assert_eq!(limits_of("0::/pods/a\n", &files), [2000, 5000]);
        assert_eq!(limits_of("0::/\n", &files), [5000]);
        assert_eq!(limits_of("0::/../x\n", &files), [5000]);
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let files = [
            ("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "700\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let groups = "12:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n0::/system\n";
        assert_eq!(limits_of(groups, &files), [700, 9_223_372_036_854_771_712]);
    }

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(machine("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 * 1024));
        assert_eq!(machine(""), None);
        assert!(available().is_some_and(|bytes| bytes > 0));
    }
}
