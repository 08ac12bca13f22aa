//! A configuration for GPUs on a machine without any: its GPU groups are rewritten to run on the CPU.

use server_proto::inference::model_instance_group::Kind;

use super::{Machine, ModelConfig};

/// Rewrites every group of `KIND_GPU` to `KIND_CPU` if the machine has no GPU, and returns the paths of the groups,
/// e.g. `instance_group[0]`. Call it before [`normalize`](super::normalize), which writes the usual CPU counts in.
///
/// A machine with GPUs changes nothing: a group that lists one that is not there is still a mistake.
pub fn run_gpu_groups_on_cpu(config: &mut ModelConfig, machine: &Machine) -> Vec<String> {
    if machine.gpus > 0 {
        return Vec::new();
    }
    let groups = config.instance_group.iter_mut().enumerate().filter(|(_, group)| group.kind() == Kind::Gpu);
    groups
        .map(|(index, group)| {
            group.set_kind(Kind::Cpu);
            group.gpus.clear();
            format!("instance_group[{index}]")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::run_gpu_groups_on_cpu;
    use crate::config::{InstanceKind, Machine, from_text, normalize, verify};

    const TEXT: &str = "name: 'm' platform: 'onnxruntime_onnx' backend: 'onnxruntime' input { name: 'x' data_type: TYPE_FP32 dims: 1 }\n\
                        output { name: 'y' data_type: TYPE_FP32 dims: 1 }\n\
                        instance_group [ { kind: KIND_GPU gpus: [ 0, 1 ] }, { kind: KIND_CPU }, { kind: KIND_GPU count: 3 } ]";

    #[test]
    fn without_a_gpu_gpu_groups_run_on_the_cpu() {
        let (mut config, machine) = (from_text(TEXT).unwrap(), Machine { gpus: 0 });
        assert_eq!(run_gpu_groups_on_cpu(&mut config, &machine), ["instance_group[0]", "instance_group[2]"]);
        normalize(&mut config, &machine);
        assert_eq!(verify(&config, "m", &machine), []);
        assert!(config.instance_group.iter().all(|group| group.kind() == InstanceKind::Cpu && group.gpus.is_empty()));
        assert_eq!(config.instance_group.iter().map(|group| group.count).collect::<Vec<_>>(), [2, 2, 3]);
    }

    #[test]
    fn with_a_gpu_nothing_changes() {
        let (mut config, machine) = (from_text(TEXT).unwrap(), Machine { gpus: 1 });
        assert_eq!(run_gpu_groups_on_cpu(&mut config, &machine), Vec::<String>::new());
        assert_eq!(config, from_text(TEXT).unwrap());
    }
}
