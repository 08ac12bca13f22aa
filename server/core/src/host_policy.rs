//! Host policies: on which processors the threads of an instance run. Each instance has one, by its name; what a policy says
//! comes from the command line and is read when an instance is made, as in Triton.

use std::{collections::BTreeMap, sync::Arc};

use server_proto::inference::ModelInstanceGroup;

use crate::{
    backend::Device,
    error::{Error, Result},
};

/// The highest processor number that a thread can be bound to, and one more.
pub const MOST_PROCESSORS: usize = 1024;

/// What `--host-policy` says: settings by policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPolicies(BTreeMap<String, BTreeMap<String, String>>);

/// What one policy asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Processors by number, ascending: `cpu-cores`.
    pub cpu_cores: Option<Arc<[usize]>>,
    /// The part of the machine whose processors are used if no others are named: `numa-node`. Memory comes from where the
    /// thread runs that touches it first.
    pub numa_node: Option<u32>,
}

impl HostPolicies {
    /// Sets one setting of a policy; of two, the last counts.
    pub fn set(&mut self, policy: &str, key: &str, value: &str) {
        self.0.entry(policy.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }

    /// What a policy asks for; nothing if it is none of those given. Settings of other names are for backends.
    ///
    /// Errors: `InvalidArgument` in Triton's words; the numa node is too large to be one: `Internal`, also in its words.
    pub fn policy(&self, name: &str) -> Result<HostPolicy> {
        let Some(settings) = self.0.get(name) else { return Ok(HostPolicy::default()) };
        let cpu_cores = settings.get("cpu-cores").map(|text| cpu_cores(text)).transpose()?;
        let numa_node = settings.get("numa-node").map(|text| number("numa-node", text)).transpose()?;
        let numa_node = numa_node
            .map(|node| u32::try_from(node).map_err(|_| no_numa_node(&node.to_string(), "its number is negative")));
        Ok(HostPolicy { cpu_cores, numa_node: numa_node.transpose()? })
    }
}

/// Name of the policy of a group's instances on a device: the group's own word, or that of the device.
///
/// Source: Triton model configuration, "Host Policy".
pub fn policy_name(group: &ModelInstanceGroup, device: Device) -> String {
    match device {
        _ if !group.host_policy.is_empty() => group.host_policy.clone(),
        Device::Cpu => "cpu".into(),
        Device::Gpu(gpu) => format!("gpu_{gpu}"),
        Device::Model => "model".into(),
    }
}

/// The error of a numa node that instances cannot be placed on.
pub fn no_numa_node(node: &str, why: &str) -> Error {
    Error::internal(format!("Unable to set NUMA memory policy: Invalid argument: 'numa-node' is {node}: {why}"))
}

/// Reads `0-3,8-11`; one processor is `2-2`.
fn cpu_cores(text: &str) -> Result<Arc<[usize]>> {
    let mut cores = Vec::new();
    for range in text.split(',') {
        let (lower, upper) = range.split_once('-').ok_or_else(|| {
            Error::invalid_argument(format!(
                "host policy setting 'cpu-cores' format is '<lower_cpu_core_id>-<upper_cpu_core_id>'. Got {range}"
            ))
        })?;
        let (lower, upper) = (number("cpu-cores", lower)?, number("cpu-cores", upper)?);
        // no machine has more, and a slip of the pen should not cost memory
        let in_range = |bound: i32| usize::try_from(bound).unwrap_or(0).min(MOST_PROCESSORS);
        cores.extend(in_range(lower)..in_range(upper.saturating_add(1)));
    }
    cores.sort_unstable();
    cores.dedup();
    Ok(cores.into())
}

fn number(setting: &str, text: &str) -> Result<i32> {
    text.trim()
        .parse()
        .map_err(|_| Error::invalid_argument(format!("Parsing '{setting}' value: Can't parse '{text}' to integer")))
}

/// Reads the kernel's list of processors: `0-3,8,10-11`. What is no number is left out.
pub fn kernel_list(text: &str) -> Arc<[usize]> {
    let range = |range: &str| {
        let (lower, upper) = range.split_once('-').unwrap_or((range, range));
        Some(lower.parse::<usize>().ok()?..=upper.parse::<usize>().ok()?.min(MOST_PROCESSORS - 1))
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, value: &str, expected: &str) {
        let mut policies = HostPolicies::default();
        policies.set("p", key, "to be overwritten");
        policies.set("p", key, value);
        let policy = match policies.policy("p") {
            Ok(HostPolicy { cpu_cores: Some(cores), .. }) => format!("{cores:?}"),
            Ok(HostPolicy { numa_node: Some(node), .. }) => format!("node {node}"),
            Ok(_) => "nothing".into(),
            Err(error) => error.to_string(),
        };
        assert_eq!(policy, expected, "{key}={value}");
    }

    #[test]
    fn cores_are_ranges() {
        check("cpu-cores", "0-3", "[0, 1, 2, 3]");
        check("cpu-cores", "8-9,0-1,1-2", "[0, 1, 2, 8, 9]");
        check("cpu-cores", "2-2", "[2]");
        check("cpu-cores", "3-2", "[]");
        check("cpu-cores", "1022-2147483647", "[1022, 1023]");
        check("cpu-cores", "2147483647-2147483647", "[]");
        let format = "host policy setting 'cpu-cores' format is '<lower_cpu_core_id>-<upper_cpu_core_id>'. Got";
        check("cpu-cores", "0", &format!("{format} 0"));
        check("cpu-cores", "0-1,7", &format!("{format} 7"));
        check("cpu-cores", "0-1,", &format!("{format} "));
        check("cpu-cores", "a-b", "Parsing 'cpu-cores' value: Can't parse 'a' to integer");
        check("cpu-cores", "-1-3", "Parsing 'cpu-cores' value: Can't parse '' to integer");
        check("cpu-cores", "0-99999999999", "Parsing 'cpu-cores' value: Can't parse '99999999999' to integer");
    }

    #[test]
    fn a_node_is_a_number() {
        check("numa-node", "1", "node 1");
        check("numa-node", "x", "Parsing 'numa-node' value: Can't parse 'x' to integer");
        check(
            "numa-node",
            "-1",
            "Unable to set NUMA memory policy: Invalid argument: 'numa-node' is -1: its number is negative",
        );
        check("huge-pages", "yes", "nothing");
        assert_eq!(HostPolicies::default().policy("cpu"), Ok(HostPolicy::default()));
    }

    #[test]
    fn a_group_without_a_policy_has_that_of_its_device() {
        let mut group = ModelInstanceGroup::default();
        let names = |group: &ModelInstanceGroup| {
            [Device::Cpu, Device::Gpu(3), Device::Model].map(|device| policy_name(group, device)).join(" ")
        };
        assert_eq!(names(&group), "cpu gpu_3 model");
        group.host_policy = "near".into();
        assert_eq!(names(&group), "near near near");
    }

    #[test]
    fn the_list_of_the_kernel_has_single_processors() {
        assert_eq!(*kernel_list("0-2,8,10-11\n"), [0, 1, 2, 8, 10, 11]);
        assert!(kernel_list("\n").is_empty());
    }
}
