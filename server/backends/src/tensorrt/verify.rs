//! A configuration against the engine it describes. Pure; one problem at a time, in Triton's words.

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::{DataType, Shape, shape_text},
};
use server_proto::inference::{batch_input, batch_output};

use super::description::{Description, Io, format_name};
use crate::native::{Kind, Offered, Signature, sequence};

/// Checks names, types and shapes of all tensors of a configuration, and that it has every tensor of the engine.
///
/// Errors: `InvalidArgument` at the first contradiction; `Unsupported` for what cannot be served, with what to do.
pub(super) fn verify(config: &ModelConfig, engine: &Description) -> Result<()> {
    let model = &config.name;
    let known = engine.side(true).count();
    if known < config.input.len() {
        let text = format!("configuration expects {} inputs, model provides at most {known}", config.input.len());
        return Err(Error::invalid_argument(format!("unable to load model '{model}', {text}")));
    }
    for input in &config.input {
        let io = find(engine, &input.name, true)?;
        check_marks(config, io, input.is_shape_tensor, input.is_non_linear_format_io)?;
        check_type(config, io, input.data_type)?;
        let dims = input.reshape.as_ref().map_or(&input.dims, |reshape| &reshape.shape);
        if input.allow_ragged_batch && config.max_batch_size > 0 {
            check_ragged(config, io, dims)?;
        } else {
            check_shape(config, io, dims)?;
        }
    }
    for control in sequence::controls(config) {
        let io = find(engine, control.name, true)?;
        check_type(config, io, control.data_type.to_config() as i32)?;
        check_control(config, io)?;
    }
    for state in sequence::states(config) {
        for (name, is_input) in [(&state.input_name, true), (&state.output_name, false)] {
            let io = find(engine, name, is_input)?;
            check_type(config, io, state.data_type)?;
            check_shape(config, io, &state.dims)?;
        }
    }
    for input in &config.batch_input {
        if batch_input::Kind::try_from(input.kind).is_err() {
            return Err(Error::invalid_argument(format!("batch input type '{}' is not supported", input.kind)));
        }
        for name in &input.target_name {
            check_type(config, find(engine, name, true)?, input.data_type)?;
        }
    }
    for output in &config.output {
        let io = find(engine, &output.name, false)?;
        check_marks(config, io, output.is_shape_tensor, output.is_non_linear_format_io)?;
        check_type(config, io, output.data_type)?;
        let by_input = config.batch_output.iter().find(|batch| batch.target_name.contains(&output.name));
        if let Some(batch) = by_input {
            check_batch_output(config, io, batch.kind)?;
            continue; // its shape follows an input, not the engine
        }
        let dims = output.reshape.as_ref().map_or(&output.dims, |reshape| &reshape.shape);
        check_shape(config, io, dims)?;
    }
    let is_configured = |io: &Io| {
        let is_computed = config.batch_input.iter().any(|input| input.target_name.contains(&io.text));
        let is_state = sequence::renews(config, &io.text) || sequence::feeds(config, &io.text);
        let is_written = if io.is_input {
            config.input.iter().any(|input| input.name == io.text)
        } else {
            config.output.iter().any(|output| output.name == io.text)
        };
        is_written || is_state || (io.is_input && is_computed)
    };
    match engine.tensors.iter().find(|io| !is_configured(io)) {
        Some(io) => {
            Err(Error::invalid_argument(format!("expected configuration for {} '{}' for {model}", io.side(), io.text)))
        }
        None => Ok(()),
    }
}

/// The engine as other parts of the server see models.
pub(super) fn signature(engine: &Description) -> Signature {
    let offered = |io: &Io| {
        let kind = match io.data_type {
            Ok(data_type) => Kind::Tensor(data_type, io.shape.clone()),
            Err(word) => Kind::Foreign(word.into()),
        };
        Offered { name: io.text.clone(), kind }
    };
    Signature {
        inputs: engine.side(true).map(offered).collect(),
        initializers: Vec::new(),
        outputs: engine.side(false).map(offered).collect(),
    }
}

