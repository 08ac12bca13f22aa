//! One loaded model of sums: what it is called by and how long it takes.

use std::{sync::Arc, time::Duration};

use server_core::{
    backend::{Health, Instance, Model, Placement},
    config::ModelConfig,
    error::{Error, Result},
    tensor::DataType,
};
use server_proto::inference::model_config::SchedulingChoice;

use super::instance::{Identity, SequenceInstance};
use crate::expect;

/// One opened model of sums.
pub(crate) struct SequenceModel {
    identity: Identity,
    delay: Duration,
}

impl SequenceModel {
    /// `identity` says what tells sequences apart.
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, delay: Duration::ZERO }
    }
}

impl Model for SequenceModel {
    /// Errors: `InvalidArgument` if the model does not schedule sequences, inputs and outputs are others than the backend
    /// has, or a control it reads is missing.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        let Some(SchedulingChoice::SequenceBatching(batching)) = &config.scheduling_choice else {
            let text = format!("model '{}' must use sequence batching", config.name);
            return Err(Error::invalid_argument(text));
        };
        expect::counts(config, 1, 1)?;
        let ([input], [output]) = (&config.input[..], &config.output[..]) else { return Ok(()) };
        expect::name("input", "INPUT", &input.name)?;
        expect::name("output", "OUTPUT", &output.name)?;
        expect::data_type("INPUT", DataType::Int32, input.data_type)?;
        expect::data_type("OUTPUT", DataType::Int32, output.data_type)?;
        expect::that(input.dims == output.dims, || "expected INPUT and OUTPUT shape to match".into())?;
        let needed: &[&str] = match self.identity {
            Identity::Row => &["START", "READY"],
            Identity::CorrelationId => &["START", "READY", "CORRID"],
        };
        for name in needed {
            let is_there = batching.control_input.iter().any(|input| input.name == *name);
            expect::that(is_there, || format!("expected a control input named {name}, there is none"))?;
        }
        self.delay = Duration::from_millis(expect::number(config, "execute_delay_ms")?);
        Ok(())
    }

    fn instance(&self, _placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        Ok(Box::new(SequenceInstance::new(self.identity, self.delay)))
    }
}
