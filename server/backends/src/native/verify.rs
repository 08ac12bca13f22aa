//! A configuration against the model file it describes. Pure; one problem at a time, in Triton's words, because that is
//! what users compare.

use std::collections::BTreeSet;

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::{DataType, shape_text},
};

use super::{
    sequence::{self, ControlInput},
    signature::{Offered, Signature},
};

/// Checks number, names, types and shapes of the configured inputs and outputs. `type_name`: the runtime's word for a type.
///
/// Errors: `InvalidArgument` at the first contradiction; `Unsupported` for what no request can carry.
pub(crate) fn verify(config: &ModelConfig, model: &Signature, type_name: fn(DataType) -> String) -> Result<()> {
    let known: BTreeSet<&str> = model.inputs.iter().chain(&model.initializers).map(|input| &*input.name).collect();
    let outputs: BTreeSet<&str> = model.outputs.iter().map(|output| &*output.name).collect();
    sequence::controls(config).try_for_each(|control| check_control(config, model, &control, type_name))?;
    let is_constant = |name: &str| model.initializers.iter().any(|constant| constant.name == name);
    let by_caller = config.input.iter().filter(|input| !input.optional && !is_constant(&input.name)).count();
    let (configured, provided) = (by_caller + fed_by_server(config), model.inputs.len());
    if configured != provided {
        let text = format!("configuration expects {configured} inputs, model provides {provided}");
        return Err(unable(config, &text));
    }
    for input in &config.input {
        if input.optional && config.max_batch_size > 0 {
            let text = format!("optional input '{}' is not supported for models that support batching", input.name);
            return Err(unable(config, &text));
        }
        let offered = model.input(&input.name).ok_or_else(|| unexpected(config, "input", &input.name, &known))?;
        let dims = input.reshape.as_ref().map_or(&input.dims, |reshape| &reshape.shape);
        check_type(config, "input", offered, input.data_type)?;
        if input.allow_ragged_batch && input.optional {
            let text = "configuration expects model provides input with shape [-1] for ragged input";
            return Err(unable(config, &format!("{text} '{}', which is not supported for optional input", input.name)));
        }
        check_shape(config, offered, dims, input.allow_ragged_batch)?;
    }
    let computed = config.batch_input.iter().flat_map(|input| input.target_name.iter().map(move |name| (input, name)));
    for (input, name) in computed {
        let offered = model.input(name).ok_or_else(|| unexpected(config, "input", name, &known))?;
        check_type(config, "input", offered, input.data_type)?;
    }
    for state in sequence::states(config) {
        let (input, output) = (&state.input_name, &state.output_name);
        let offered = model.input(input).ok_or_else(|| unexpected(config, "input", input, &known))?;
        check_type(config, "input", offered, state.data_type)?;
        check_shape(config, offered, &state.dims, false)?;
        let offered = model.output(output).ok_or_else(|| unexpected(config, "output", output, &outputs))?;
        check_type(config, "output", offered, state.data_type)?;
        check_shape(config, offered, &state.dims, false)?;
    }
    let is_configured = |offered: &&Offered| {
        let name = &offered.name;
        let is_computed = config.batch_input.iter().any(|input| input.target_name.contains(name));
        config.input.iter().any(|input| input.name == *name) || is_computed || sequence::feeds(config, name)
    };
    if let Some(missing) = model.inputs.iter().find(|offered| !is_configured(offered)) {
        return Err(unable(config, &format!("configuration lacks input '{}' of the model", missing.name)));
    }
    for output in &config.output {
        let offered = model.output(&output.name).ok_or_else(|| unexpected(config, "output", &output.name, &outputs))?;
        let dims = output.reshape.as_ref().map_or(&output.dims, |reshape| &reshape.shape);
        check_type(config, "output", offered, output.data_type)?;
        if config.batch_output.iter().any(|batch| batch.target_name.contains(&output.name)) {
            continue; // its shape follows an input, not the model
        }
        check_shape(config, offered, dims, false)?;
    }
    Ok(())
}

/// The beginning of most sentences.
fn unable(config: &ModelConfig, text: &str) -> Error {
    Error::invalid_argument(format!("unable to load model '{}', {text}", config.name))
}

/// Type and shape of a tensor; what no request can carry is refused with the name of the model.
fn tensor<'a>(config: &ModelConfig, offered: &'a Offered) -> Result<(DataType, Option<&'a [i64]>)> {
    let named = |error: Error| {
        let text = format!("unable to load model '{}', {}", config.name, error.message);
        Error::new(error.code, text)
    };
    offered.tensor().map_err(named)
}

