//! Whether the tensors of an ensemble fit the models that they connect: names, element types, shapes, batch sizes.

use std::collections::BTreeMap;

use server_proto::inference::{ModelEnsembling, model_ensembling::Step};

use super::{adapt::matches, members::Members};
use crate::{
    config::ModelConfig,
    error::{Error, Result},
    interface::Interface,
    tensor::{DataType, Shape, shape_text},
};

/// What is known of an ensemble tensor, and from which model.
struct Node {
    model: String,
    data_type: DataType,
    /// Without the batch dimension; `None` for a tensor of any shape.
    dims: Option<Shape>,
    full_dims: Shape,
}

/// Checks every mapping of the graph. All members are there: see [`super::members::check`].
///
/// Errors: `InvalidArgument` in Triton's words, the first mistake.
/// Source: Triton's validation of ensemble configurations.
pub(super) fn check(config: &ModelConfig, own: &Interface, graph: &ModelEnsembling, members: &Members) -> Result<()> {
    let ensemble = config.name.as_str();
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    for (input, spec) in config.input.iter().zip(&own.inputs) {
        let dims = spec.reshape.as_ref().unwrap_or(&spec.dims);
        nodes.insert(&input.name, Node::new(own, spec.data_type, dims, false));
    }
    for (output, spec) in config.output.iter().zip(&own.outputs) {
        let dims = spec.reshape.as_ref().unwrap_or(&spec.dims);
        nodes.entry(&output.name).or_insert_with(|| Node::new(own, spec.data_type, dims, false));
    }
    for step in &graph.step {
        let Some(model) = interface(members, step) else { continue };
        if model.max_batch_size != 0 && model.max_batch_size < own.max_batch_size {
            return Err(Error::invalid_argument(format!(
                "ensemble {ensemble} allows maximum batch size {}, but it contains model {} which only allows maximum \
                 batch size to be {}",
                own.max_batch_size, step.model_name, model.max_batch_size
            )));
        }
        check_inputs(ensemble, step, model, &mut nodes)?;
        check_outputs(ensemble, step, model, &mut nodes)?;
    }
    Ok(())
}

fn interface<'a>(members: &'a Members, step: &Step) -> Option<&'a Interface> {
    let version = super::members::version_choice(step.model_version)?;
    super::members::interface(members, &step.model_name, version).map(|interface| &**interface)
}

fn check_inputs<'a>(
    ensemble: &str,
    step: &'a Step,
    model: &Interface,
    nodes: &mut BTreeMap<&'a str, Node>,
) -> Result<()> {
    let name = &step.model_name;
    if let Some((input, tensor)) = step.input_map.iter().find(|(input, _)| model.input(input).is_none()) {
        return Err(Error::invalid_argument(format!(
            "in ensemble {ensemble}, ensemble tensor {tensor} is mapping to non-existing input {input} in model {name}"
        )));
    }
    for spec in &model.inputs {
        match step.input_map.get(&*spec.name) {
            Some(tensor) => {
                let node = Node::new(model, spec.data_type, &spec.dims, spec.takes_any_shape);
                connect(ensemble, tensor, node, nodes)?;
            }
            None if spec.is_optional => {}
            None => {
                return Err(Error::invalid_argument(format!(
                    "in ensemble {ensemble}, input {} in model {name} is not mapped to any ensemble tensors",
                    spec.name
                )));
            }
        }
    }
    Ok(())
}

fn check_outputs<'a>(
    ensemble: &str,
    step: &'a Step,
    model: &Interface,
    nodes: &mut BTreeMap<&'a str, Node>,
) -> Result<()> {
    let name = &step.model_name;
    for (output, tensor) in &step.output_map {
        let Some(spec) = model.output(output) else {
            return Err(Error::invalid_argument(format!(
                "in ensemble {ensemble}, ensemble tensor {tensor} is mapped from non-existing output {output} in model \
                 {name}"
            )));
        };
        if step.output_map.values().filter(|other| *other == tensor).count() > 1 {
            return Err(Error::invalid_argument(format!(
                "in ensemble {ensemble}, multiple outputs in model {name} are mapped to the same ensemble tensor {tensor}"
            )));
        }
        connect(ensemble, tensor, Node::new(model, spec.data_type, &spec.dims, false), nodes)?;
    }
    Ok(())
}

/// Compares what a model says of a tensor with what another has said before.
fn connect<'a>(ensemble: &str, tensor: &'a str, node: Node, nodes: &mut BTreeMap<&'a str, Node>) -> Result<()> {
    let Some(known) = nodes.get(tensor) else {
        nodes.insert(tensor, node);
        return Ok(());
    };
    let inconsistent = |what: &str, first: String, second: String| {
        Err(Error::invalid_argument(format!(
            "in ensemble {ensemble}, ensemble tensor {tensor}: inconsistent {what}: {first} is inferred from model {} \
             while {second} is inferred from model {}",
            known.model, node.model
        )))
    };
    if known.data_type != node.data_type {
        let text = |data_type: DataType| data_type.to_config().as_str_name().to_owned();
        return inconsistent("data type", text(known.data_type), text(node.data_type));
    }
    let (Some(known_dims), Some(dims)) = (&known.dims, &node.dims) else { return Ok(()) };
    if !matches(known_dims, dims) && !matches(&known.full_dims, &node.full_dims) {
        return inconsistent("shape", shape_text(&known.full_dims), shape_text(&node.full_dims));
    }
    Ok(())
}

impl Node {
    fn new(model: &Interface, data_type: DataType, dims: &[i64], is_of_any_shape: bool) -> Self {
        Self {
            model: model.model_name.to_string(),
            data_type,
            dims: (!is_of_any_shape).then(|| Shape::from_slice(dims)),
            full_dims: model.full_shape(dims),
        }
    }
}
