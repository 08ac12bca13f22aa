//! What a loaded model version takes and gives, compiled once from its configuration so that requests are checked
//! without touching protobuf.

use std::collections::BTreeMap;

use server_proto::inference::{ModelConfig, ModelInput, ModelOutput, model_config::SchedulingChoice};

use crate::{
    error::{Error, Result},
    footprint::Footprint,
    request::VersionChoice,
    tensor::{DataType, Name, Shape},
};

/// The protocol extensions the server speaks, as its metadata lists them.
pub const EXTENSIONS: [&str; 13] = [
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
];

/// Name of a class, in the encoding of its file.
pub type Label = Vec<u8>;

/// Names of classes per output, one per index, as read from its `label_filename`.
pub type Labels = BTreeMap<String, Vec<Label>>;

/// One input of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// Name in the configuration.
    pub name: Name,
    /// Element type.
    pub data_type: DataType,
    /// Extents without the batch dimension; `-1` is any.
    pub dims: Shape,
    /// What the runtime is given instead of `dims`, without the batch dimension.
    pub reshape: Option<Shape>,
    /// May be absent from a request.
    pub is_optional: bool,
    /// Requests of different shapes may share a batch.
    pub allow_ragged_batch: bool,
    /// `dims` is only what metadata shows: any number of dimensions is taken.
    pub takes_any_shape: bool,
}

/// One output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Name in the configuration.
    pub name: Name,
    /// Element type.
    pub data_type: DataType,
    /// Extents without the batch dimension; `-1` is any.
    pub dims: Shape,
    /// What the runtime gives instead of `dims`, without the batch dimension.
    pub reshape: Option<Shape>,
    /// Names of classes, one per index; empty without `label_filename`.
    pub labels: Vec<Label>,
}

/// What a model version takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name on the wire.
    pub model_name: Name,
    /// Concrete version.
    pub version: u64,
    /// 0: no batch dimension. Else: inputs and outputs carry one, of at most this extent.
    pub max_batch_size: u32,
    /// In the order of the configuration.
    pub inputs: Vec<InputSpec>,
    /// In the order of the configuration.
    pub outputs: Vec<OutputSpec>,
    /// Answers any number of responses per request.
    pub is_decoupled: bool,
    /// Its scheduler adds inputs that say where in a sequence a request stands: a request may have none of its own.
    pub has_sequences: bool,
}

impl Interface {
    /// What a check of a request against it touches.
    pub fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
        footprint.add(&*self.model_name);
        for input in &self.inputs {
            footprint.add(input);
            footprint.add(&*input.name);
        }
        for output in &self.outputs {
            footprint.add(output);
            footprint.add(&*output.name);
        }
    }
}

/// What metadata endpoints show of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMetadata {
    /// Name on the wire.
    pub name: Name,
    /// Ready versions, ascending; only the one asked for if one was.
    pub versions: Vec<u64>,
    /// `platform` of the configuration, or its backend's name.
    pub platform: String,
    /// Name, type and full shape (`-1` in front when batching) of each input.
    pub inputs: Vec<TensorMetadata>,
    /// The same of each output.
    pub outputs: Vec<TensorMetadata>,
}

/// Name, type and full shape of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMetadata {
    /// Name in the configuration.
    pub name: Name,
    /// Element type.
    pub data_type: DataType,
    /// Full shape; `-1` is any.
    pub shape: Shape,
}

/// A model and a version as an endpoint names them.
#[derive(Debug, Clone, Copy)]
pub struct ModelId<'a> {
    /// Name on the wire.
    pub name: &'a str,
    /// Version asked for.
    pub version: VersionChoice,
}

// === impl Interface ===

impl Interface {
    /// Compiles a completed, verified configuration. `labels` holds the content of the label files the outputs name.
    ///
    /// Errors: `Internal` for what verification does not let through: a tensor without a type, a negative batch size.
    pub fn new(config: &ModelConfig, version: u64, mut labels: Labels) -> Result<Self> {
        let max_batch_size = u32::try_from(config.max_batch_size).map_err(|_| {
            Error::internal(format!("model '{}' has max_batch_size {}", config.name, config.max_batch_size))
        })?;
        let inputs = config.input.iter().map(|input| InputSpec::new(config, input)).collect::<Result<_>>()?;
        let outputs = config
            .output
            .iter()
            .map(|output| OutputSpec::new(config, output, labels.remove(&output.name).unwrap_or_default()))
            .collect::<Result<_>>()?;
        Ok(Self {
            model_name: config.name.as_str().into(),
            version,
            max_batch_size,
            inputs,
            outputs,
            is_decoupled: config.model_transaction_policy.as_ref().is_some_and(|policy| policy.decoupled),
            has_sequences: matches!(config.scheduling_choice, Some(SchedulingChoice::SequenceBatching(_))),
        })
    }

    /// Takes the inputs of these names in any shape, whatever the configuration shows.
    #[must_use]
    pub fn with_any_shape(mut self, inputs: &[String]) -> Self {
        for input in &mut self.inputs {
            input.takes_any_shape |= inputs.iter().any(|name| *name == *input.name);
        }
        self
    }

    /// What metadata endpoints show, given the platform and the versions that are ready.
    pub fn metadata(&self, platform: String, versions: Vec<u64>) -> ModelMetadata {
        let tensor = |name: &Name, data_type, dims: &[i64]| TensorMetadata {
            name: name.clone(),
            data_type,
            shape: self.full_shape(dims),
        };
        ModelMetadata {
            name: self.model_name.clone(),
            versions,
            platform,
            inputs: self.inputs.iter().map(|input| tensor(&input.name, input.data_type, &input.dims)).collect(),
            outputs: self.outputs.iter().map(|output| tensor(&output.name, output.data_type, &output.dims)).collect(),
        }
    }

