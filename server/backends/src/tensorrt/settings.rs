//! What a model's configuration says about how its instances run. Pure.

use server_core::{
    backend::Settings,
    config::ModelConfig,
    error::{Error, Result},
};
use server_proto::inference::{
    ModelInstanceGroup, model_instance_group::secondary_device::SecondaryDeviceKind,
    model_optimization_policy::ModelPriority,
};

use super::{
    graphs::{self, Wanted},
    raw::Strategy,
};
use crate::{cuda::Priority, native::loading};

const STRATEGY: &str = "execution_context_allocation_strategy";

/// How the instances of one model run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Execution {
    /// How contexts get their working memory.
    pub(super) strategy: Strategy,
    /// Among the streams of a GPU.
    pub(super) priority: Priority,
    /// Runs to capture.
    pub(super) graphs: Vec<Wanted>,
    /// The thread of an instance waits busily for the GPU.
    pub(super) waits_busily: bool,
    /// Results are copied on a stream of their own.
    pub(super) has_output_stream: bool,
    /// Host memory of inputs, and of outputs, is pinned.
    pub(super) pins: (bool, bool),
}

/// How the whole backend runs: `execution-policy`, `version-compatible`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// The instances on one GPU start their runs one after the other.
    pub(super) blocks_device: bool,
    /// Plans may bring the runtime that made them.
    pub(super) is_version_compatible: bool,
}

impl Execution {
    /// Reads a configuration.
    ///
    /// Errors: `InvalidArgument` if a value is none of those expected.
    pub(super) fn of(config: &ModelConfig) -> Result<Self> {
        let optimization = config.optimization.clone().unwrap_or_default();
        let cuda = optimization.cuda.clone().unwrap_or_default();
        let is_pinned = |memory: &Option<server_proto::inference::model_optimization_policy::PinnedMemoryBuffer>| {
            memory.as_ref().is_none_or(|memory| memory.enable)
        };
        Ok(Self {
            strategy: strategy(config)?,
            priority: match optimization.priority() {
                ModelPriority::PriorityMax => Priority::High,
                ModelPriority::PriorityMin => Priority::Low,
                ModelPriority::PriorityDefault => Priority::Usual,
            },
            graphs: graphs::wanted(config)?,
            waits_busily: cuda.busy_wait_events,
            has_output_stream: cuda.output_copy_stream,
            pins: (is_pinned(&optimization.input_pinned_memory), is_pinned(&optimization.output_pinned_memory)),
        })
    }
}

impl Policy {
    /// Reads the settings of the server.
    ///
    /// Errors: `InvalidArgument` if a value is none of those expected.
    pub(super) fn of(settings: &Settings) -> Result<Self> {
        let policy = settings.get("execution-policy").map_or("DEVICE_BLOCKING", String::as_str);
        let blocks_device = match policy {
            "DEVICE_BLOCKING" => true,
            "BLOCKING" => false,
            other => {
                let text = format!("unexpected execution-policy '{other}', expected 'DEVICE_BLOCKING' or 'BLOCKING'");
                return Err(Error::invalid_argument(text));
            }
        };
        // Whether adjacent inputs may be taken as one makes no difference: all are gathered in pinned memory.
        crate::native::settings::flag(settings, "coalesce-request-input")?;
        Ok(Self {
            blocks_device,
            is_version_compatible: crate::native::settings::flag(settings, "version-compatible")?,
        })
    }
}

/// The deep-learning accelerator that a group runs on, beside its GPU.
pub(super) fn dla_core(group: Option<&ModelInstanceGroup>) -> Option<i32> {
    let devices = group.map_or(&[][..], |group| &group.secondary_devices);
    let device = devices.iter().find(|device| device.kind() == SecondaryDeviceKind::KindNvdla)?;
    Some(i32::try_from(device.device_id).unwrap_or(i32::MAX))
}

/// The file of the plan, below the folder of the version: the one for this compute capability, or the default.
pub(super) fn file_name<'a>(config: &'a ModelConfig, compute_capability: Option<&str>) -> &'a str {
    loading::file_by_capability(config, compute_capability).unwrap_or("model.plan")
}

fn strategy(config: &ModelConfig) -> Result<Strategy> {
    match config.parameters.get(STRATEGY).map(|parameter| parameter.string_value.as_str()) {
        None | Some("STATIC") => Ok(Strategy::Static),
        Some("ON_PROFILE_CHANGE") => Ok(Strategy::OnProfileChange),
        Some(other) => Err(Error::invalid_argument(format!(
            "Invalid value for '{STRATEGY}': '{other}' for model instance '{}'. Supported values are 'STATIC' and 'ON_PROFILE_CHANGE'.",
            config.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use server_core::config::from_text;

    use super::*;

    fn execution(text: &str) -> Result<Execution> {
        Execution::of(&from_text(&format!("name: 'm' {text}")).unwrap())
    }

    fn policy(pairs: &[(&str, &str)]) -> Result<Policy> {
        Policy::of(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn how_instances_run_is_read_from_the_configuration() {
        let usual = Execution { pins: (true, true), ..Execution::default() };
        assert_eq!(execution(""), Ok(usual.clone()));
        let text = "optimization { priority: PRIORITY_MIN input_pinned_memory { enable: false }\n\
                    cuda { busy_wait_events: true output_copy_stream: true } }\n\
                    parameters { key: 'execution_context_allocation_strategy' value { string_value: 'ON_PROFILE_CHANGE' } }";
        let expect = Execution {
            strategy: Strategy::OnProfileChange,
            priority: Priority::Low,
            waits_busily: true,
            has_output_stream: true,
            pins: (false, true),
            ..usual
        };
        assert_eq!(execution(text), Ok(expect));
        let text = "parameters { key: 'execution_context_allocation_strategy' value { string_value: 'USER' } }";
        assert!(
            execution(text).unwrap_err().message.ends_with("Supported values are 'STATIC' and 'ON_PROFILE_CHANGE'.")
        );
    }

    #[test]
    fn settings_of_the_server_are_read_in_tritons_words() {
        assert_eq!(policy(&[]), Ok(Policy { blocks_device: true, is_version_compatible: false }));
        let both = policy(&[("execution-policy", "BLOCKING"), ("version-compatible", "true")]);
        assert_eq!(both, Ok(Policy { blocks_device: false, is_version_compatible: true }));
        assert!(
            policy(&[("execution-policy", "NONE")]).is_err() && policy(&[("coalesce-request-input", "maybe")]).is_err()
        );
    }

    #[test]
    fn the_plan_of_the_compute_capability_comes_before_the_default() {
        let config = from_text(
            "default_model_filename: 'any.plan' cc_model_filenames { key: '8.6' value: 'ampere.plan' }\n\
             instance_group { secondary_devices { kind: KIND_NVDLA device_id: 1 } }",
        );
        let config = config.unwrap();
        let names = [Some("8.6"), Some("9.0"), None].map(|capability| file_name(&config, capability));
        assert_eq!(names, ["ampere.plan", "any.plan", "any.plan"]);
        assert_eq!(file_name(&ModelConfig::default(), None), "model.plan");
        assert_eq!(dla_core(config.instance_group.first()), Some(1));
    }
}
