//! For which shapes runs are captured as CUDA graphs, and which graph a batch takes. Pure.
//!
//! Source: Triton model configuration, "CUDA Graph", `graph_spec`.

use std::collections::{BTreeMap, BTreeSet};

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::Shape,
};
use server_proto::inference::{
    model_config::SchedulingChoice,
    model_optimization_policy::cuda::{GraphSpec, graph_spec::Shape as Dims},
    model_sequence_batching::StrategyChoice,
};

use super::description::{Description, Profile};

/// One graph to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Rows of a batch; 0 for a model without a batch dimension.
    pub(super) batch_size: i64,
    /// Fewest rows of a batch that takes it.
    least_batch_size: i64,
    /// Shape without the batch dimension of each input, and the smallest of a batch that takes it. Empty: the best shapes of the
    /// profile.
    shapes: BTreeMap<String, (Vec<i64>, Vec<i64>)>,
}

/// The shapes a graph was captured for: of all inputs in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// What runs in it.
    pub(super) shapes: Vec<Shape>,
    /// The smallest that takes it.
    least: Vec<Shape>,
}

/// The graphs that a configuration asks for; none without `optimization.cuda.graphs`.
///
/// Errors: `InvalidArgument` if a specification contradicts itself or the batch size.
pub(super) fn wanted(config: &ModelConfig) -> Result<Vec<Wanted>> {
    let cuda = config.optimization.as_ref().and_then(|optimization| optimization.cuda.as_ref());
    let Some(cuda) = cuda.filter(|cuda| cuda.graphs) else { return Ok(Vec::new()) };
    if cuda.graph_spec.is_empty() {
        return Ok(usual_batch_sizes(config).map(Wanted::of_batch_size).collect());
    }
    cuda.graph_spec.iter().map(|spec| Wanted::of(spec, i64::from(config.max_batch_size))).collect()
}

/// Small batches, which gain most; or those that the scheduler prefers.
fn usual_batch_sizes(config: &ModelConfig) -> impl Iterator<Item = i64> {
    let most = i64::from(config.max_batch_size);
    let preferred = match &config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(batching)) => Some(&batching.preferred_batch_size),
        Some(SchedulingChoice::SequenceBatching(batching)) => match &batching.strategy_choice {
            Some(StrategyChoice::Oldest(oldest)) => Some(&oldest.preferred_batch_size),
            _ => None,
        },
        _ => None,
    };
    let mut sizes: BTreeSet<i64> = match preferred {
        Some(preferred) => preferred.iter().map(|&size| i64::from(size)).chain([1]).collect(),
        None => [1, 2, 3, 4, 6, 8, 12, 16].into(),
    };
    if most == 0 {
        sizes = [0].into();
    }
    sizes.insert(most);
    sizes.into_iter().filter(move |&size| size <= most)
}

fn invalid<T>(text: String) -> Result<T> {
    Err(Error::invalid_argument(text))
}

impl Wanted {
    fn of_batch_size(batch_size: i64) -> Self {
        Self { batch_size, least_batch_size: batch_size, shapes: BTreeMap::new() }
    }

    fn of(spec: &GraphSpec, most: i64) -> Result<Self> {
        let batch_size = i64::from(spec.batch_size);
        let bound = spec.graph_lower_bound.as_ref();
        let least_batch_size = bound.map_or(batch_size, |bound| i64::from(bound.batch_size));
        let is_size = |size: &i64| (1..=most).contains(size);
        if most == 0 && (batch_size, least_batch_size) != (0, 0) {
            return invalid("graph spec expects 'batch_size' to be 0 if 'max_batch_size' is 0".into());
        }
        if most > 0 && !(is_size(&batch_size) && is_size(&least_batch_size)) {
            return invalid(format!("graph spec expects 'batch_size' to be >= 1 and <= {most}"));
        }
        if least_batch_size > batch_size {
            return invalid("graph lower bound spec expects 'batch_size' to be <= graph spec 'batch_size'".into());
        }
        let of = |dims: &Dims| dims.dim.clone();
        let shape = |(name, dims): (&String, &Dims)| {
            let least = bound.map_or(Some(dims), |bound| bound.input.get(name));
            let Some(least) = least.map(of) else {
                return invalid(format!("graph lower bound spec expects shape for input '{name}'"));
            };
            let shape = of(dims);
            if least.len() != shape.len() {
                let (wanted, got) = (shape.len(), least.len());
                return invalid(format!("graph lower bound spec expects to have '{wanted} dimensions, got {got}"));
            }
            for (&least, &extent) in least.iter().zip(&shape) {
                if least < 0 || extent < 0 {
                    return invalid(format!("graph spec expects input '{name}' to have dimension >= 0"));
                }
                if least > extent {
                    return invalid(format!(
                        "graph lower bound spec expects input '{name}' to have dimension <= {extent}"
                    ));
                }
            }
            Ok((name.clone(), (shape, least)))
        };
        let shapes = spec.input.iter().map(shape).collect::<Result<_>>()?;
        Ok(Self { batch_size, least_batch_size, shapes })
    }

