//! One loaded model of sums and differences: the type of its numbers.

use std::sync::Arc;

use server_core::{
    backend::{Health, Instance, Model, Placement},
    config::ModelConfig,
    error::Result,
    tensor::DataType,
};

use super::instance::AddSubInstance;
use crate::expect;

/// One opened model.
#[derive(Default)]
pub(super) struct AddSubModel {
    data_type: Option<DataType>,
}

impl Model for AddSubModel {
    /// Errors: `InvalidArgument` if inputs and outputs are others than the backend has, or of several types, or no numbers.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        expect::counts(config, 2, 2)?;
        let (Some(first), [input, other], [sum, difference]) =
            (config.input.first(), &config.input[..], &config.output[..])
        else {
            return Ok(());
        };
        let data_type = DataType::from_config(first.data_type).filter(|&data_type| AddSubInstance::takes(data_type));
        expect::that(data_type.is_some(), || "expected INPUT0 datatype to be a number".into())?;
        self.data_type = data_type;
        for (place, want, got) in [
            ("first input", "INPUT0", &input.name),
            ("second input", "INPUT1", &other.name),
            ("first output", "OUTPUT0", &sum.name),
            ("second output", "OUTPUT1", &difference.name),
        ] {
            expect::name(place, want, got)?;
        }
        for (name, got) in [("INPUT1", other.data_type), ("OUTPUT0", sum.data_type), ("OUTPUT1", difference.data_type)]
        {
            data_type.map_or(Ok(()), |want| expect::data_type(name, want, got))?;
        }
        Ok(())
    }

    fn instance(&self, _placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        Ok(Box::new(AddSubInstance::new(self.data_type.unwrap_or(DataType::Int32))))
    }
}
