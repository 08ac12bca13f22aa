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

/// Whether one has that name.
pub(super) fn has(name: &str) -> bool {
    OF_MACHINE.iter().any(|(of_machine, ..)| *of_machine == name)
}

impl Page {
    /// Adds processors and memory.
    pub fn add_machine(&mut self, machine: &MachineSnapshot) {
        let families =
            OF_MACHINE.iter().map(|(name, help, value)| Family::single(Kind::Gauge, name, help, value(machine)));
        self.families.extend(families);
    }
}
