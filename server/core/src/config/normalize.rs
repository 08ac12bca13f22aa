//! Writes the defaults into a configuration, so that everything after reads one explicit form, and users see it.

use server_proto::inference::{
    ModelInstanceGroup, ModelSequenceBatching, ModelVersionPolicy,
    model_config::SchedulingChoice,
    model_instance_group::Kind,
    model_optimization_policy::PinnedMemoryBuffer,
    model_sequence_batching::StrategyChoice,
    model_version_policy::{Latest, PolicyChoice},
};

use super::{ModelConfig, frameworks};

const SEQUENCE_IDLE_MICROSECONDS: u64 = 1_000_000;

/// What normalisation and verification must know of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Machine {
    /// How many GPUs the server may use, numbered from 0.
    pub gpus: u32,
}

impl Machine {
    /// Whether there is a GPU of that number.
    pub(super) fn has_gpu(self, number: i32) -> bool {
        u32::try_from(number).is_ok_and(|number| number < self.gpus)
    }

    /// The numbers of all GPUs.
    pub(super) fn all_gpus(self) -> impl Iterator<Item = i32> {
        (0..self.gpus).map_while(|number| i32::try_from(number).ok())
    }
}

/// Writes the defaults in: version policy, preferred batch sizes, sequence idle time, pinned memory, and instance
/// groups with name, kind, count and GPUs. Doing it twice changes nothing more.
///
/// Source: Triton model configuration, "Version Policy", "Instance Groups", "Dynamic Batcher".
pub fn normalize(config: &mut ModelConfig, machine: &Machine) {
    version_policy(config);
    let is_ensemble = matches!(config.scheduling_choice, Some(SchedulingChoice::EnsembleScheduling(_)));
    match &mut config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(batching)) => {
            preferred_sizes(&mut batching.preferred_batch_size, config.max_batch_size);
        }
        Some(SchedulingChoice::SequenceBatching(batching)) => sequence_batching(batching, config.max_batch_size),
        Some(SchedulingChoice::EnsembleScheduling(_)) | None => {}
    }
    if !is_ensemble {
        let optimization = config.optimization.get_or_insert_default();
        optimization.input_pinned_memory.get_or_insert(PinnedMemoryBuffer { enable: true });
        optimization.output_pinned_memory.get_or_insert(PinnedMemoryBuffer { enable: true });
        instance_groups(config, *machine);
    }
}

fn version_policy(config: &mut ModelConfig) {
    let policy = config
        .version_policy
        .get_or_insert_with(|| ModelVersionPolicy { policy_choice: Some(PolicyChoice::Latest(Latest::default())) });
    if let Some(PolicyChoice::Latest(latest)) = &mut policy.policy_choice {
        latest.num_versions = latest.num_versions.max(1);
    }
}

fn preferred_sizes(sizes: &mut Vec<i32>, max_batch_size: i32) {
    if sizes.is_empty() && max_batch_size > 0 {
        sizes.push(max_batch_size);
    }
}

fn sequence_batching(batching: &mut ModelSequenceBatching, max_batch_size: i32) {
    if batching.max_sequence_idle_microseconds == 0 {
        batching.max_sequence_idle_microseconds = SEQUENCE_IDLE_MICROSECONDS;
    }
    if let Some(StrategyChoice::Oldest(oldest)) = &mut batching.strategy_choice {
        preferred_sizes(&mut oldest.preferred_batch_size, max_batch_size);
    }
}

fn instance_groups(config: &mut ModelConfig, machine: Machine) {
    if config.instance_group.is_empty() {
        config.instance_group.push(ModelInstanceGroup { name: config.name.clone(), ..Default::default() });
    }
    let cpu_instances = frameworks::of_backend(frameworks::backend_name(config)).next().map_or(1, |f| f.cpu_instances);
    for (number, group) in config.instance_group.iter_mut().enumerate() {
        if group.name.is_empty() {
            group.name = format!("{}_{number}", config.name);
        }
        if group.kind == Kind::Auto as i32 {
            resolve_kind(group, machine);
        }
        if group.count < 1 {
            group.count = if group.kind() == Kind::Cpu { cpu_instances } else { 1 };
        }
        if group.kind() == Kind::Gpu && group.gpus.is_empty() {
            group.gpus = machine.all_gpus().collect();
        }
    }
}

/// On GPUs if all listed are there; else on the processor, where the list has no meaning.
fn resolve_kind(group: &mut ModelInstanceGroup, machine: Machine) {
    if machine.gpus > 0 && group.gpus.iter().all(|&gpu| machine.has_gpu(gpu)) {
        group.set_kind(Kind::Gpu);
    } else {
        group.set_kind(Kind::Cpu);
        group.gpus.clear();
    }
}

#[cfg(test)]
mod tests {
    use server_proto::inference::ModelInstanceGroup;

    use super::{Machine, normalize};
    use crate::config::from_text;

    fn groups(text: &str, gpus: u32) -> Vec<ModelInstanceGroup> {
        let mut config = from_text(text).unwrap();
        normalize(&mut config, &Machine { gpus });
        let once = config.clone();
        normalize(&mut config, &Machine { gpus });
        assert_eq!(config, once, "twice is as good as once");
        config.instance_group
    }

    /// Each group as `NAME KIND xCOUNT [GPUS]`.
    #[track_caller]
    fn check(text: &str, gpus: u32, expected: &[&str]) {
        let show = |g: &ModelInstanceGroup| format!("{} {} x{} {:?}", g.name, g.kind().as_str_name(), g.count, g.gpus);
        assert_eq!(groups(text, gpus).iter().map(show).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_model_without_groups_gets_one() {
        check("name: 'm' backend: 'onnxruntime'", 0, &["m KIND_CPU x2 []"]);
        check("name: 'm' platform: 'onnxruntime_onnx'", 0, &["m KIND_CPU x2 []"]);
        check("name: 'm' backend: 'onnxruntime'", 2, &["m KIND_GPU x1 [0, 1]"]);
        check("name: 'm' backend: 'python'", 0, &["m KIND_CPU x1 []"]);
        check("name: 'm' ensemble_scheduling { }", 2, &[]);
    }

    #[test]
    fn groups_of_any_kind_go_where_their_gpus_are() {
        let text = "name: 'm' backend: 'onnxruntime' instance_group [ { count: 3 gpus: [ 0, 1 ] }, { gpus: 1 }, { } ]";
        check(text, 2, &["m_0 KIND_GPU x3 [0, 1]", "m_1 KIND_GPU x1 [1]", "m_2 KIND_GPU x1 [0, 1]"]);
        check(text, 1, &["m_0 KIND_CPU x3 []", "m_1 KIND_CPU x2 []", "m_2 KIND_GPU x1 [0]"]);
        check(text, 0, &["m_0 KIND_CPU x3 []", "m_1 KIND_CPU x2 []", "m_2 KIND_CPU x2 []"]);
    }

    #[test]
    fn what_is_said_stays() {
        let text = "name: 'm' backend: 'onnxruntime'\n\
                    instance_group [ { kind: KIND_CPU count: 1 name: 'a' }, { kind: KIND_MODEL }, { kind: KIND_GPU gpus: 7 } ]";
        check(text, 0, &["a KIND_CPU x1 []", "m_1 KIND_MODEL x1 []", "m_2 KIND_GPU x1 [7]"]);
    }
}
