//! One loaded repeat model: nothing but its signature, which is always the same.

use std::sync::Arc;

use server_core::{
    backend::{Health, Instance, Model, Placement},
    config::ModelConfig,
    error::Result,
    tensor::{DataType, shape_text},
};

use super::instance::{RepeatInstance, shapes_differ};
use crate::expect;

/// One opened repeat model.
pub(super) struct RepeatModel;

impl Model for RepeatModel {
    /// Errors: `InvalidArgument` if the model batches, or inputs and outputs are others than the backend has.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        expect::that(config.max_batch_size == 0, || {
            "repeat backend only supports models with max_batch_size == 0".into()
        })?;
        expect::counts(config, 3, 2)?;
        let ([values, delay, wait], [out, idx]) = (&config.input[..], &config.output[..]) else { return Ok(()) };
        for (place, want, got) in [
            ("first input", "IN", &values.name),
            ("second input", "DELAY", &delay.name),
            ("third input", "WAIT", &wait.name),
            ("first output", "OUT", &out.name),
            ("second output", "IDX", &idx.name),
        ] {
            expect::name(place, want, got)?;
        }
        expect::that(values.dims.len() == 1, || {
            format!("expected IN shape to have one dimension, got {}", shape_text(&values.dims))
        })?;
        expect::that(values.dims == delay.dims, || shapes_differ(&values.dims, &delay.dims))?;
        for (name, dims) in [("WAIT", &wait.dims), ("OUT", &out.dims), ("IDX", &idx.dims)] {
            expect::one_value(name, dims)?;
        }
        for (name, want, got) in [
            ("IN", DataType::Int32, values.data_type),
            ("DELAY", DataType::Uint32, delay.data_type),
            ("WAIT", DataType::Uint32, wait.data_type),
            ("OUT", DataType::Int32, out.data_type),
            ("IDX", DataType::Uint32, idx.data_type),
        ] {
            expect::data_type(name, want, got)?;
        }
        Ok(())
    }

    fn instance(&self, placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        Ok(Box::new(RepeatInstance::start(&placement.instance_name)?))
    }
}
