//! Inputs of the model that the server computes from a batch: `batch_input` of a configuration.

use server_core::{
    batch::Pending,
    batching::batch_input,
    config::ModelConfig,
    error::{Error, Result},
    tensor::{DataType, Name, Shape},
};
use server_proto::inference::batch_input::Kind;

use super::{
    input::{Fed, InputError},
    scratch::Scratch,
};

/// One `batch_input`.
pub(super) struct ComputedInput {
    kind: Kind,
    data_type: DataType,
    source: Name,
    /// Inputs of the model that receive it.
    pub(super) targets: Vec<String>,
    bytes: Scratch,
}

impl ComputedInput {
    /// Those of a verified configuration.
    pub(super) fn all(config: &ModelConfig) -> Result<Vec<Self>> {
        let one = |input: &server_proto::inference::BatchInput| {
            let unverified = || Error::internal(format!("a batch_input of model '{}' is incomplete", config.name));
            Ok(Self {
                kind: Kind::try_from(input.kind).map_err(|_| unverified())?,
                data_type: DataType::from_config(input.data_type).ok_or_else(unverified)?,
                source: input.source_input.first().ok_or_else(unverified)?.as_str().into(),
                targets: input.target_name.clone(),
                bytes: Scratch::default(),
            })
        };
        config.batch_input.iter().map(one).collect()
    }

    /// Its value for these requests, the same for each target.
    pub(super) fn feed(&mut self, requests: &[Pending]) -> std::result::Result<Fed<'_>, InputError> {
        let (shape, bytes) = self.compute(requests)?;
        let kept = self.bytes.bytes(bytes.len());
        kept.copy_from_slice(&bytes);
        Ok(Fed::Numbers { data_type: self.data_type, shape, bytes: kept })
    }

    /// Shape and elements of its value for these requests.
    pub(super) fn compute(&self, requests: &[Pending]) -> std::result::Result<(Shape, Vec<u8>), InputError> {
        let missing = || {
            let text =
                format!("input '{}' is missing, from which '{}' is computed", self.source, self.targets.join(", "));
            InputError::Failed(Error::invalid_argument(text))
        };
        let source = |pending: &'_ Pending| {
            let input = pending.request.inputs.iter().find(|input| input.name == self.source);
            input.map(|input| input.shape.clone()).ok_or_else(missing)
        };
        let sources = requests.iter().map(source).collect::<std::result::Result<Vec<_>, _>>()?;
        batch_input::compute(self.kind, self.data_type, sources.iter())
            .map_err(|error| InputError::Failed(Error::internal(format!("input '{}': {error}", self.source))))
    }
}
