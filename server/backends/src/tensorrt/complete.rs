//! What a configuration leaves open and the engine knows: inputs, outputs, and how many rows a batch may have. Pure.
//!
//! Source: Triton model configuration, "Auto-Generated Model Configuration"; the batch size is that of the largest profile.

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
};
use server_proto::inference::{
    ModelDynamicBatching, ModelInput, ModelOutput, ModelTensorReshape, model_config::SchedulingChoice,
};

use super::description::{Description, Io, Profile};
use crate::native::sequence;

/// Fills in what is open.
///
/// Batching: the most rows that a profile of the model's groups allows become `max_batch_size`, unless the configuration has fewer or its
/// dimensions are those of the whole tensors. A model that batches without a scheduler gets the dynamic one.
///
/// Errors: `Internal`, as in Triton, if the configuration and the engine contradict; `Unsupported` if no request can carry a tensor.
pub(super) fn complete(config: &mut ModelConfig, engine: &Description) -> Result<()> {
    let name = config.name.clone();
    let (is_batched, is_written) = batch_hint(config, engine)?;
    let mut most = most_rows(config, engine)?;
    if is_batched && most == 0 {
        return Err(Error::internal(format!(
            "autofill failed for model '{name}': model tensor shape configuration hints for dynamic batching but the underlying engine \
             doesn't support batching."
        )));
    }
    if is_written && !is_batched {
        tracing::warn!("The specified dimensions in model config for {name} hints that batching is unavailable");
        most = 0;
    }
    if config.max_batch_size == 0 {
        config.max_batch_size = most;
    } else if config.max_batch_size > most {
        return Err(Error::internal(format!(
            "autofill failed for model '{name}': configuration specified max-batch {} but TensorRT engine only supports max-batch {most}",
            config.max_batch_size
        )));
    }
    if most > 1 && config.scheduling_choice.is_none() {
        config.scheduling_choice = Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching::default()));
    }
    let batches = config.max_batch_size > 0;
    if config.input.is_empty() {
        let is_computed =
            |name: &str| config.batch_input.iter().any(|input| input.target_name.iter().any(|it| it == name));
        let by_caller = engine.side(true).filter(|io| !sequence::feeds(config, &io.text) && !is_computed(&io.text));
        config.input = by_caller.map(|io| input(io, batches)).collect::<Result<_>>()?;
    }
    for written in &mut config.input {
        let Some((_, io)) = engine.find(&written.name, true) else { continue };
        let offered = input(io, batches)?;
        fill(
            &mut written.data_type,
            &mut written.dims,
            &mut written.reshape,
            (offered.data_type, offered.dims, offered.reshape),
        );
        mark(io, &mut written.is_shape_tensor, &mut written.is_non_linear_format_io)?;
    }
    if config.output.is_empty() {
        let answered = engine.side(false).filter(|io| !sequence::renews(config, &io.text));
        config.output = answered.map(|io| output(io, batches)).collect::<Result<_>>()?;
    }
    for written in &mut config.output {
        let Some((_, io)) = engine.find(&written.name, false) else { continue };
        let offered = output(io, batches)?;
        fill(
            &mut written.data_type,
            &mut written.dims,
            &mut written.reshape,
            (offered.data_type, offered.dims, offered.reshape),
        );
        mark(io, &mut written.is_shape_tensor, &mut written.is_non_linear_format_io)?;
    }
    Ok(())
}

/// Whether a tensor's dimensions leave the first one for the batch, and whether any tensor has dimensions.
fn batch_hint(config: &ModelConfig, engine: &Description) -> Result<(bool, bool)> {
    let inputs = config.input.iter().map(|input| {
        let dims = input.reshape.as_ref().map_or(&input.dims, |reshape| &reshape.shape);
        (&input.name, dims, true, input.allow_ragged_batch)
    });
    let outputs = config.output.iter().map(|output| {
        let dims = output.reshape.as_ref().map_or(&output.dims, |reshape| &reshape.shape);
        (&output.name, dims, false, false)
    });
    let (mut is_batched, mut is_written) = (false, false);
    for (name, dims, is_input, is_ragged) in inputs.chain(outputs) {
        if is_ragged {
            return Ok((true, is_written)); // says it all
        }
        let Some((_, io)) = engine.find(name, is_input) else {
            return Err(super::verify::unexpected(engine, name, is_input));
        };
        let Some(first) = dims.first() else { continue };
        is_written = true;
        let leaves_one =
            if io.is_shape { io.shape.first() == Some(&(first + 1)) } else { io.shape.len() == dims.len() + 1 };
        is_batched |= leaves_one;
        if is_batched && !leaves_one {
            return Err(Error::internal(format!(
                "unable to autofill for '{}', model tensor configurations are contradicting each other in terms of whether batching is \
                 supported",
                config.name
            )));
        }
    }
    Ok((is_batched, is_written))
}

