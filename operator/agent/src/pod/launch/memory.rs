//! Whether the kernel has ended processes of this container for want of memory. A server that ended so is not started again beside
//! its container: only an end of that shows in its status what happened (`OOMKilled`).
//!
//! Source: the kernel's cgroup-v2.rst (`memory.events`) and cgroup-v1/memory.rst (`memory.oom_control`), both with a line `oom_kill N`.

use std::{fs, path::Path};

/// Where the container's own cgroup is: of version 2, then of version 1.
const FILES: [&str; 2] = ["sys/fs/cgroup/memory.events", "sys/fs/cgroup/memory/memory.oom_control"];

/// How many processes of this container were ended for want of memory. `None` where nobody counts.
pub(super) fn oom_kills() -> Option<u64> {
    counted_below(Path::new("/"))
}

fn counted_below(root: &Path) -> Option<u64> {
    FILES.iter().find_map(|file| count(&fs::read_to_string(root.join(file)).ok()?))
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_whichever_version_the_cgroup_has() {
        let text = [
            "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
        ];
        for ((file, text), expect) in FILES.iter().zip(text).zip([2, 5]) {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            assert_eq!(counted_below(root.path()), Some(expect), "{file}");
        }
        assert_eq!(counted_below(tempfile::tempdir().unwrap().path()), None);
        assert_eq!(count("oom_kill_disable 0\n"), None);
    }
}
