//! What an instance feeds and takes: inputs and outputs of a verified configuration, and those that the server adds.

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::{DataType, Name, Shape},
};
use server_proto::inference::{ModelInput, ModelOutput};

use super::{
    computed::ComputedInput,
    input::Input,
    output::{Output, Restore},
    sequence,
    signature::{Offered, Signature},
};

/// The tensors of one instance. Runs count inputs and outputs by their places here.
pub(crate) struct Tensors {
    pub(super) inputs: Vec<Input>,
    /// Counted after the inputs, one number for each target.
    pub(super) computed: Vec<ComputedInput>,
    pub(super) outputs: Vec<Output>,
}

impl Tensors {
    /// Those of a configuration that was [verified](super::verify) against the signature.
    ///
    /// Errors: a type is missing in the configuration.
    pub(crate) fn of(config: &ModelConfig, signature: &Signature) -> Result<Self> {
        let (inputs, outputs) = (inputs(config, signature)?, outputs(config, signature)?);
        Ok(Self { inputs, computed: ComputedInput::all(config)?, outputs })
    }

    /// Names of the inputs, in the order in which runs count them.
    pub(crate) fn input_names(&self) -> impl Iterator<Item = &str> {
        let targets = self.computed.iter().flat_map(|input| &input.targets).map(String::as_str);
        self.inputs.iter().map(|input| &*input.name).chain(targets)
    }

    /// Names of the outputs, in the order in which runs count them.
    pub(crate) fn output_names(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|output| &*output.name)
    }
}

/// Those that requests bring, those of sequences, and states that are no controls.
fn inputs(config: &ModelConfig, signature: &Signature) -> Result<Vec<Input>> {
    let batches = config.max_batch_size > 0;
    let input = |input: &ModelInput| {
        let rank = signature.input(&input.name).and_then(Offered::rank);
        Ok(Input {
            name: Name::from(input.name.as_str()),
            data_type: data_type(&input.name, input.data_type)?,
            is_scalar: rank == Some(0),
            is_optional: input.optional,
            is_ragged: batches && input.allow_ragged_batch,
        })
    };
    let mut inputs: Vec<Input> = config.input.iter().map(input).collect::<Result<_>>()?;
    let by_server = |name: &str, data_type| Input {
        name: Name::from(name),
        data_type,
        is_scalar: signature.input(name).and_then(Offered::rank) == Some(0),
        is_optional: false,
        is_ragged: false,
    };
    inputs.extend(sequence::controls(config).map(|control| by_server(control.name, control.data_type)));
    for state in sequence::states(config) {
        if inputs.iter().all(|input| *input.name != *state.input_name) {
            inputs.push(by_server(&state.input_name, sequence::data_type(state)?));
        }
    }
    Ok(inputs)
}

fn outputs(config: &ModelConfig, signature: &Signature) -> Result<Vec<Output>> {
    let output = |output: &ModelOutput| {
        let rank = signature.output(&output.name).and_then(Offered::rank);
        let by_input = config.batch_output.iter().find(|batch| batch.target_name.contains(&output.name));
        if let Some(source) = by_input.and_then(|batch| batch.source_input.first()) {
            let (name, dims) = (Name::from(output.name.as_str()), Shape::from_slice(&output.dims));
            let restore = Restore::ByInput { source: source.as_str().into(), dims };
            let data_type = data_type(&output.name, output.data_type)?;
            return Ok(Output { name, data_type, restore, is_answered: true, renews_state: false });
        }
        let restore = match &output.reshape {
            Some(reshape) if rank != Some(0) => {
                Restore::Reshape { reshape: Shape::from_slice(&reshape.shape), dims: Shape::from_slice(&output.dims) }
            }
            _ if rank.is_some_and(|rank| rank > 0) => Restore::Same,
            // What has any rank may turn out a scalar.
            _ => Restore::Scalar { dims: Shape::from_slice(&output.dims), is_declared: rank == Some(0) },
        };
        let name = Name::from(output.name.as_str());
        let renews_state = sequence::renews(config, &output.name);
        let data_type = data_type(&output.name, output.data_type)?;
        Ok(Output { name, data_type, restore, is_answered: true, renews_state })
    };
    let mut outputs: Vec<Output> = config.output.iter().map(output).collect::<Result<_>>()?;
    for state in sequence::states(config) {
        if outputs.iter().all(|output| *output.name != *state.output_name) {
            let (name, data_type) = (Name::from(state.output_name.as_str()), sequence::data_type(state)?);
            let restore = Restore::Same;
            outputs.push(Output { name, data_type, restore, is_answered: false, renews_state: true });
        }
    }
    Ok(outputs)
}

fn data_type(name: &str, number: i32) -> Result<DataType> {
    DataType::from_config(number).ok_or_else(|| Error::invalid_argument(format!("'{name}' must specify 'data_type'")))
}
