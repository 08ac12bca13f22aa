//! What a configuration leaves open and a SavedModel knows: inputs, outputs, and whether the model batches. Pure: a signature and a
//! configuration in, the same configuration completed.
//!
//! Source: TensorFlow backend of Triton, "Auto-Complete Model Configuration".

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
};
use server_proto::inference::{
    ModelDynamicBatching, ModelInput, ModelOutput, ModelTensorReshape, model_config::SchedulingChoice,
};

use crate::native::{Kind, Offered, Signature, sequence};

/// Fills in batching, every input, and outputs that are named, or all of them if none is.
///
/// Batching: a model batches whose first dimensions are all `-1`, unless dimensions that are written say otherwise. Its
/// `max_batch_size` of 0 becomes `default_max_batch_size`, and if it batches without a scheduler it gets the dynamic one.
///
/// Returns the inputs that take any shape, for neither side says one.
/// Errors: `Internal`, in Triton's words, if the configuration batches and the model cannot, or if it contradicts itself;
/// `Unsupported` for an input that no request can carry, or if there is no output that a response can.
pub(super) fn complete(
    config: &mut ModelConfig,
    model: &Signature,
    default_max_batch_size: i32,
) -> Result<Vec<String>> {
    if config.max_batch_size > 0 && model.fixed_rows().is_some() {
        return Err(Error::internal(format!(
            "unable to autofill for '{}', configuration specified max-batch {} but model signature does not support batching",
            config.name, config.max_batch_size
        )));
    }
    if config.max_batch_size == 0 && model.can_batch() && says_rows(config, model)? {
        config.max_batch_size = default_max_batch_size.max(0);
    }
    if config.max_batch_size > 1 && config.scheduling_choice.is_none() {
        config.scheduling_choice = Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching::default()));
    }
    let batches = config.max_batch_size > 0;
    let is_computed = |name: &str| config.batch_input.iter().any(|input| input.target_name.iter().any(|it| it == name));
    let is_new = |offered: &&Offered| {
        let name = &*offered.name;
        !is_computed(name) && !sequence::feeds(config, name) && config.input.iter().all(|input| input.name != name)
    };
    let new_inputs = model
        .inputs
        .iter()
        .filter(is_new)
        .map(|offered| ModelInput { name: offered.name.clone(), ..Default::default() });
    let new_inputs: Vec<_> = new_inputs.collect();
    config.input.extend(new_inputs);
    if config.output.is_empty() {
        let is_answered = |output: &&Offered| output.tensor().is_ok() && !sequence::renews(config, &output.name);
        let outputs = model.outputs.iter().filter(is_answered);
        config.output =
            outputs.map(|offered| ModelOutput { name: offered.name.clone(), ..Default::default() }).collect();
        if config.output.is_empty() {
            model.outputs.iter().try_for_each(|output| output.tensor().map(drop))?;
        }
    }
    let mut of_any_shape = Vec::new();
    for input in &mut config.input {
        let Some(offered) = model.input(&input.name) else { continue }; // for the check that refuses it
        if input.dims.is_empty() && matches!(offered.kind, Kind::AnyRank(_)) {
            of_any_shape.push(input.name.clone());
        }
        describe(offered, batches, &mut input.data_type, &mut input.dims, &mut input.reshape)?;
    }
    for output in &mut config.output {
        let Some(offered) = model.output(&output.name) else { continue };
        describe(offered, batches, &mut output.data_type, &mut output.dims, &mut output.reshape)?;
    }
    Ok(of_any_shape)
}

/// Whether the first dimension of a model's tensors, which is any, is the batch: what is written of them decides, and without that
/// it is.
fn says_rows(config: &ModelConfig, model: &Signature) -> Result<bool> {
    if config.input.iter().any(|input| input.allow_ragged_batch) {
        return Ok(true);
    }
    let own = |dims: &[i64], reshape: &Option<ModelTensorReshape>| {
        reshape.as_ref().map_or(dims.len(), |reshape| reshape.shape.len())
    };
    let rank = |offered: Option<&Offered>| offered.and_then(Offered::rank);
    let inputs = config.input.iter().filter(|input| !input.dims.is_empty());
    let inputs = inputs.map(|input| (rank(model.input(&input.name)), own(&input.dims, &input.reshape)));
    let outputs = config.output.iter().filter(|output| !output.dims.is_empty());
    let outputs = outputs.map(|output| (rank(model.output(&output.name)), own(&output.dims, &output.reshape)));
    let mut said = inputs.chain(outputs).filter_map(|(rank, written)| Some(written + 1 == rank?));
    let Some(first) = said.next() else { return Ok(true) };
    if said.all(|other| other == first) {
        return Ok(first);
    }
    Err(Error::internal(format!(
        "unable to autofill for '{}', model tensor configurations are contradicting each other in terms of whether batching is supported",
        config.name
    )))
}