/// Inputs of the model that the server fills in, not the request.
fn fed_by_server(config: &ModelConfig) -> usize {
    let batch: usize = config.batch_input.iter().map(|input| input.target_name.len()).sum();
    let states: BTreeSet<&str> = sequence::states(config).iter().map(|state| state.input_name.as_str()).collect();
    batch + sequence::controls(config).count() + states.len()
}

fn unexpected(config: &ModelConfig, side: &str, name: &str, allowed: &BTreeSet<&str>) -> Error {
    let allowed = allowed.iter().copied().collect::<Vec<_>>().join(", ");
    unable(config, &format!("unexpected inference {side} '{name}', allowed {side}s are: {allowed}"))
}

/// A control is an input of the model with one value per row.
fn check_control(
    config: &ModelConfig,
    model: &Signature,
    control: &ControlInput<'_>,
    type_name: fn(DataType) -> String,
) -> Result<()> {
    let name = control.name;
    let missing = || {
        Error::invalid_argument(format!(
            "configuration specified sequence control '{name}', but model does not provide that input"
        ))
    };
    let (data_type, shape) = tensor(config, model.input(name).ok_or_else(missing)?)?;
    let own = shape.map(|shape| shape.get(usize::from(config.max_batch_size > 0)..).unwrap_or_default());
    let is_scalar = shape.is_some_and(<[i64]>::is_empty);
    if let Some(own) = own.filter(|own| !is_scalar && !matches!(own, [1 | -1])) {
        let text = format!("sequence control '{name}' in model has dims {} but dims [1] is expected", shape_text(own));
        return Err(unable(config, &text));
    }
    if data_type != control.data_type {
        let text = format!(
            "sequence control '{name}', the model expects data-type {} but the model configuration specifies data-type {}",
            type_name(data_type),
            control.data_type.to_config().as_str_name()
        );
        return Err(unable(config, &text));
    }
    Ok(())
}

fn check_type(config: &ModelConfig, side: &str, offered: &Offered, configured: i32) -> Result<()> {
    let (data_type, _) = tensor(config, offered)?;
    if DataType::from_config(configured) == Some(data_type) {
        return Ok(());
    }
    let configured = DataType::from_config(configured).map_or("TYPE_INVALID", |known| known.to_config().as_str_name());
    let name = &offered.name;
    let text =
        format!("configuration expects datatype {configured} for {side} '{name}', model provides TYPE_{data_type}");
    Err(unable(config, &text))
}

fn check_shape(config: &ModelConfig, offered: &Offered, dims: &[i64], is_ragged: bool) -> Result<()> {
    let (_, shape) = tensor(config, offered)?;
    let (model, tensor) = (&config.name, &offered.name);
    let batches = config.max_batch_size > 0;
    let Some(shape) = shape else { return Ok(()) }; // of any rank
    if is_ragged && batches {
        if shape == [-1] {
            return Ok(());
        }
        let text = "configuration expects model provides input with shape [-1]  for ragged input";
        return Err(unable(config, &format!("{text} '{tensor}', model provides {}", shape_text(shape))));
    }
    if shape.is_empty() {
        if dims.iter().all(|&dim| dim == 1) {
            return Ok(());
        }
        let text = format!(
            "scalar tensor '{tensor}', should only provide 1 in the model configuration when the model doesn't support \
             batching. Model configuration provided: {}.",
            shape_text(dims)
        );
        return Err(unable(config, &text));
    }
    if batches && shape.first() != Some(&-1) {
        return Err(Error::invalid_argument(format!(
            "model '{model}', tensor '{tensor}': for the model to support batching the shape should have at least 1 \
             dimension and the first dimension must be -1; but shape expected by the model is {}",
            shape_text(shape)
        )));
    }
    let mut full = vec![-1; usize::from(batches)];
    full.extend_from_slice(dims);
    let fits = |(&offered, &written): (&i64, &i64)| offered == -1 || offered == written;
    if shape.len() == full.len() && shape.iter().zip(&full).all(fits) {
        return Ok(());
    }
    let expects = format!("the model expects {} dimensions (shape {})", shape.len(), shape_text(shape));
    let specifies = format!("the model configuration specifies {} dimensions", full.len());
    let complete = shape_text(&full);
    let complete = if batches {
        format!(
            "(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape {complete})"
        )
    } else {
        format!("(shape {complete})")
    };
    Err(Error::invalid_argument(format!("model '{model}', tensor '{tensor}': {expects} but {specifies} {complete}")))
}

