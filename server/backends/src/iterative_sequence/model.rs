//! One loaded model that counts down: nothing but its signature, which is always the same.

use std::sync::Arc;

use server_core::{
    backend::{Health, Instance, Model, Placement},
    config::ModelConfig,
    error::Result,
    tensor::DataType,
};
use server_proto::inference::model_config::SchedulingChoice;

use super::instance::CountDownInstance;
use crate::expect;

/// One opened model.
pub(super) struct IterativeSequenceModel;

impl Model for IterativeSequenceModel {
    /// Errors: `InvalidArgument` if the model is not decoupled or its sequences are not iterative, or inputs and outputs are
    /// others than the backend has.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        let is_iterative = match &config.scheduling_choice {
            Some(SchedulingChoice::SequenceBatching(batching)) => batching.iterative_sequence,
            _ => false,
        };
        expect::that(is_iterative, || {
            format!("model '{}' must use sequence batching with iterative_sequence: true", config.name)
        })?;
        expect::that(config.model_transaction_policy.is_some_and(|policy| policy.decoupled), || {
            format!("model '{}' must use the decoupled transaction policy", config.name)
        })?;
        expect::counts(config, 1, 1)?;
        let ([input], [output]) = (&config.input[..], &config.output[..]) else { return Ok(()) };
        expect::name("first input", "INPUT", &input.name)?;
        expect::name("first output", "OUTPUT", &output.name)?;
        expect::one_value("INPUT", &input.dims)?;
        expect::one_value("OUTPUT", &output.dims)?;
        expect::data_type("INPUT", DataType::Int32, input.data_type)?;
        expect::data_type("OUTPUT", DataType::Int32, output.data_type)
    }

    fn instance(&self, placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        Ok(Box::new(CountDownInstance::start(&placement.instance_name)?))
    }
}
