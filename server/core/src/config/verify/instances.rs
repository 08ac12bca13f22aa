//! Instance groups: GPUs that are there, and only where they have a meaning.

use server_proto::inference::{ModelInstanceGroup, model_config::SchedulingChoice, model_instance_group::Kind};

use super::findings::Findings;
use crate::config::{Machine, ModelConfig};

/// As Triton prints it in its list of usable GPUs.
const MINIMUM_COMPUTE_CAPABILITY: &str = "6.000000";
/// What to do about it.
const WITHOUT_GPU: &str = "Set 'kind: KIND_CPU', or 'kind: KIND_AUTO' to use GPUs where there are some; or run the \
                           server where it can see an NVIDIA GPU, or with --gpu-fallback=cpu.";
/// Most instances of one model: each is a thread with an execution context of its own.
const MOST_INSTANCES: i64 = 4096;
const TENSORRT: &str = "tensorrt_plan";

pub(super) fn check(config: &ModelConfig, machine: Machine, findings: &mut Findings<'_>) {
    if matches!(config.scheduling_choice, Some(SchedulingChoice::EnsembleScheduling(_))) {
        return; // ensembles have none
    }
    if config.instance_group.is_empty() {
        findings.add_for_model("instance_group", "must specify one or more 'instance group's");
    }
    check_count(config, findings);
    check_passive(config, findings);
    for (index, group) in config.instance_group.iter().enumerate() {
        let path = format!("instance_group[{index}]");
        let subject = format!("instance group {} of model {}", group.name, config.name);
        if Kind::try_from(group.kind).is_err() {
            findings.add(format!("{path}.kind"), format!("{subject} has unexpected kind {}", group.kind));
        }
        check_gpus(group, machine, &path, &subject, findings);
        check_profiles(group, &config.platform, &path, &subject, findings);
    }
}

/// Instances are made one by one, so a mistyped count must not become threads without number.
fn check_count(config: &ModelConfig, findings: &mut Findings<'_>) {
    let devices = |group: &ModelInstanceGroup| if group.kind() == Kind::Gpu { group.gpus.len().max(1) } else { 1 };
    let of_group = |group: &ModelInstanceGroup| i64::from(group.count).saturating_mul(devices(group) as i64);
    let count = config.instance_group.iter().map(of_group).fold(0, i64::saturating_add);
    if count > MOST_INSTANCES {
        let message = format!(
            "'instance_group' asks for {count} instances, at most {MOST_INSTANCES} are allowed: lower 'count' or list \
             fewer 'gpus'"
        );
        findings.add_for_model("instance_group", message);
    }
}

/// Passive instances are given no requests, so that somebody else must be there.
fn check_passive(config: &ModelConfig, findings: &mut Findings<'_>) {
    let mut groups = config.instance_group.iter().peekable();
    if groups.peek().is_some() && groups.all(|group| group.passive) {
        let message = "must have an instance group that is not passive: passive instances are given no requests";
        findings.add_for_model("instance_group", message);
    }
}

fn check_gpus(group: &ModelInstanceGroup, machine: Machine, path: &str, subject: &str, findings: &mut Findings<'_>) {
    let path = format!("{path}.gpus");
    match group.kind() {
        Kind::Model | Kind::Cpu if !group.gpus.is_empty() => {
            let kind = group.kind().as_str_name();
            findings.add(path, format!("{subject} has kind {kind} but specifies one or more GPUs"));
        }
        Kind::Gpu if machine.gpus == 0 => {
            findings.add(path, format!("{subject} has kind KIND_GPU but no GPUs are available. {WITHOUT_GPU}"));
        }
        Kind::Gpu if group.gpus.is_empty() => {
            findings.add(path, format!("{subject} has kind KIND_GPU but specifies no GPUs"));
        }
        Kind::Gpu => {
            for (index, gpu) in group.gpus.iter().enumerate().filter(|(_, gpu)| !machine.has_gpu(**gpu)) {
                let there: Vec<String> = machine.all_gpus().map(|gpu| gpu.to_string()).collect();
                findings.add(
                    format!("{path}[{index}]"),
                    format!(
                        "{subject} specifies invalid or unsupported gpu id {gpu}. GPUs with at least the minimum \
                         required CUDA compute compatibility of {MINIMUM_COMPUTE_CAPABILITY} are: {}",
                        there.join(", ")
                    ),
                );
            }
        }
        Kind::Auto | Kind::Model | Kind::Cpu => {} // any kind is resolved when defaults are written in
    }
}

fn check_profiles(group: &ModelInstanceGroup, platform: &str, path: &str, subject: &str, findings: &mut Findings<'_>) {
    if group.profile.is_empty() {
        return;
    }
    if platform != TENSORRT {
        findings.add(
            format!("{path}.profile"),
            format!(
                "{subject} and platform {platform}specifies profile field which is only supported for TensorRT models"
            ),
        );
        return;
    }
    for (index, profile) in group.profile.iter().enumerate().filter(|(_, profile)| profile.parse::<u32>().is_err()) {
        findings.add(
            format!("{path}.profile[{index}]"),
            format!(
                "{subject} and platform {platform} specifies invalid profile {profile}. The field should contain the \
                 string representation of a non-negative integer."
            ),
        );
    }
}