/// The error for a tensor that the engine does not have.
pub(super) fn unexpected(engine: &Description, name: &str, is_input: bool) -> Error {
    let side = if is_input { "input" } else { "output" };
    let mut allowed: Vec<&str> = engine.side(is_input).map(|io| &*io.text).collect();
    allowed.sort_unstable();
    let allowed = allowed.join(", ");
    Error::invalid_argument(format!("unexpected inference {side} '{name}', allowed {side}s are: {allowed}"))
}

fn find<'a>(engine: &'a Description, name: &str, is_input: bool) -> Result<&'a Io> {
    engine.find(name, is_input).map(|(_, io)| io).ok_or_else(|| unexpected(engine, name, is_input))
}

fn check_marks(config: &ModelConfig, io: &Io, is_shape: bool, is_non_linear: bool) -> Result<()> {
    let subject = format!("{} '{}' for model '{}'", io.side(), io.text, config.name);
    let invalid = |text: &str| Err(Error::invalid_argument(format!("{subject} {text}")));
    match (is_shape, io.is_shape) {
        (false, true) => {
            return invalid("is a shape tensor but the model configuration doesn't mark it as a shape tensor.");
        }
        (true, false) => return invalid("is incorrectly marked as a shape tensor in the model configuration."),
        _ => {}
    }
    match (is_non_linear, io.is_non_linear()) {
        (false, true) => invalid(
            "uses a non-linear IO format, but 'is_non_linear_format_io' is incorrectly set to false in the model configuration.",
        ),
        (true, false) => invalid(
            "uses a linear IO format, but 'is_non_linear_format_io' is incorrectly set to true in the model configuration.",
        ),
        (true, true) => check_padding(config, io),
        (false, false) => Ok(()),
    }
}

/// Elements of a tensor that is padded would be more than its shape says, which no request can carry.
fn check_padding(config: &ModelConfig, io: &Io) -> Result<()> {
    let Some((dimension, components)) = io.layout.vectorized else { return Ok(()) };
    let extent = io.shape.get(dimension).copied().unwrap_or(-1);
    if extent > 0 && extent % components == 0 {
        return Ok(());
    }
    let (side, name, format) = (io.side(), &io.text, format_name(io.layout.format));
    Err(Error::unsupported(format!(
        "unable to load model '{}', {side} '{name}' has format {format}, which pads dimension {dimension} of {} to a multiple of \
         {components}: build the plan with a multiple there, or with the format LINEAR for this {side}",
        config.name,
        shape_text(&io.shape)
    )))
}

fn check_type(config: &ModelConfig, io: &Io, configured: i32) -> Result<()> {
    let offered = io.data_type()?;
    if DataType::from_config(configured) == Some(offered) {
        return Ok(());
    }
    let configured = DataType::from_config(configured).map_or("INVALID", DataType::wire_name);
    Err(Error::invalid_argument(format!(
        "unexpected datatype TYPE_{offered} for inference {} '{}', expecting TYPE_{configured} for {}",
        io.side(),
        io.text,
        config.name
    )))
}

