//! How much memory a worker may use, with the processes that its model has started: `--backend-config=python,memory-limit-mb=N`.
//! Memory that it has for itself counts, in memory or in swap; what it shares with the server or maps from files does not.

use std::{
    fs,
    time::{Duration, Instant},
};

use server_core::{
    backend::Settings,
    error::{Error, Result},
};

const SETTING: &str = "memory-limit-mb";

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Processes of one worker that are counted.
const MOST_PROCESSES: usize = 1000;

/// Most bytes; `None` is no limit.
///
/// Errors: it is no number above 0.
pub(super) fn bytes(settings: &Settings) -> Result<Option<u64>> {
    let Some(value) = settings.get(SETTING) else { return Ok(None) };
    let bytes = value.trim().parse::<u64>().ok().filter(|mebibytes| *mebibytes > 0);
    bytes.and_then(|mebibytes| mebibytes.checked_mul(1 << 20)).map(Some).ok_or_else(|| {
        Error::invalid_argument(format!(
            "--backend-config=python,{SETTING} must be a number of mebibytes above 0, not '{value}'"
        ))
    })
}

/// The limit of one worker, and when it is looked at next.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    bytes: u64,
    next: Instant,
}

impl MemoryLimit {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, next: Instant::now() + INTERVAL }
    }

    /// How long until [`MemoryLimit::exceeded`] looks again.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// What is wrong with the process, if it uses too much. Looks only now and then.
    pub(super) fn exceeded(&mut self, pid: u32, now: Instant) -> Option<String> {
        if now < self.next {
            return None;
        }
        self.next = now + INTERVAL;
        let used = used_by_all(pid);
        (used > self.bytes).then(|| {
            let (used, limit) = (used >> 20, self.bytes >> 20);
            format!("it used {used} MiB of memory and was killed; --backend-config=python,{SETTING} allows {limit}")
        })
    }
}

/// Bytes of a process and of all that it has started.
pub(super) fn used_by_all(pid: u32) -> u64 {
    let (mut processes, mut looked_at, mut used) = (vec![pid], 0, 0);
    while let Some(pid) = processes.pop() {
        used += used_by(pid);
        looked_at += 1;
        if looked_at + processes.len() < MOST_PROCESSES {
            processes.extend(children(pid));
        }
    }
    used
}

fn used_by(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status")).map_or(0, |status| private(&status)) // gone: none
}

/// Bytes that a process has for itself, of the text of its `/proc/PID/status`.
fn private(status: &str) -> u64 {
    let kibibytes = |line: &str| -> Option<u64> {
        let rest = line.strip_prefix("RssAnon:").or_else(|| line.strip_prefix("VmSwap:"))?;
        rest.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    status.lines().filter_map(kibibytes).sum::<u64>() << 10
}

/// Those that its threads have started. None on kernels that do not say.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    texts.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_and_swap_count() {
        let status = "Name:\tpython3\nVmRSS:\t  900 kB\nRssAnon:\t     100 kB\nRssFile:\t 500 kB\nRssShmem:\t 300 kB\nVmSwap:\t 28 kB\n";
        assert_eq!(private(status), 128 << 10);
        assert_eq!(private("Name:\tgone\n"), 0);
    }

    #[test]
    fn a_process_above_its_limit_is_told_at_the_next_look() {
        let pid = std::process::id();
        let (mut small, mut large) = (MemoryLimit::new(1), MemoryLimit::new(1 << 50));
        let later = Instant::now() + INTERVAL;
        assert_eq!(small.exceeded(pid, later - INTERVAL), None, "it is looked at now and then");
        let problem = small.exceeded(pid, later).unwrap();
        assert!(problem.ends_with("--backend-config=python,memory-limit-mb allows 0"), "{problem}");
        assert_eq!(small.exceeded(pid, later), None);
        assert_eq!(large.exceeded(pid, later), None);
    }

    #[test]
    fn the_setting_is_a_number_of_mebibytes() {
        let bytes = |value: &str| bytes(&Settings::from([(SETTING.into(), value.into())]));
        assert_eq!(bytes("3").unwrap(), Some(3 << 20));
        for wrong in ["0", "-1", "1G", "99999999999999999999", "18446744073709551615"] {
            assert!(bytes(wrong).unwrap_err().message.contains("a number of mebibytes above 0"), "{wrong}");
        }
        assert_eq!(super::bytes(&Settings::new()).unwrap(), None);
    }
}