    /// The shapes that it stands for in a profile. `is_flat`: inputs that have no batch dimension of their own.
    ///
    /// Errors: `InvalidArgument` if it names shapes, but not of an input.
    pub(super) fn key(
        &self,
        description: &Description,
        profile: &Profile,
        is_flat: impl Fn(&str) -> bool,
        instance: &str,
    ) -> Result<Key> {
        let mut key = Key { shapes: Vec::new(), least: Vec::new() };
        for (tensor, range) in description.tensors.iter().zip(&profile.ranges).filter(|(tensor, _)| tensor.is_input) {
            let name = &tensor.text;
            let (shape, least) = if self.shapes.is_empty() {
                let mut shape = range.as_ref().map_or_else(|| tensor.shape.clone(), |range| range.opt.clone());
                let mut least = shape.clone();
                if let (true, [rows, ..], [least_rows, ..]) =
                    (self.batch_size > 0 && !is_flat(name), &mut *shape, &mut *least)
                {
                    (*rows, *least_rows) = (self.batch_size, self.least_batch_size);
                }
                (shape, least)
            } else {
                let (shape, least) = self.shapes.get(name).ok_or_else(|| {
                    let text = format!("trt failed to set input shape for unknown input '{name}' for {instance}");
                    Error::invalid_argument(text)
                })?;
                let with = |rows: i64, dims: &[i64]| -> Shape {
                    let rows = (rows > 0 && !is_flat(name)).then_some(rows);
                    rows.into_iter().chain(dims.iter().copied()).collect()
                };
                (with(self.batch_size, shape), with(self.least_batch_size, least))
            };
            key.shapes.push(shape);
            key.least.push(least);
        }
        Ok(key)
    }
}

/// Whether a batch may run in a graph that was captured for a larger one. Not where tensors have other lengths than the batch has rows:
/// inputs that describe the batch would lack entries, and the parts of outputs would not be where the inputs say.
pub(super) fn may_take_larger(config: &ModelConfig) -> bool {
    let is_ragged = config.input.iter().any(|input| input.allow_ragged_batch);
    !is_ragged && config.batch_input.is_empty() && config.batch_output.is_empty()
}