/// Fills in type and dimensions where they are open. A tensor without dimensions of its own is `[1]` to clients, and one of any rank
/// is shown as a list.
fn describe(
    offered: &Offered,
    batches: bool,
    data_type: &mut i32,
    dims: &mut Vec<i64>,
    reshape: &mut Option<ModelTensorReshape>,
) -> Result<()> {
    let (offered_type, shape) = offered.tensor()?;
    if *data_type == 0 {
        *data_type = offered_type.to_config() as i32;
    }
    if !dims.is_empty() {
        return Ok(());
    }
    let Some(shape) = shape else {
        dims.push(-1);
        return Ok(());
    };
    dims.extend_from_slice(shape.get(usize::from(batches)..).unwrap_or_default());
    if dims.is_empty() {
        dims.push(1);
        if batches && reshape.is_none() {
            *reshape = Some(ModelTensorReshape::default());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use server_core::{
        config::{from_text, to_text},
        tensor::{DataType, Shape},
    };

    use super::*;

    fn offered(name: &str, shape: Option<&[i64]>) -> Offered {
        let kind = match shape {
            Some(shape) => Kind::Tensor(DataType::Fp32, Shape::from_slice(shape)),
            None => Kind::AnyRank(DataType::Fp32),
        };
        Offered { name: name.into(), kind }
    }

    /// Two inputs and two outputs.
    fn model(shapes: [Option<&[i64]>; 4]) -> Signature {
        let [a, b, y, z] = shapes;
        Signature {
            inputs: vec![offered("a", a), offered("b", b)],
            outputs: vec![offered("y", y), offered("z", z)],
            initializers: Vec::new(),
        }
    }

    fn rows() -> Signature {
        model([Some(&[-1, 2]), Some(&[-1, 3, -1]), Some(&[-1]), Some(&[-1, 4])])
    }

    #[track_caller]
    fn check(model: &Signature, written: &str, expect: &str) {
        let mut config = from_text(&format!("name: 'm' {written}")).unwrap();
        let text = match complete(&mut config, model, 4) {
            Ok(_) => to_text(&config).split_whitespace().collect::<Vec<_>>().join(" "),
            Err(error) => error.message.into_owned(),
        };
        assert_eq!(text, expect);
    }

    const BATCHES: &str = r#"name: "m" max_batch_size: 4 input [ { name: "a" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "b" data_type: TYPE_FP32 dims: [ 3, -1 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] reshape { } }, { name: "z" data_type: TYPE_FP32 dims: [ 4 ] } ] dynamic_batching { }"#;

    #[test]
    fn a_model_of_any_number_of_rows_batches() {
        check(&rows(), "", BATCHES);
        check(&rows(), "input { name: 'a' dims: 2 }", BATCHES);
        check(&rows(), "input { name: 'a' } input { name: 'b' data_type: TYPE_FP32 }", BATCHES);
    }

    #[test]
    fn dimensions_that_are_written_in_full_leave_none_for_the_batch() {
        check(
            &rows(),
            "output { name: 'z' dims: [ -1, 4 ] }",
            r#"name: "m" input [ { name: "a" data_type: TYPE_FP32 dims: [ -1, 2 ] }, { name: "b" data_type: TYPE_FP32 dims: [ -1, 3, -1 ] } ] output [ { name: "z" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]"#,
        );
        let text = "unable to autofill for 'm', model tensor configurations are contradicting each other in terms of whether batching is supported";
        check(&rows(), "input { name: 'a' dims: 2 } output { name: 'z' dims: [ -1, 4 ] }", text);
    }

    #[test]
    fn scalars_and_tensors_of_any_rank_do_not_batch_by_themselves() {
        let model = model([Some(&[]), None, Some(&[-1]), Some(&[])]);
        let expect = r#"name: "m" input [ { name: "a" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "b" data_type: TYPE_FP32 dims: [ -1 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "z" data_type: TYPE_FP32 dims: [ 1 ] } ]"#;
        check(&model, "", expect);
        let mut config = from_text("name: 'm'").unwrap();
        assert_eq!(complete(&mut config, &model, 4).unwrap(), ["b"]);
        let text = "unable to autofill for 'm', configuration specified max-batch 8 but model signature does not support batching";
        check(&model, "max_batch_size: 8", text);
    }

    #[test]
    fn outputs_that_no_response_can_carry_are_left_out_if_there_are_others() {
        let mut model = rows();
        model.outputs[0].kind = Kind::Other("unable to process output 'y', it consists of several tensors".into());
        let mut config = from_text("name: 'm'").unwrap();
        complete(&mut config, &model, 4).unwrap();
        assert_eq!(config.output.iter().map(|output| &*output.name).collect::<Vec<_>>(), ["z"]);
        model.outputs.truncate(1);
        check(&model, "", "unable to process output 'y', it consists of several tensors");
    }

    #[test]
    fn what_the_server_feeds_is_no_input_of_callers() {
        let sequences = "max_batch_size: 2 sequence_batching { control_input { name: 'a' control { kind: CONTROL_SEQUENCE_START } } \
                         state { input_name: 'b' output_name: 'z' } }";
        let mut config = from_text(&format!("name: 'm' {sequences}")).unwrap();
        complete(&mut config, &rows(), 4).unwrap();
        assert!(config.input.is_empty());
        assert_eq!(config.output.iter().map(|output| &*output.name).collect::<Vec<_>>(), ["y"]);
        let ragged = "input { name: 'a' dims: -1 allow_ragged_batch: true } \
                      batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: 'b' data_type: TYPE_FP32 source_input: 'a' }";
        let mut config = from_text(&format!("name: 'm' {ragged}")).unwrap();
        complete(&mut config, &model([Some(&[-1]), Some(&[-1, 1]), Some(&[-1]), Some(&[-1])]), 4).unwrap();
        assert_eq!((config.max_batch_size, config.input.len()), (4, 1));
    }
}
