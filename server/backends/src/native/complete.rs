//! What a configuration leaves open and the model file knows: inputs, outputs, and whether the model batches. Pure: a
//! signature and a configuration in, the same configuration completed.
//!
//! Source: Triton model configuration, "Auto-Generated Model Configuration".

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::shape_text,
};
use server_proto::inference::{
    ModelDynamicBatching, ModelInput, ModelOutput, ModelTensorReshape, model_config::SchedulingChoice,
};

use super::{
    sequence,
    signature::{Kind, Offered, Signature},
};

/// Whether the configuration says everything [`complete`] could say.
pub(crate) fn is_complete(config: &ModelConfig) -> bool {
    !has_no_input(config) && !config.output.is_empty()
}

/// Fills in inputs or outputs, each side only if it is absent, and batching.
///
/// Batching: if every first dimension is `-1`, a `max_batch_size` of 0 becomes `default_max_batch_size`, and a model that
/// batches without a scheduler gets the dynamic one. A side that was written with all its dimensions says no to that.
///
/// Returns the inputs that take any shape, for neither side says one.
/// Errors: `InvalidArgument` if the configuration batches and the model cannot; `Unsupported` if the model has nothing
/// that a request can carry.
pub(crate) fn complete(
    config: &mut ModelConfig,
    model: &Signature,
    default_max_batch_size: i32,
) -> Result<Vec<String>> {
    let mut of_any_shape = Vec::new();
    if is_complete(config) {
        return Ok(of_any_shape);
    }
    if let Some((tensor, shape)) = model.fixed_rows().filter(|_| config.max_batch_size > 0) {
        return Err(Error::invalid_argument(format!(
            "autofill failed for model '{}': model does not support batching while non-zero max_batch_size is \
             specified: the first dimension of tensor '{tensor}' must be -1, its shape is {}",
            config.name,
            shape_text(shape)
        )));
    }
    if config.max_batch_size == 0 && model.can_batch() && !is_written_in_full(config, model) {
        config.max_batch_size = default_max_batch_size.max(0);
    }
    if config.max_batch_size > 1 && config.scheduling_choice.is_none() {
        config.scheduling_choice = Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching::default()));
    }
    let batches = config.max_batch_size > 0;
    if has_no_input(config) {
        let by_caller = || model.inputs.iter().filter(|input| !sequence::feeds(config, &input.name));
        let inputs = by_caller().map(|input| describe_input(input, batches)).collect::<Result<_>>()?;
        let any_rank = by_caller().filter(|input| matches!(input.kind, Kind::AnyRank(_)));
        of_any_shape.extend(any_rank.map(|input| input.name.clone()));
        config.input = inputs;
    }
    if config.output.is_empty() {
        let is_answered = |output: &&Offered| output.tensor().is_ok() && !sequence::renews(config, &output.name);
        let tensors = model.outputs.iter().filter(is_answered);
        config.output = tensors.map(|output| describe_output(output, batches)).collect::<Result<_>>()?;
        if config.output.is_empty() {
            model.outputs.iter().try_for_each(|output| output.tensor().map(drop))?;
        }
    }
    Ok(of_any_shape)
}

fn has_no_input(config: &ModelConfig) -> bool {
    config.input.is_empty() && config.batch_input.is_empty()
}

/// Whether the side that is there has as many dimensions as the model, so that none is left for the batch.
fn is_written_in_full(config: &ModelConfig, model: &Signature) -> bool {
    let rank = |offered: Option<&Offered>| offered.and_then(Offered::rank);
    let inputs = config.input.iter().map(|input| (rank(model.input(&input.name)), input.dims.len()));
    let outputs = config.output.iter().map(|output| (rank(model.output(&output.name)), output.dims.len()));
    inputs.chain(outputs).any(|(offered, written)| offered == Some(written))
}

fn describe_input(offered: &Offered, batches: bool) -> Result<ModelInput> {
    let (data_type, dims, reshape) = describe(offered, batches)?;
    Ok(ModelInput { name: offered.name.clone(), data_type, dims, reshape, ..ModelInput::default() })
}

fn describe_output(offered: &Offered, batches: bool) -> Result<ModelOutput> {
    let (data_type, dims, reshape) = describe(offered, batches)?;
    Ok(ModelOutput { name: offered.name.clone(), data_type, dims, reshape, ..ModelOutput::default() })
}

/// A tensor without dimensions of its own is `[1]` to clients, and one of any rank is shown as a list.
fn describe(offered: &Offered, batches: bool) -> Result<(i32, Vec<i64>, Option<ModelTensorReshape>)> {
    let (data_type, shape) = offered.tensor()?;
    let Some(shape) = shape else { return Ok((data_type.to_config() as i32, vec![-1], None)) };
    let dims = shape[usize::from(batches)..].to_vec();
    let reshape = (dims.is_empty() && batches).then(ModelTensorReshape::default);
    let dims = if dims.is_empty() { vec![1] } else { dims };
    Ok((data_type.to_config() as i32, dims, reshape))
}

#[cfg(test)]
mod tests {
    use server_core::tensor::{DataType, Shape};

    use super::*;

