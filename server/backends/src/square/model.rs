//! One loaded square model.

use std::sync::Arc;

use server_core::{
    backend::{Health, Instance, Model, Placement},
    config::ModelConfig,
    error::Result,
    tensor::DataType,
};

use super::{custom::Custom, instance::SquareInstance};
use crate::expect;

/// One opened square model.
#[derive(Default)]
pub(super) struct SquareModel {
    custom: Custom,
}

impl Model for SquareModel {
    /// Errors: `InvalidArgument` if inputs and outputs are others than the backend has.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        expect::counts(config, 1, 1)?;
        let ([input], [output]) = (&config.input[..], &config.output[..]) else { return Ok(()) };
        expect::name("first input", "IN", &input.name)?;
        expect::name("first output", "OUT", &output.name)?;
        expect::one_value("IN", &input.dims)?;
        expect::one_value("OUT", &output.dims)?;
        expect::data_type("IN", DataType::Int32, input.data_type)?;
        expect::data_type("OUT", DataType::Int32, output.data_type)?;
        self.custom = Custom::of(config);
        Ok(())
    }

    fn instance(&self, placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        Ok(Box::new(SquareInstance::start(&placement.instance_name, self.custom)?))
    }
}