#[cfg(test)]
mod tests {
    use server_core::tensor::Shape;
    use server_proto::inference::{ModelInput, ModelOutput, ModelTensorReshape};

    use super::{super::signature::Kind, *};

    fn offered(name: &str, shape: &[i64]) -> Offered {
        Offered { name: name.into(), kind: Kind::Tensor(DataType::Fp32, Shape::from_slice(shape)) }
    }

    fn model(input: &[i64], output: &[i64]) -> Signature {
        Signature {
            inputs: vec![offered("IN", input)],
            initializers: vec![offered("BIAS", &[2])],
            outputs: vec![offered("OUT", output)],
        }
    }

    fn config(max_batch_size: i32, input: &[i64], output: &[i64]) -> ModelConfig {
        ModelConfig {
            name: "m".into(),
            max_batch_size,
            input: vec![ModelInput { name: "IN".into(), data_type: 11, dims: input.into(), ..ModelInput::default() }],
            output: vec![ModelOutput {
                name: "OUT".into(),
                data_type: 11,
                dims: output.into(),
                ..ModelOutput::default()
            }],
            ..ModelConfig::default()
        }
    }

    #[track_caller]
    fn check(config: &ModelConfig, model: &Signature, expect: &str) {
        let text = verify(config, model, |data_type| data_type.to_string())
            .map_or_else(|error| error.message.to_string(), |()| "fits".into());
        assert_eq!(text, expect);
    }

    #[test]
    fn open_extents_of_the_model_may_be_fixed_and_not_the_other_way_round() {
        check(&config(0, &[-1, 3], &[7]), &model(&[-1, 3], &[-1]), "fits");
        check(
            &config(0, &[-1], &[7]),
            &model(&[3], &[-1]),
            "model 'm', tensor 'IN': the model expects 1 dimensions (shape [3]) but the model configuration specifies 1 dimensions (shape [-1])",
        );
    }

    #[test]
    fn a_batching_configuration_leaves_the_first_dimension_out() {
        check(&config(8, &[3], &[1, 2]), &model(&[-1, 3], &[-1, 1, 2]), "fits");
        check(
            &config(8, &[-1, 3], &[2]),
            &model(&[-1, 3], &[-1, 2]),
            "model 'm', tensor 'IN': the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies 3 dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape [-1,-1,3])",
        );
        check(
            &config(8, &[3], &[2]),
            &model(&[1, 3], &[-1, 2]),
            "model 'm', tensor 'IN': for the model to support batching the shape should have at least 1 dimension and the first dimension must be -1; but shape expected by the model is [1,3]",
        );
    }

    #[test]
    fn scalars_are_written_as_one() {
        check(&config(0, &[1], &[1, 1]), &model(&[], &[]), "fits");
        check(&config(0, &[1, 1, 1], &[1]), &model(&[], &[]), "fits");
        check(&config(4, &[1], &[1, 1]), &model(&[], &[]), "fits");
        check(
            &config(0, &[1], &[1, 2]),
            &model(&[], &[]),
            "unable to load model 'm', scalar tensor 'OUT', should only provide 1 in the model configuration when the model doesn't support batching. Model configuration provided: [1,2].",
        );
        let mut batching = config(4, &[3], &[1]);
        batching.output[0].reshape = Some(ModelTensorReshape::default());
        check(&batching, &model(&[-1, 3], &[-1]), "fits");
    }

    #[test]
    fn a_tensor_of_any_rank_fits_any_dims() {
        let mut any = model(&[], &[]);
        any.inputs[0].kind = Kind::AnyRank(DataType::Fp32);
        any.outputs[0].kind = Kind::AnyRank(DataType::Fp32);
        check(&config(0, &[2, -1, 3], &[7]), &any, "fits");
        check(&config(8, &[2], &[-1, -1]), &any, "fits");
    }

    #[test]
    fn what_no_request_can_carry_is_refused_with_model_and_tensor() {
        let mut foreign = model(&[2], &[2]);
        foreign.outputs[0].kind = Kind::Other("output 'OUT' is a map".into());
        check(&config(0, &[2], &[2]), &foreign, "unable to load model 'm', output 'OUT' is a map");
    }

