//! Inputs and outputs of a model that belong to its sequences: controls and states, which no request brings. Pure.

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::DataType,
};
use server_proto::inference::{
    ModelSequenceBatching,
    model_config::SchedulingChoice,
    model_sequence_batching::{State, control::Kind},
};

/// One control input of a configuration.
pub(crate) struct ControlInput<'a> {
    pub(crate) name: &'a str,
    pub(crate) data_type: DataType,
}

/// The controls of a verified configuration.
pub(crate) fn controls(config: &ModelConfig) -> impl Iterator<Item = ControlInput<'_>> {
    let inputs = batching(config).map_or(&[][..], |batching| &batching.control_input);
    inputs.iter().filter_map(|input| {
        let control = input.control.first()?;
        let data_type = match control.kind() {
            Kind::ControlSequenceCorrid => DataType::from_config(control.data_type)?,
            _ if !control.int32_false_true.is_empty() => DataType::Int32,
            _ if !control.fp32_false_true.is_empty() => DataType::Fp32,
            _ => DataType::Bool,
        };
        Some(ControlInput { name: &input.name, data_type })
    })
}

/// The states of a configuration.
pub(crate) fn states(config: &ModelConfig) -> &[State] {
    batching(config).map_or(&[], |batching| &batching.state)
}

/// Whether the server fills that input in.
pub(crate) fn feeds(config: &ModelConfig, input: &str) -> bool {
    let is_control = batching(config).is_some_and(|batching| batching.control_input.iter().any(|it| it.name == input));
    is_control || states(config).iter().any(|state| state.input_name == input)
}

/// Whether that output renews a state.
pub(crate) fn renews(config: &ModelConfig, output: &str) -> bool {
    states(config).iter().any(|state| state.output_name == output)
}

/// Type of a state.
///
/// Errors: the configuration has none.
pub(crate) fn data_type(state: &State) -> Result<DataType> {
    DataType::from_config(state.data_type)
        .ok_or_else(|| Error::invalid_argument(format!("state input '{}' must specify 'data_type'", state.input_name)))
}

fn batching(config: &ModelConfig) -> Option<&ModelSequenceBatching> {
    match &config.scheduling_choice {
        Some(SchedulingChoice::SequenceBatching(batching)) => Some(batching),
        _ => None,
    }
}
