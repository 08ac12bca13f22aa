//! What the machine has: GPUs by number, and how busy its processors and memory are. Reads `/proc`, keeps one sample.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use server_core::{config, error::Result, host_policy, metrics::MachineSnapshot};

/// The machine, looked at once for its GPUs and at most so often for its load.
pub(crate) struct Machine {
    gpu_uuids: BTreeMap<u32, String>,
    last: Mutex<Reading>,
}

/// What a look has shown.
struct Reading {
    times: CpuTimes,
    /// When, and what it came to; `None` before the first page.
    shown: Option<(Instant, MachineSnapshot)>,
}

#[derive(Clone, Copy, Default)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

impl Machine {
    /// Finds the GPUs the driver shows; none without a driver.
    pub(crate) fn detect() -> Self {
        Self {
            gpu_uuids: gpu_uuids(Path::new("/proc/driver/nvidia/gpus")),
            last: Mutex::new(Reading { times: cpu_times(), shown: None }),
        }
    }

    /// What configurations are checked against.
    pub(crate) fn for_config(&self) -> config::Machine {
        config::Machine { gpus: u32::try_from(self.gpu_uuids.len()).unwrap_or(u32::MAX) }
    }

    /// The label of a GPU's metrics.
    pub(crate) fn gpu_uuid(&self, gpu: u32) -> Option<&str> {
        self.gpu_uuids.get(&gpu).map(String::as_str)
    }

    /// The processors of a part of the machine, which has memory of its own.
    ///
    /// Errors: `Internal`, there is no such part.
    pub(crate) fn node_processors(node: u32) -> Result<Arc<[usize]>> {
        let nodes = Path::new("/sys/devices/system/node");
        let read = |path: &str| fs::read_to_string(nodes.join(path));
        let processors = read(&format!("node{node}/cpulist")).map(|text| host_policy::kernel_list(&text));
        processors.map_err(|_| {
            let why = match read("online") {
                Ok(online) => format!("the nodes of this machine are {}", online.trim()),
                Err(error) => format!("the nodes of this machine cannot be told: '{}': {error}", nodes.display()),
            };
            host_policy::no_numa_node(&node.to_string(), &why)
        })
    }

    /// Load between the last two looks, and memory at the last. A look that is younger than `interval` counts as one now.
    pub(crate) fn snapshot(&self, now: Instant, interval: Duration) -> MachineSnapshot {
        let mut last = self.last.lock();
        if let Some((read_at, shown)) = last.shown
            && now.saturating_duration_since(read_at) < interval
        {
            return shown;
        }
        let shown = look(&mut last.times);
        last.shown = Some((now, shown));
        shown
    }
}

/// Load since the look that gave `times`, which become those of this one, and memory now.
fn look(times: &mut CpuTimes) -> MachineSnapshot {
    let now = cpu_times();
    let last = std::mem::replace(times, now);
    let (busy, total) = (now.busy.saturating_sub(last.busy), now.total.saturating_sub(last.total));
    let cpu_utilization = if total == 0 { 0.0 } else { busy as f64 / total as f64 };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_total = memory_bytes(&memory, "MemTotal:");
    let memory_used = memory_total.saturating_sub(memory_bytes(&memory, "MemAvailable:"));
    MachineSnapshot { cpu_utilization, memory_total, memory_used }
}

fn gpu_uuids(folder: &Path) -> BTreeMap<u32, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort(); // by bus address, the order in which CUDA numbers them when asked to follow the bus
    let uuid = |path: &Path| {
        let text = fs::read_to_string(path.join("information")).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix("GPU UUID:")?.trim().to_owned()))
    };
    (0..).zip(paths.iter().map(|path| uuid(path).unwrap_or_default())).collect()
}

fn cpu_times() -> CpuTimes {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guest times are inside user already
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
    let total = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    CpuTimes { busy: total - idle, total }
}

fn memory_bytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    let kibibytes: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kibibytes * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_counts_for_as_long_as_the_interval() {
        let machine = Machine::detect();
        let (start, interval) = (Instant::now(), Duration::from_secs(2));
        let read_at = |now| {
            machine.snapshot(now, interval);
            machine.last.lock().shown.map(|(read_at, _)| read_at)
        };
        assert_eq!(read_at(start), Some(start));
        assert_eq!(read_at(start + Duration::from_millis(1999)), Some(start));
        let later = start + interval;
        assert_eq!(read_at(later), Some(later));
        let always = later + Duration::from_nanos(1);
        machine.snapshot(always, Duration::ZERO);
        assert_eq!(machine.last.lock().shown.map(|(read_at, _)| read_at), Some(always));
    }
}