    #[test]
    fn names_types_and_numbers_must_agree() {
        let model = model(&[2], &[2]);
        let mut wrong = config(0, &[2], &[2]);
        wrong.input[0].name = "INN".into();
        check(
            &wrong,
            &model,
            "unable to load model 'm', unexpected inference input 'INN', allowed inputs are: BIAS, IN",
        );
        let mut wrong = config(0, &[2], &[2]);
        wrong.output[0].name = "OUTT".into();
        check(&wrong, &model, "unable to load model 'm', unexpected inference output 'OUTT', allowed outputs are: OUT");
        let mut wrong = config(0, &[2], &[2]);
        wrong.input[0].data_type = 9;
        check(
            &wrong,
            &model,
            "unable to load model 'm', configuration expects datatype TYPE_INT64 for input 'IN', model provides TYPE_FP32",
        );
        let mut wrong = config(0, &[2], &[2]);
        wrong.input.clear();
        check(&wrong, &model, "unable to load model 'm', configuration expects 0 inputs, model provides 1");
        let mut wrong = config(0, &[2], &[2]);
        wrong.input.extend([wrong.input[0].clone(), wrong.input[0].clone()]);
        check(&wrong, &model, "unable to load model 'm', configuration expects 3 inputs, model provides 1");
        let mut wrong = config(0, &[2], &[2]);
        wrong.input[0].optional = true;
        check(&wrong, &model, "unable to load model 'm', configuration expects 0 inputs, model provides 1");
    }

    #[test]
    fn a_replaceable_constant_may_be_an_input_beside_the_real_ones() {
        let model = model(&[2], &[2]);
        let mut both = config(0, &[2], &[2]);
        both.input.push(ModelInput { name: "BIAS".into(), optional: true, ..both.input[0].clone() });
        check(&both, &model, "fits");
        both.input.remove(0);
        check(&both, &model, "unable to load model 'm', configuration expects 0 inputs, model provides 1");
        both.input.push(ModelInput { name: "OTHER".into(), ..both.input[0].clone() });
        both.input[1].optional = false;
        check(
            &both,
            &model,
            "unable to load model 'm', unexpected inference input 'OTHER', allowed inputs are: BIAS, IN",
        );
    }

    #[test]
    fn a_control_is_one_value_per_row() {
        let batching = "sequence_batching { control_input {
            name: 'START' control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } } }";
        let sequences = server_core::config::from_text(batching).unwrap();
        let check = |max_batch_size: i32, shape: &[i64], expect: &str| {
            let rows: &[i64] = if max_batch_size > 0 { &[-1, 2] } else { &[2] };
            let mut model = model(rows, rows);
            model.inputs.push(offered("START", shape));
            let scheduling_choice = sequences.scheduling_choice.clone();
            check(&ModelConfig { scheduling_choice, ..config(max_batch_size, &[2], &[2]) }, &model, expect);
        };
        check(0, &[1], "fits");
        check(0, &[], "fits");
        check(4, &[-1, 1], "fits");
        let wrong = |dims: &str| {
            format!(
                "unable to load model 'm', sequence control 'START' in model has dims {dims} but dims [1] is expected"
            )
        };
        check(0, &[2], &wrong("[2]"));
        check(4, &[-1], &wrong("[]"));
        check(4, &[-1, 1, 1], &wrong("[1,1]"));
    }

    #[test]
    fn optional_inputs_and_batches_exclude_each_other() {
        let mut wrong = config(2, &[2], &[2]);
        wrong.input.push(ModelInput { name: "BIAS".into(), optional: true, ..wrong.input[0].clone() });
        check(
            &wrong,
            &model(&[-1, 2], &[-1, 2]),
            "unable to load model 'm', optional input 'BIAS' is not supported for models that support batching",
        );
    }

    #[test]
    fn ragged_inputs_are_flat() {
        let mut ragged = config(2, &[-1], &[2]);
        ragged.input[0].allow_ragged_batch = true;
        check(&ragged, &model(&[-1], &[-1, 2]), "fits");
        let mut optional = config(0, &[-1], &[-1, 2]);
        let bias = ModelInput { name: "BIAS".into(), optional: true, ..ragged.input[0].clone() };
        optional.input.push(bias);
        check(
            &optional,
            &model(&[-1], &[-1, 2]),
            "unable to load model 'm', configuration expects model provides input with shape [-1] for ragged input 'BIAS', which is not supported for optional input",
        );
        check(
            &ragged,
            &model(&[-1, 5], &[-1, 2]),
            "unable to load model 'm', configuration expects model provides input with shape [-1]  for ragged input 'IN', model provides [-1,5]",
        );
    }
}
