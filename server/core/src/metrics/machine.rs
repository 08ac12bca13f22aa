//! Gauges of the machine.

use std::{fmt::Debug, sync::Arc};

use super::{
    family::{Family, Kind, Page},
    labels::LabelSet,
};

/// What is measured of the machine. Utilisation is a fraction from 0 to 1, the rest bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MachineSnapshot {
    /// Busy share of all processors since the last look.
    pub cpu_utilization: f64,
    /// Memory of the machine.
    pub memory_total: u64,
    /// Memory in use.
    pub memory_used: u64,
}

type OfMachine = (&'static str, &'static str, fn(&MachineSnapshot) -> f64);

/// Gauges of the machine, in the order of the page.
const OF_MACHINE: [OfMachine; 3] = [
    ("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", |machine| machine.cpu_utilization),
    ("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", |machine| machine.memory_total as f64),
    ("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", |machine| machine.memory_used as f64),
];

/// What is measured of one GPU; what it does not tell is not there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuSnapshot {
    /// Its name: `GPU-...`.
    pub uuid: String,
    /// Busy share of the last moments, from 0 to 1.
    pub utilization: Option<f64>,
    /// Bytes.
    pub memory_total: Option<u64>,
    /// Bytes.
    pub memory_used: Option<u64>,
    /// Watts.
    pub power_usage: Option<f64>,
    /// Watts.
    pub power_limit: Option<f64>,
    /// Joules since the server was started.
    pub energy: Option<f64>,
}

/// Whoever knows what the GPUs of this machine do.
pub trait GpuProbe: Debug + Send + Sync {
    /// What it saw last. Never waits.
    fn read(&self) -> Vec<GpuSnapshot>;
}

type OfGpu = (Kind, &'static str, &'static str, fn(&GpuSnapshot) -> Option<f64>);

/// Families of GPUs, in the order of the page.
const OF_GPU: [OfGpu; 6] = [
    (Kind::Gauge, "nv_gpu_utilization", "GPU utilization rate [0.0 - 1.0)", |gpu| gpu.utilization),
    (Kind::Gauge, "nv_gpu_memory_total_bytes", "GPU total memory, in bytes", |gpu| Some(gpu.memory_total? as f64)),
    (Kind::Gauge, "nv_gpu_memory_used_bytes", "GPU used memory, in bytes", |gpu| Some(gpu.memory_used? as f64)),
    (Kind::Gauge, "nv_gpu_power_usage", "GPU power usage in watts", |gpu| gpu.power_usage),
    (Kind::Gauge, "nv_gpu_power_limit", "GPU power management limit in watts", |gpu| gpu.power_limit),
    (
        Kind::Counter,
        "nv_energy_consumption",
        "GPU energy consumption in joules since the Triton Server started",
        |gpu| gpu.energy,
    ),
];

/// The pool of pinned memory for copies to devices: the size that its flag gives, which Triton shows as well where it can have
/// none. This server uses nothing of it.
const OF_PINNED_MEMORY: [(&str, &str); 2] = [
    ("nv_pinned_memory_pool_total_bytes", "Pinned memory pool total memory size, in bytes"),
    ("nv_pinned_memory_pool_used_bytes", "Pinned memory pool used memory size, in bytes"),
];

/// The kind of such a family.
pub(super) fn kind(name: &str) -> Option<Kind> {
    let is_gauge = OF_MACHINE.iter().any(|(of_machine, ..)| *of_machine == name)
        || OF_PINNED_MEMORY.iter().any(|(of_pool, _)| *of_pool == name);
    let of_gpu = || OF_GPU.iter().find(|(_, of_gpu, ..)| *of_gpu == name).map(|(kind, ..)| *kind);
    is_gauge.then_some(Kind::Gauge).or_else(of_gpu)
}

impl Page {
    /// Adds the pool of pinned memory, of so many bytes.
    pub fn add_pinned_memory(&mut self, size: u64) {
        let values = OF_PINNED_MEMORY.into_iter().zip([size as f64, 0.0]);
        self.families.extend(values.map(|((name, help), value)| Family::single(Kind::Gauge, name, help, value)));
    }

    /// Adds GPUs, if there are any.
    pub fn add_gpus(&mut self, gpus: &[GpuSnapshot]) {
        let label = |gpu: &GpuSnapshot| Arc::new(LabelSet::new(vec![("gpu_uuid".into(), gpu.uuid.as_str().into())]));
        let labels: Vec<_> = gpus.iter().map(label).collect();
        for (kind, name, help, value) in OF_GPU {
            let numbers = gpus.iter().zip(&labels).filter_map(|(gpu, labels)| Some((labels.clone(), value(gpu)?)));
            let family = Family::new(kind, name, help).with(numbers);
            self.families.extend((!family.series.is_empty()).then_some(family));
        }
    }

    /// Adds processors and memory.
    pub fn add_machine(&mut self, machine: &MachineSnapshot) {
        let families =
            OF_MACHINE.iter().map(|(name, help, value)| Family::single(Kind::Gauge, name, help, value(machine)));
        self.families.extend(families);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_show_what_they_tell() {
        let whole = GpuSnapshot {
            uuid: "GPU-0".into(),
            utilization: Some(0.25),
            memory_total: Some(80_000_000_000),
            memory_used: Some(1_000_000_000),
            power_usage: Some(61.5),
            power_limit: Some(700.0),
            energy: Some(12.25),
        };
        let silent = GpuSnapshot { uuid: "GPU-1".into(), utilization: Some(0.0), ..GpuSnapshot::default() };
        let mut page = Page::default();
        page.add_gpus(&[whole, silent]);
        let text = page.text();
        let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                "nv_gpu_utilization{gpu_uuid=\"GPU-0\"} 0.25",
                "nv_gpu_utilization{gpu_uuid=\"GPU-1\"} 0",
                "nv_gpu_memory_total_bytes{gpu_uuid=\"GPU-0\"} 80000000000",
                "nv_gpu_memory_used_bytes{gpu_uuid=\"GPU-0\"} 1000000000",
                "nv_gpu_power_usage{gpu_uuid=\"GPU-0\"} 61.5",
                "nv_gpu_power_limit{gpu_uuid=\"GPU-0\"} 700",
                "nv_energy_consumption{gpu_uuid=\"GPU-0\"} 12.25",
            ]
        );
        let mut none = Page::default();
        none.add_gpus(&[]);
        assert_eq!(none, Page::default());
    }
}