/// The most rows of a batch over the profiles that the model's groups name; 0 if the engine has none.
fn most_rows(config: &ModelConfig, engine: &Description) -> Result<i32> {
    let known = engine.profiles.len();
    let mut most = None;
    for profile in config.instance_group.iter().flat_map(|group| &group.profile) {
        let found = profile.parse::<usize>().ok().and_then(|number| engine.profiles.get(number)).ok_or_else(|| {
            Error::internal(format!(
                "unable to autofill for '{}', configuration specified invalid profile {profile} . Number of profiles supported by \
                 TensorRT engine: {known}",
                config.name
            ))
        })?;
        most = most.max(Some(rows(engine, found)));
    }
    let most = most.or_else(|| engine.profiles.first().map(|first| rows(engine, first)));
    Ok(i32::try_from(most.unwrap_or(0)).unwrap_or(i32::MAX))
}

/// The most rows of a profile: what all inputs allow.
fn rows(engine: &Description, profile: &Profile) -> i64 {
    let inputs = engine.tensors.iter().zip(&profile.ranges).filter(|(io, _)| io.is_input);
    let of = |(io, range): (&Io, &Option<super::description::Range>)| {
        let range = range.as_ref();
        let values = range.and_then(|range| range.values.as_ref()).filter(|_| io.is_shape);
        let first = match values {
            Some([_, _, most]) => most.first().copied(),
            None => range.and_then(|range| range.max.first().copied()),
        };
        first.unwrap_or(0)
    };
    inputs.map(of).min().unwrap_or(0).max(0)
}

fn input(io: &Io, batches: bool) -> Result<ModelInput> {
    let (data_type, dims, reshape) = describe(io, batches)?;
    let (is_shape_tensor, is_non_linear_format_io) = (io.is_shape, io.is_non_linear());
    Ok(ModelInput {
        name: io.text.clone(),
        data_type,
        dims,
        reshape,
        is_shape_tensor,
        is_non_linear_format_io,
        ..ModelInput::default()
    })
}

fn output(io: &Io, batches: bool) -> Result<ModelOutput> {
    let (data_type, dims, reshape) = describe(io, batches)?;
    let (is_shape_tensor, is_non_linear_format_io) = (io.is_shape, io.is_non_linear());
    Ok(ModelOutput {
        name: io.text.clone(),
        data_type,
        dims,
        reshape,
        is_shape_tensor,
        is_non_linear_format_io,
        ..ModelOutput::default()
    })
}

/// Type and dimensions as callers see them. A tensor without dimensions of its own is `[1]` to them; a shape tensor leaves its first
/// value to the batch.
fn describe(io: &Io, batches: bool) -> Result<(i32, Vec<i64>, Option<ModelTensorReshape>)> {
    let data_type = io.data_type()?.to_config() as i32;
    if io.is_shape {
        let dims = io.shape.first().map(|extent| vec![extent - i64::from(batches)]);
        return Ok((data_type, dims.unwrap_or_default(), None));
    }
    let dims = io.shape.get(usize::from(batches)..).unwrap_or_default().to_vec();
    if dims.is_empty() {
        return Ok((data_type, vec![1], Some(ModelTensorReshape::default())));
    }
    Ok((data_type, dims, None))
}

/// Puts type and dimensions where there are none.
fn fill(
    data_type: &mut i32,
    dims: &mut Vec<i64>,
    reshape: &mut Option<ModelTensorReshape>,
    offered: (i32, Vec<i64>, Option<ModelTensorReshape>),
) {
    if *data_type == 0 {
        *data_type = offered.0;
    }
    if dims.is_empty() {
        (*dims, *reshape) = (offered.1, offered.2);
    }
}

