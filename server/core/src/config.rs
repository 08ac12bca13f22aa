//! Model configurations: text and JSON in and out, completed, normalised, verified. The order of a load is
//! [`from_text`] (or [`from_json`]), [`complete`], the backend's own completion, [`normalize`], [`verify`].
//! [`unsupported_fields`] lists what has no effect. Nothing here reads a file or asks the machine: callers pass both in.

mod complete;
mod frameworks;
mod gpu_fallback;
mod json;
mod model_metrics;
mod normalize;
mod parse_error;
mod problem;
mod reflect;
mod settings;
mod text;
mod unsupported_fields;
mod verify;

pub use server_proto::inference::{
    ModelConfig, ModelInstanceGroup, model_config::SchedulingChoice, model_instance_group::Kind as InstanceKind,
};

pub use self::{
    complete::{complete, is_ensemble, remove_repeated_outputs},
    frameworks::backend_name,
    gpu_fallback::run_gpu_groups_on_cpu,
    json::{from_json, to_json},
    model_metrics::{first_response_limits, fixed_families},
    normalize::{Machine, normalize},
    parse_error::ParseError,
    problem::{Problem, problems_error},
    settings::{with_settings_of, without_settings},
    text::{from_text, to_text},
    unsupported_fields::unsupported_fields,
    verify::{verify, verify_before_opening, verify_override},
};