    /// Whether a request that fits the one fits the other as it stands, checked and reshaped.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.max_batch_size, self.is_decoupled, self.has_sequences)
            == (other.max_batch_size, other.is_decoupled, other.has_sequences)
            && (&self.inputs, &self.outputs) == (&other.inputs, &other.outputs)
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&InputSpec> {
        self.inputs.iter().find(|input| &*input.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&OutputSpec> {
        self.outputs.iter().find(|output| &*output.name == name)
    }

    /// The input of that name, looked for first at `position`: callers mostly keep the configuration's order.
    pub fn input_near(&self, position: usize, name: &str) -> Option<&InputSpec> {
        self.inputs.get(position).filter(|input| &*input.name == name).or_else(|| self.input(name))
    }

    /// The output of that name, looked for first at `position`.
    pub fn output_near(&self, position: usize, name: &str) -> Option<&OutputSpec> {
        self.outputs.get(position).filter(|output| &*output.name == name).or_else(|| self.output(name))
    }

    /// `dims` with the batch dimension in front, if the model has one: `-1`, any.
    pub fn full_shape(&self, dims: &[i64]) -> Shape {
        let mut shape = Shape::new();
        if self.max_batch_size > 0 {
            shape.push(-1);
        }
        shape.extend_from_slice(dims);
        shape
    }
}

impl InputSpec {
    fn new(config: &ModelConfig, input: &ModelInput) -> Result<Self> {
        Ok(Self {
            name: input.name.as_str().into(),
            data_type: data_type(config, &input.name, input.data_type)?,
            dims: Shape::from_slice(&input.dims),
            reshape: input.reshape.as_ref().map(|reshape| Shape::from_slice(&reshape.shape)),
            is_optional: input.optional,
            allow_ragged_batch: input.allow_ragged_batch,
            takes_any_shape: false,
        })
    }
}

impl OutputSpec {
    fn new(config: &ModelConfig, output: &ModelOutput, labels: Vec<Label>) -> Result<Self> {
        Ok(Self {
            name: output.name.as_str().into(),
            data_type: data_type(config, &output.name, output.data_type)?,
            dims: Shape::from_slice(&output.dims),
            reshape: output.reshape.as_ref().map(|reshape| Shape::from_slice(&reshape.shape)),
            labels,
        })
    }
}

fn data_type(config: &ModelConfig, tensor: &str, number: i32) -> Result<DataType> {
    DataType::from_config(number)
        .ok_or_else(|| Error::internal(format!("tensor '{tensor}' of model '{}' has no data type", config.name)))
}

#[cfg(test)]
mod tests {
    use server_proto::inference::{ModelTensorReshape, ModelTransactionPolicy};

    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            name: "digits".into(),
            max_batch_size: 8,
            input: vec![ModelInput {
                name: "pixels".into(),
                data_type: DataType::Fp32.to_config() as i32,
                dims: vec![1],
                reshape: Some(ModelTensorReshape { shape: vec![] }),
                optional: true,
                allow_ragged_batch: true,
                ..Default::default()
            }],
            output: vec![ModelOutput {
                name: "digit".into(),
                data_type: DataType::Bytes.to_config() as i32,
                dims: vec![-1, 2],
                ..Default::default()
            }],
            model_transaction_policy: Some(ModelTransactionPolicy { decoupled: true }),
            ..Default::default()
        }
    }

    #[test]
    fn a_configuration_becomes_an_interface() {
        let labels = Labels::from([("digit".into(), vec!["zero".into(), "one".into()]), ("other".into(), vec![])]);
        let interface = Interface::new(&config(), 3, labels).unwrap();
        assert_eq!((&*interface.model_name, interface.version, interface.max_batch_size), ("digits", 3, 8));
        assert!(interface.is_decoupled);
        let input = interface.input("pixels").unwrap();
        assert_eq!(
            (input.data_type, &input.dims[..], input.reshape.as_deref()),
            (DataType::Fp32, &[1][..], Some(&[][..]))
        );
        assert!(input.is_optional && input.allow_ragged_batch);
        assert_eq!(interface.output("digit").unwrap().labels, [b"zero".to_vec(), b"one".to_vec()]);
        assert_eq!(interface.input("digit"), None);
        assert_eq!(interface.output("pixels"), None);
    }

    #[test]
    fn metadata_shows_full_shapes_and_no_reshape() {
        let interface = Interface::new(&config(), 3, Labels::new()).unwrap();
        let metadata = interface.metadata("onnxruntime_onnx".into(), vec![1, 3]);
        assert_eq!(
            (&*metadata.name, &metadata.versions[..], &*metadata.platform),
            ("digits", &[1, 3][..], "onnxruntime_onnx")
        );
        assert_eq!(metadata.inputs[0].shape[..], [-1, 1]);
        assert_eq!(metadata.outputs[0].shape[..], [-1, -1, 2]);
        assert_eq!(metadata.outputs[0].data_type, DataType::Bytes);

        let unbatched = Interface::new(&ModelConfig { max_batch_size: 0, ..config() }, 1, Labels::new()).unwrap();
        assert_eq!(unbatched.metadata(String::new(), vec![]).outputs[0].shape[..], [-1, 2]);
    }

    #[test]
    fn a_tensor_without_a_type_is_refused() {
        let mut config = config();
        config.output[0].data_type = 0;
        let error = Interface::new(&config, 1, Labels::new()).unwrap_err();
        assert_eq!(error.message, "tensor 'digit' of model 'digits' has no data type");
    }
}