/// Says of a tensor what the engine says of it.
///
/// Errors: `InvalidArgument` if the configuration says so and the engine does not.
fn mark(io: &Io, is_shape: &mut bool, is_non_linear: &mut bool) -> Result<()> {
    let name = &io.text;
    if *is_shape && !io.is_shape {
        return Err(Error::invalid_argument(format!("'{name}' is incorrectly specified as a shape tensor.")));
    }
    if *is_non_linear && !io.is_non_linear() {
        return Err(Error::invalid_argument(format!(
            "'{name}' uses a linear IO format, but 'is_non_linear_format_io' is incorrectly set to true in the model configuration."
        )));
    }
    (*is_shape, *is_non_linear) = (io.is_shape, io.is_non_linear());
    Ok(())
}

#[cfg(test)]
mod tests {
    use server_core::{config::from_text, tensor::DataType};

    use super::{
        super::description::testing::{batching, io, range},
        *,
    };

    fn completed(text: &str, engine: &Description) -> Result<ModelConfig> {
        let mut config = from_text(&format!("name: 'm' {text}")).unwrap();
        complete(&mut config, engine).map(|()| config)
    }

    fn without_batch() -> Description {
        Description {
            tensors: vec![io("x", true, &[]), io("y", false, &[2])],
            profiles: vec![Profile { ranges: vec![range(&[], &[], &[]), None] }],
        }
    }

    #[test]
    fn inputs_outputs_and_the_batch_size_are_those_of_the_engine() {
        let config = completed("", &batching()).unwrap();
        let dims = |config: &ModelConfig| (config.input[0].dims.clone(), config.output[0].dims.clone());
        assert_eq!((config.max_batch_size, dims(&config)), (8, (vec![3], vec![2])));
        assert!(matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));
        let config = completed("", &without_batch()).unwrap();
        assert_eq!((config.max_batch_size, dims(&config)), (0, (vec![1], vec![2])));
        assert_eq!(config.input[0].reshape, Some(ModelTensorReshape::default()));
    }

    #[test]
    fn the_largest_profile_of_the_groups_decides() {
        let mut engine = batching();
        engine.profiles.push(Profile { ranges: vec![range(&[1, 3], &[8, 3], &[32, 3]), None] });
        let most = |text: &str| completed(text, &engine).map(|config| config.max_batch_size);
        assert_eq!(most("instance_group { profile: [ '0' ] } instance_group { profile: [ '1' ] }"), Ok(32));
        assert_eq!(most("max_batch_size: 4"), Ok(4));
        let text = "autofill failed for model 'm': configuration specified max-batch 9 but TensorRT engine only supports max-batch 8";
        assert_eq!(most("max_batch_size: 9"), Err(Error::internal(text)));
        assert!(most("instance_group { profile: [ '2' ] }").unwrap_err().message.contains("invalid profile 2 ."));
    }

    #[test]
    fn dimensions_of_the_whole_tensor_say_no_to_batching() {
        let whole = completed("input { name: 'x' dims: [ -1, 3 ] }", &batching()).unwrap();
        assert_eq!((whole.max_batch_size, whole.input[0].data_type), (0, DataType::Fp32.to_config() as i32));
        assert_eq!(whole.output[0].dims, [-1, 2]);
        let error =
            completed("input { name: 'x' dims: 3 } output { name: 'y' dims: [ -1, 2 ] }", &batching()).unwrap_err();
        assert!(error.message.contains("contradicting each other"), "{error}");
        let error = completed("input { name: 'z' dims: 3 }", &batching()).unwrap_err();
        assert_eq!(error.message, "unexpected inference input 'z', allowed inputs are: x");
    }

    #[test]
    fn shape_tensors_and_formats_are_marked_and_never_wrongly() {
        let mut engine = batching();
        engine.tensors[0] = Io { is_shape: true, shape: [3].as_slice().into(), ..engine.tensors[0].clone() };
        engine.profiles[0].ranges[0].as_mut().unwrap().values = Some([vec![1, 1, 1], vec![4, 2, 2], vec![6, 4, 4]]);
        let config = completed("", &engine).unwrap();
        assert_eq!(
            (config.max_batch_size, config.input[0].is_shape_tensor, &*config.input[0].dims),
            (6, true, [2].as_slice())
        );
        let error = completed("input { name: 'x' dims: 3 is_shape_tensor: true }", &batching()).unwrap_err();
        assert_eq!(error.message, "'x' is incorrectly specified as a shape tensor.");
    }
}