    fn model(inputs: &[&[i64]], outputs: &[&[i64]]) -> Signature {
        let offered = |prefix: &str, shapes: &[&[i64]]| {
            let tensors = shapes.iter().enumerate().map(|(index, shape)| Offered {
                name: format!("{prefix}{index}"),
                kind: Kind::Tensor(DataType::Fp32, Shape::from_slice(shape)),
            });
            tensors.collect()
        };
        Signature { inputs: offered("IN", inputs), outputs: offered("OUT", outputs), initializers: Vec::new() }
    }

    fn input(name: &str, dims: &[i64]) -> ModelInput {
        ModelInput { name: name.into(), data_type: 11, dims: dims.to_vec(), ..ModelInput::default() }
    }

    fn output(name: &str, dims: &[i64]) -> ModelOutput {
        ModelOutput { name: name.into(), data_type: 11, dims: dims.to_vec(), ..ModelOutput::default() }
    }

    #[track_caller]
    fn completed(model: &Signature, config: ModelConfig) -> ModelConfig {
        let mut config = config;
        complete(&mut config, model, 4).unwrap();
        config
    }

    fn has_dynamic_batching(config: &ModelConfig) -> bool {
        matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_)))
    }

    #[test]
    fn a_model_whose_first_dimensions_are_open_batches() {
        let config = completed(&model(&[&[-1, 3]], &[&[-1]]), ModelConfig::default());
        assert_eq!(config.max_batch_size, 4);
        assert!(has_dynamic_batching(&config));
        assert_eq!(config.input, [input("IN0", &[3])]);
        let reshape = Some(ModelTensorReshape::default());
        assert_eq!(config.output, [ModelOutput { reshape, ..output("OUT0", &[1]) }]);
    }

    #[test]
    fn one_fixed_dimension_in_front_and_it_does_not() {
        let config = completed(&model(&[&[-1, 3]], &[&[1, 3], &[]]), ModelConfig::default());
        assert_eq!(config.max_batch_size, 0);
        assert_eq!(config.scheduling_choice, None);
        assert_eq!(config.input, [input("IN0", &[-1, 3])]);
        assert_eq!(config.output, [output("OUT0", &[1, 3]), output("OUT1", &[1])]);
    }

    #[test]
    fn a_tensor_of_any_rank_is_a_list_and_says_nothing_about_batching() {
        let mut model = model(&[&[-1, 3], &[-1]], &[&[-1, 3]]);
        model.inputs[1].kind = Kind::AnyRank(DataType::Fp32);
        let config = completed(&model, ModelConfig::default());
        assert_eq!((config.max_batch_size, &*config.input[1].dims), (0, [-1].as_slice()));
        let config = completed(&model, ModelConfig { max_batch_size: 2, ..ModelConfig::default() });
        assert_eq!((&*config.input[0].dims, &*config.input[1].dims), ([3].as_slice(), [-1].as_slice()));
    }

    #[test]
    fn what_is_written_stays() {
        let written = ModelConfig { input: vec![input("IN0", &[-1])], max_batch_size: 2, ..ModelConfig::default() };
        let config = completed(&model(&[&[-1, 3]], &[&[-1, 5]]), written);
        assert_eq!((config.max_batch_size, has_dynamic_batching(&config)), (2, true));
        assert_eq!(config.input, [input("IN0", &[-1])]);
        assert_eq!(config.output, [output("OUT0", &[5])]);

        let whole = ModelConfig { output: vec![output("OUT0", &[-1, 5])], ..config.clone() };
        assert_eq!(completed(&model(&[&[-1, 3]], &[&[-1, 5]]), whole.clone()), whole);
    }

    #[test]
    fn a_side_written_with_all_dimensions_says_no_to_batching() {
        let written = ModelConfig { input: vec![input("IN0", &[-1, 3])], ..ModelConfig::default() };
        let config = completed(&model(&[&[-1, 3]], &[&[-1, 5]]), written);
        assert_eq!(config.max_batch_size, 0);
        assert_eq!(config.output, [output("OUT0", &[-1, 5])]);
    }

    #[test]
    fn a_model_that_cannot_batch_and_a_configuration_that_does_contradict() {
        let mut config = ModelConfig { name: "m".into(), max_batch_size: 8, ..ModelConfig::default() };
        let error = complete(&mut config, &model(&[&[1, 3]], &[&[-1, 3]]), 4).unwrap_err();
        let text = "autofill failed for model 'm': model does not support batching while non-zero max_batch_size is specified: \
             the first dimension of tensor 'IN0' must be -1, its shape is [1,3]";
        assert_eq!(error, Error::invalid_argument(text));
    }

    #[test]
    fn outputs_no_response_can_carry_are_left_out() {
        let mut model = model(&[&[-1, 3]], &[&[-1]]);
        model.outputs.push(Offered { name: "PROBABILITIES".into(), kind: Kind::Other("it is a sequence".into()) });
        assert_eq!(completed(&model, ModelConfig::default()).output.len(), 1);
        model.outputs.remove(0);
        let error = complete(&mut ModelConfig::default(), &model, 4).unwrap_err();
        assert_eq!(error, Error::unsupported("it is a sequence"));
    }
}
