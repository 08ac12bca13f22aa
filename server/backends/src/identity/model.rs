//! One loaded identity model: which input becomes which output, and how long it takes.

use std::{sync::Arc, thread, time::Duration};

use server_core::{
    backend::{Health, Instance, Model, Placement},
    config::ModelConfig,
    error::{Error, Result},
    stats::CustomCounter,
    tensor::{DataType, Name, Shape},
};

use super::{input_bytes::InputBytes, instance::IdentityInstance, pair::Pair};
use crate::expect;

/// One opened identity model.
#[derive(Default)]
pub(super) struct IdentityModel {
    pairs: Vec<Pair>,
    batches: bool,
    delay: Duration,
    delay_multiplier: u64,
    input_bytes: InputBytes,
}

impl Model for IdentityModel {
    /// Pairs inputs with outputs, and waits `creation_delay_sec`.
    ///
    /// Errors: `InvalidArgument` if a name is not of the form `INPUT<k>` or `OUTPUT<k>`, an output has no input, or the
    /// two differ in type.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        let mut inputs = Vec::new();
        for input in &config.input {
            inputs.push((index(&input.name, "input", "INPUT")?, input));
        }
        let mut pairs = Vec::new();
        for output in &config.output {
            let index = index(&output.name, "output", "OUTPUT")?;
            let input = inputs.iter().find(|(own, _)| *own == index).map(|(_, input)| *input);
            let input = input.ok_or_else(|| {
                Error::invalid_argument(format!("output '{}' of model '{}' has no input", output.name, config.name))
            })?;
            let data_type = DataType::from_config(output.data_type).filter(|_| input.data_type == output.data_type);
            let data_type = data_type.ok_or_else(|| {
                let (input, output) = (&input.name, &output.name);
                Error::invalid_argument(format!("'{input}' and '{output}' of '{}' differ in type", config.name))
            })?;
            pairs.push(Pair {
                input: Name::from(input.name.as_str()),
                output: Name::from(output.name.as_str()),
                data_type,
                dims: Shape::from_slice(&output.dims),
                is_reshaped: output.reshape.is_some() && output.dims.iter().all(|dim| *dim >= 0),
            });
        }
        thread::sleep(Duration::from_secs(expect::number(config, "creation_delay_sec")?));
        *self = Self {
            pairs,
            batches: config.max_batch_size > 0,
            delay: Duration::from_millis(expect::number(config, "execute_delay_ms")?),
            delay_multiplier: expect::number(config, "instance_wise_delay_multiplier")?,
            input_bytes: InputBytes::default(),
        };
        Ok(())
    }

    fn counters(&self) -> Vec<CustomCounter> {
        vec![CustomCounter {
            name: "input_byte_size_counter",
            help: "Cumulative input byte size of all requests received by the model",
            value: self.input_bytes.total(),
        }]
    }

    fn instance(&self, placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        let number = placement.instance_name.rsplit('_').next().and_then(|number| number.parse::<u64>().ok());
        let times = self.delay_multiplier.saturating_mul(number.unwrap_or(0)).max(1);
        let delay = self.delay.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX));
        Ok(Box::new(IdentityInstance::new(self.pairs.clone(), self.batches, delay, self.input_bytes.cell())))
    }
}

fn index(name: &str, side: &str, prefix: &str) -> Result<u32> {
    name.strip_prefix(prefix).and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        Error::invalid_argument(format!("expected {side} name to follow {prefix}<index> pattern, got '{name}'"))
    })
}