/// The engine's shape against the configured dimensions, behind one for the batch where there is one.
fn check_shape(config: &ModelConfig, io: &Io, dims: &[i64]) -> Result<()> {
    let batches = config.max_batch_size > 0;
    let (model, name, shape) = (&config.name, &io.text, &io.shape);
    if io.is_shape {
        let fits = match (&**shape, dims) {
            ([], dims) => dims.is_empty(),
            ([extent], [dim]) => *dim != -1 && dim + i64::from(batches) == *extent,
            _ => false,
        };
        let (offered, configured) = (shape_text(shape), shape_text(dims));
        return if fits {
            Ok(())
        } else if shape.len() > 1 {
            let text = format!("shape binding '{name}' can only be 0-d or 1-D tensor, got {offered}");
            Err(Error::internal(format!("unable to load model '{model}', {text}")))
        } else {
            let text =
                format!("shape expected by framework {offered} doesn't match model configuration shape {configured}");
            Err(Error::internal(format!("unable to load model '{model}', binding '{name}' {text}")))
        };
    }
    if batches && shape.is_empty() {
        return Err(Error::invalid_argument(format!(
            "model '{model}', tensor '{name}': for the model to support batching the shape should have at least 1 dimension; but shape \
             expected by the model is {}",
            shape_text(shape)
        )));
    }
    if shape.is_empty() && dims.iter().all(|&dim| dim == 1) {
        return Ok(()); // callers see a scalar as [1]
    }
    let full: Shape = batches.then_some(-1).into_iter().chain(dims.iter().copied()).collect();
    let fits = |(&offered, &written): (&i64, &i64)| offered == -1 || written == -1 || offered == written;
    if shape.len() == full.len() && shape.iter().zip(&full).all(fits) {
        return Ok(());
    }
    let expects = format!("the model expects {} dimensions (shape {})", shape.len(), shape_text(shape));
    let specifies = format!("the model configuration specifies {} dimensions", full.len());
    let complete = if batches {
        format!(
            "(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape {})",
            shape_text(&full)
        )
    } else {
        format!("(shape {})", shape_text(&full))
    };
    Err(Error::invalid_argument(format!("model '{model}', tensor '{name}': {expects} but {specifies} {complete}")))
}

/// Requests of any extents, laid end to end.
fn check_ragged(config: &ModelConfig, io: &Io, dims: &[i64]) -> Result<()> {
    let (model, name) = (&config.name, &io.text);
    if io.is_non_linear() {
        return Err(Error::invalid_argument(format!(
            "unexpected allow-ragged for non-linear input '{name}' for {model}"
        )));
    }
    if *io.shape == [-1] {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "model '{model}', tensor '{name}': for the model to support ragged input, the engine shape is: {} while the model config shape \
         is: {}",
        shape_text(&io.shape),
        shape_text(dims)
    )))
}

/// A control is an input with one value per row.
fn check_control(config: &ModelConfig, io: &Io) -> Result<()> {
    let first = if config.max_batch_size > 0 { -1 } else { 1 };
    let (model, name, shape) = (&config.name, &io.text, shape_text(&io.shape));
    let reason = match &*io.shape {
        [rows, ..] if *rows != first && !(first == -1 && *rows > 0) => {
            format!("expects the first dimension to be {first} but the model specified {rows}")
        }
        [_, rest @ ..] if rest.iter().any(|&extent| extent != 1) => {
            format!("expects all dimensions (conditionally first) to be 1 but the model specified shape {shape}")
        }
        [] => format!("expects the first dimension to be {first} but the model specified none"),
        _ => return Ok(()),
    };
    Err(Error::invalid_argument(format!(
        "unexpected shape {shape} for control input '{name}' for model {model}: {reason}"
    )))
}