/// The place of the graph for these shapes: the one that was captured for them, or else the smallest that takes them, if that
/// [may be](may_take_larger).
pub(super) fn choose<'a>(
    keys: impl Iterator<Item = &'a Key> + Clone,
    shapes: &[Shape],
    takes_larger: bool,
) -> Option<usize> {
    let exact = keys.clone().position(|key| key.shapes == shapes);
    if exact.is_some() || !takes_larger {
        return exact;
    }
    let elements = |key: &Key| -> i64 {
        let count = |shape: &Shape| shape.iter().fold(1_i64, |count, extent| count.saturating_mul(*extent));
        key.shapes.iter().map(count).fold(0, i64::saturating_add)
    };
    let takes = |key: &&Key| {
        let within = |((shape, most), least): ((&Shape, &Shape), &Shape)| {
            shape.len() == most.len()
                && shape.iter().zip(most.iter().zip(least)).all(|(it, (most, least))| least <= it && it <= most)
        };
        key.shapes.len() == shapes.len() && shapes.iter().zip(&key.shapes).zip(&key.least).all(within)
    };
    keys.enumerate().filter(|(_, key)| takes(key)).min_by_key(|(_, key)| elements(key)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use server_core::config::from_text;

    use super::{super::description::testing::batching, *};

    fn wanted(text: &str) -> Result<Vec<Wanted>> {
        super::wanted(&from_text(text).unwrap())
    }

    fn sizes(text: &str) -> Vec<i64> {
        wanted(text).unwrap().iter().map(|wanted| wanted.batch_size).collect()
    }

    fn keys(text: &str) -> Vec<Key> {
        let description = batching();
        let key = |wanted: &Wanted| wanted.key(&description, &description.profiles[0], |_| false, "m_0_0").unwrap();
        wanted(text).unwrap().iter().map(key).collect()
    }

    const ON: &str = "optimization { cuda { graphs: true } }";

    #[test]
    fn without_specifications_small_batches_and_the_largest_are_captured() {
        assert_eq!(sizes("max_batch_size: 10"), Vec::<i64>::new());
        assert_eq!(sizes(&format!("max_batch_size: 10 {ON}")), [1, 2, 3, 4, 6, 8, 10]);
        assert_eq!(
            sizes(&format!("max_batch_size: 10 dynamic_batching {{ preferred_batch_size: [ 4 ] }} {ON}")),
            [1, 4, 10]
        );
        assert_eq!(sizes(ON), [0]);
    }

    #[test]
    fn specifications_that_contradict_are_refused_in_tritons_words() {
        let refused = |spec: &str| {
            let text = format!("max_batch_size: 8 optimization {{ cuda {{ graphs: true graph_spec {{ {spec} }} }} }}");
            wanted(&text).unwrap_err().message
        };
        assert_eq!(refused("batch_size: 9"), "graph spec expects 'batch_size' to be >= 1 and <= 8");
        let text = "graph lower bound spec expects 'batch_size' to be <= graph spec 'batch_size'";
        assert_eq!(refused("batch_size: 4 graph_lower_bound { batch_size: 5 }"), text);
        let text = "graph lower bound spec expects shape for input 'x'";
        assert_eq!(
            refused("batch_size: 4 input { key: 'x' value { dim: 3 } } graph_lower_bound { batch_size: 1 }"),
            text
        );
    }

    #[test]
    fn a_batch_takes_the_graph_of_its_shapes_or_the_smallest_that_allows_them() {
        let usual = keys(&format!("max_batch_size: 8 {ON}"));
        assert_eq!(usual[1].shapes, [Shape::from_slice(&[2, 3])]);
        let choose = |keys: &[Key], rows| super::choose(keys.iter(), &[Shape::from_slice(&[rows, 3])], true);
        assert_eq!((choose(&usual, 3), choose(&usual, 5)), (Some(2), None));
        let bounded = keys(
            "max_batch_size: 8 optimization { cuda { graphs: true graph_spec { batch_size: 8 graph_lower_bound { batch_size: 1 } }\n\
             graph_spec { batch_size: 4 graph_lower_bound { batch_size: 2 } } } }",
        );
        assert_eq!([1, 3, 4, 5].map(|rows| choose(&bounded, rows)), [Some(0), Some(1), Some(1), Some(0)]);
        let exact = |rows| super::choose(bounded.iter(), &[Shape::from_slice(&[rows, 3])], false);
        assert_eq!([3, 4, 8].map(exact), [None, Some(1), Some(0)]);
    }

    #[test]
    fn models_whose_tensors_are_not_as_long_as_the_batch_take_no_larger_graph() {
        let may_take_larger = |text: &str| super::may_take_larger(&from_text(text).unwrap());
        assert!(may_take_larger("input { name: 'x' dims: 3 }"));
        for text in [
            "input { name: 'x' dims: -1 allow_ragged_batch: true }",
            "batch_input { kind: BATCH_ELEMENT_COUNT target_name: 'n' data_type: TYPE_FP32 source_input: 'x' }",
            "batch_output { target_name: 'y' kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: 'x' }",
        ] {
            assert!(!may_take_larger(text), "{text}");
        }
    }
}
