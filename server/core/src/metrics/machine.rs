//! Gauges of the machine.

use super::family::{Family, Kind, Page};

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

/// The pool of pinned memory for copies to devices. This server has none, as Triton has none on a machine without a GPU.
const OF_PINNED_MEMORY: [(&str, &str); 2] = [
    ("nv_pinned_memory_pool_total_bytes", "Pinned memory pool total memory size, in bytes"),
    ("nv_pinned_memory_pool_used_bytes", "Pinned memory pool used memory size, in bytes"),
];

/// Whether one has that name.
pub(super) fn has(name: &str) -> bool {
    OF_MACHINE.iter().any(|(of_machine, ..)| *of_machine == name)
        || OF_PINNED_MEMORY.iter().any(|(of_pool, _)| *of_pool == name)
}

impl Page {
    /// Adds the pool of pinned memory.
    pub fn add_pinned_memory(&mut self) {
        self.families.extend(OF_PINNED_MEMORY.map(|(name, help)| Family::single(Kind::Gauge, name, help, 0.0)));
    }

    /// Adds processors and memory.
    pub fn add_machine(&mut self, machine: &MachineSnapshot) {
        let families =
            OF_MACHINE.iter().map(|(name, help, value)| Family::single(Kind::Gauge, name, help, value(machine)));
        self.families.extend(families);
    }
}