fn check_batch_output(config: &ModelConfig, io: &Io, kind: i32) -> Result<()> {
    let (model, name) = (&config.name, &io.text);
    if io.is_shape {
        return Err(Error::invalid_argument(format!("batch output '{name}' can not be shape binding")));
    }
    if batch_output::Kind::try_from(kind) != Ok(batch_output::Kind::BatchScatterWithInputShape) {
        let text = format!("batch output kind other than BATCH_SCATTER_WITH_INPUT_SHAPE is not supported for {model}");
        return Err(Error::invalid_argument(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use server_core::config::from_text;

    use super::{
        super::description::{
            Layout,
            testing::{batching, io},
        },
        *,
    };

    fn verified(text: &str, engine: &Description) -> Result<()> {
        verify(&from_text(&format!("name: 'm' {text}")).unwrap(), engine)
    }

    const INPUT: &str = "input { name: 'x' data_type: TYPE_FP32 dims: 3 }";
    const OUTPUT: &str = "output { name: 'y' data_type: TYPE_FP32 dims: 2 }";

    #[track_caller]
    fn refused(text: &str, engine: &Description, expect: &str) {
        assert_eq!(verified(text, engine).unwrap_err().message, expect);
    }

    #[test]
    fn what_the_engine_says_is_taken() {
        assert_eq!(verified(&format!("max_batch_size: 8 {INPUT} {OUTPUT}"), &batching()), Ok(()));
        let whole = "input { name: 'x' data_type: TYPE_FP32 dims: [ -1, 3 ] } output { name: 'y' data_type: TYPE_FP32 dims: [ 4, 2 ] }";
        assert_eq!(verified(whole, &batching()), Ok(()));
    }

    #[test]
    fn contradictions_are_refused_in_tritons_words() {
        let engine = batching();
        refused(&format!("max_batch_size: 8 {OUTPUT}"), &engine, "expected configuration for input 'x' for m");
        let text = "unexpected inference output 'z', allowed outputs are: y";
        refused(&format!("max_batch_size: 8 {INPUT} output {{ name: 'z' dims: 2 }}"), &engine, text);
        let text = "unexpected datatype TYPE_FP32 for inference input 'x', expecting TYPE_INT8 for m";
        refused("max_batch_size: 8 input { name: 'x' data_type: TYPE_INT8 dims: 3 }", &engine, text);
        let text = "model 'm', tensor 'x': the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies 2 dimensions \
                    (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape [-1,4])";
        refused("max_batch_size: 8 input { name: 'x' data_type: TYPE_FP32 dims: 4 }", &engine, text);
    }

    #[test]
    fn padded_formats_are_refused_and_others_served() {
        let mut engine = batching();
        let layout = |components| Layout { format: 3, vectorized: Some((1, components)) };
        let shape = [-1, 4, 5, 5];
        engine.tensors[0] = Io { layout: layout(4), ..io("x", true, &shape) };
        let input = "input { name: 'x' data_type: TYPE_FP32 dims: [ 4, 5, 5 ] is_non_linear_format_io: true }";
        let text = format!("max_batch_size: 8 {input} {OUTPUT}");
        assert_eq!(verified(&text, &engine), Ok(()));
        engine.tensors[0].layout = layout(16);
        let error = verified(&text, &engine).unwrap_err();
        assert!(
            error.message.contains("has format CHW4, which pads dimension 1 of [-1,4,5,5] to a multiple of 16"),
            "{error}"
        );
    }

    #[test]
    fn types_that_no_request_can_carry_are_refused_by_name() {
        let mut engine = batching();
        engine.tensors[0].data_type = Err("FP8");
        let error = verified(&format!("max_batch_size: 8 {INPUT} {OUTPUT}"), &engine).unwrap_err();
        assert!(error.message.starts_with("unsupported datatype FP8 for input 'x'"), "{error}");
    }

    #[test]
    fn controls_and_states_are_inputs_and_outputs_of_the_engine() {
        let mut engine = batching();
        engine.tensors.extend([io("start", true, &[-1, 1]), io("s", true, &[-1, 2]), io("t", false, &[-1, 2])]);
        let batching = "sequence_batching { control_input { name: 'start' control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }\n\
                        state { input_name: 's' output_name: 't' data_type: TYPE_FP32 dims: 2 } }";
        assert_eq!(verified(&format!("max_batch_size: 8 {INPUT} {OUTPUT} {batching}"), &engine), Ok(()));
        engine.tensors[2].shape = [-1, 2].as_slice().into();
        let text = "unexpected shape [-1,2] for control input 'start' for model m: expects all dimensions (conditionally first) to be 1 but \
                    the model specified shape [-1,2]";
        refused(&format!("max_batch_size: 8 {INPUT} {OUTPUT} {batching}"), &engine, text);
    }
}
