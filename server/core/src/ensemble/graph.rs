//! An ensemble as it runs: steps and tensors by number. Compiled once per load, shared by all requests.

use std::{collections::BTreeMap, sync::Arc};

use server_proto::inference::{ModelTransactionPolicy, model_config::SchedulingChoice};
use smallvec::SmallVec;

use super::{
    check,
    decoupled::{StepTensors, origins},
    members::{self, Members, version_choice},
    sequence,
};
use crate::{
    config::ModelConfig,
    error::{Error, Result},
    interface::Interface,
    repository::model_key,
    request::{RequestedOutput, VersionChoice},
    response::ResponseParameters,
    tensor::{Name, Shape},
};

/// A compiled ensemble.
#[derive(Debug, PartialEq)]
pub struct Graph {
    pub(super) ensemble: Name,
    pub(super) is_batching: bool,
    pub(super) steps: Vec<Step>,
    pub(super) tensors: Vec<TensorPlan>,
    /// Tensor of each input, in the order of the configuration.
    pub(super) inputs: Vec<GraphInput>,
    /// In the order of the configuration.
    pub(super) outputs: Vec<GraphOutput>,
    /// What each origin's values are kept in.
    pub(super) origins: Vec<Origin>,
    /// Origin of the outputs.
    pub(super) of_outputs: usize,
    /// Parameters of a response outside any sequence.
    pub(super) no_sequence: ResponseParameters,
    max_inflight_requests: u32,
}

/// One use of another model.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    /// Its key.
    pub(super) model_name: Name,
    pub(super) version: VersionChoice,
    /// In the order of the model's configuration.
    pub(super) inputs: Vec<StepInput>,
    /// Output of the model, tensor of the ensemble.
    pub(super) outputs: Vec<(Name, usize)>,
    /// What its requests ask for; nothing for all that its model has.
    pub(super) wanted: SmallVec<[RequestedOutput; 2]>,
    pub(super) is_decoupled: bool,
    /// Origin of its inputs, and its place among that origin's steps.
    pub(super) origin: usize,
    pub(super) place: usize,
    /// Origin of its outputs.
    pub(super) output_origin: usize,
    /// Which steps read what it writes, directly or through others, by number.
    pub(super) dependents: Vec<bool>,
}

/// One input of a step.
#[derive(Debug, PartialEq)]
pub(super) struct StepInput {
    /// Input of the model.
    pub(super) name: Name,
    pub(super) tensor: usize,
    /// Last input of this step that reads the tensor.
    pub(super) is_last_use: bool,
}

/// One tensor of the ensemble.
#[derive(Debug, PartialEq)]
pub(super) struct TensorPlan {
    pub(super) origin: usize,
    /// Its place among that origin's tensors.
    pub(super) place: usize,
    /// Steps that read it, each once.
    pub(super) readers: Vec<usize>,
    /// Which output of the ensemble it is.
    pub(super) output: Option<usize>,
}

#[derive(Debug, PartialEq)]
pub(super) struct GraphInput {
    pub(super) name: Name,
    pub(super) tensor: usize,
}

#[derive(Debug, PartialEq)]
pub(super) struct GraphOutput {
    pub(super) name: Name,
    pub(super) tensor: usize,
    /// Extents of the tensor without the batch dimension, before a `reshape` is undone.
    pub(super) dims: Shape,
    pub(super) spec: crate::interface::OutputSpec,
    /// Steps that must run for it, by number.
    pub(super) needs: Vec<bool>,
}

/// Tensors and steps whose values come together.
#[derive(Debug, PartialEq, Default)]
pub(super) struct Origin {
    pub(super) tensors: Vec<usize>,
    pub(super) steps: Vec<usize>,
    /// By step: tensors it reads, each once.
    pub(super) reads: Vec<u16>,
}

impl Graph {
    /// Compiles an ensemble from its verified configuration and the models it is made of; completes the configuration and
    /// the interface with what only the models know: whether it is decoupled, and labels.
    ///
    /// Errors: `InvalidArgument` in Triton's words if a model is not there or does not fit.
    pub fn compile(config: &mut ModelConfig, own: &mut Interface, members: &Members) -> Result<Self> {
        let Some(SchedulingChoice::EnsembleScheduling(mut scheduling)) = config.scheduling_choice.clone() else {
            return Err(Error::internal(format!("'{}' is not an ensemble", config.name)));
        };
        for step in &mut scheduling.step {
            step.model_name = model_key(&step.model_namespace, &step.model_name);
        }
        members::check(&config.name, &scheduling, members)?;
        check::check(config, own, &scheduling, members)?;

        let mut numbers = Numbers::default();
        let inputs: Vec<GraphInput> = own
            .inputs
            .iter()
            .map(|input| GraphInput { name: input.name.clone(), tensor: numbers.of(&input.name) })
            .collect();
        let output_tensors: Vec<usize> = own.outputs.iter().map(|output| numbers.of(&output.name)).collect();
        let mut steps = Vec::with_capacity(scheduling.step.len());
        for step in &scheduling.step {
            let version = version_choice(step.model_version);
            let found = version.and_then(|version| members::interface(members, &step.model_name, version));
            let (Some(version), Some(model)) = (version, found) else {
                return Err(Error::internal(format!("model '{}' of '{}' is gone", step.model_name, config.name)));
            };
            steps.push(Step::new(step, version, model, &mut numbers));
        }

        let step_tensors: Vec<StepTensors> = steps
            .iter()
            .map(|step| StepTensors {
                inputs: step.inputs.iter().map(|input| input.tensor).collect(),
                outputs: step.outputs.iter().map(|&(_, tensor)| tensor).collect(),
                is_decoupled: step.is_decoupled,
            })
            .collect();
        let names: Vec<Name> = steps.iter().map(|step| step.model_name.clone()).collect();
        let input_tensors: Vec<usize> = inputs.iter().map(|input| input.tensor).collect();
        let ensemble = own.model_name.clone();
        let found = origins(&ensemble, &step_tensors, &names, &input_tensors, &output_tensors, numbers.count())?;

        let is_decoupled = found.count > 1;
        config.model_transaction_policy = Some(ModelTransactionPolicy { decoupled: is_decoupled });
        own.is_decoupled = is_decoupled;
        adopt_labels(own, &steps, &output_tensors, members);

        let mut origins: Vec<Origin> = (0..found.count).map(|_| Origin::default()).collect();
        let mut tensors: Vec<TensorPlan> = Vec::with_capacity(numbers.count());
        for (tensor, origin) in found.of_tensor.iter().enumerate() {
            let origin = origin.unwrap_or(0);
            let output = output_tensors.iter().position(|&output| output == tensor);
            tensors.push(TensorPlan { origin, place: origins[origin].tensors.len(), readers: Vec::new(), output });
            origins[origin].tensors.push(tensor);
        }
        for (index, step) in steps.iter_mut().enumerate() {
            step.origin = found.of_step[index];
            step.output_origin = step.outputs.first().map_or(step.origin, |&(_, tensor)| tensors[tensor].origin);
            let origin = &mut origins[step.origin];
            step.place = origin.steps.len();
            let mut reads = 0;
            for input in step.inputs.iter().filter(|input| input.is_last_use) {
                tensors[input.tensor].readers.push(index);
                reads += 1;
            }
            origin.steps.push(index);
            origin.reads.push(reads);
        }
        let dependents: Vec<Vec<bool>> = (0..steps.len()).map(|step| dependents_of(step, &steps, &tensors)).collect();
        for (step, dependents) in steps.iter_mut().zip(dependents) {
            step.dependents = dependents;
        }
        let writers = writers(&steps, numbers.count());
        let outputs = own.outputs.iter().zip(&output_tensors).map(|(spec, &tensor)| GraphOutput {
            name: spec.name.clone(),
            tensor,
            dims: spec.reshape.clone().unwrap_or_else(|| spec.dims.clone()),
            spec: spec.clone(),
            needs: needed_for(tensor, &steps, &writers),
        });
        Ok(Self {
            ensemble,
            is_batching: own.max_batch_size > 0,
            outputs: outputs.collect(),
            steps,
            tensors,
            inputs,
            origins,
            of_outputs: found.of_outputs,
            no_sequence: sequence::parameters(None).into(),
            max_inflight_requests: scheduling.max_inflight_requests,
        })
    }

    /// Name of the ensemble.
    pub fn ensemble(&self) -> &Name {
        &self.ensemble
    }

    /// How many steps there are; they are numbered from 0, in the order of the configuration.
    pub fn step_count(&self) -> usize {
        self.steps.len()
    }

    /// Model and version that a step asks.
    pub fn step_model(&self, step: usize) -> (&Name, VersionChoice) {
        (&self.steps[step].model_name, self.steps[step].version)
    }

    /// Steps that read an input of the ensemble, by number.
    pub fn steps_of_inputs(&self) -> impl Iterator<Item = usize> {
        let reads_input =
            |step: &Step| step.inputs.iter().any(|read| self.inputs.iter().any(|i| i.tensor == read.tensor));
        self.steps.iter().enumerate().filter(move |(_, step)| reads_input(step)).map(|(number, _)| number)
    }

    /// Steps that run for those outputs, or for all of them if none are named, by number.
    pub fn steps_for(&self, outputs: &[RequestedOutput]) -> impl Iterator<Item = usize> {
        let is_asked = |name: &Name| outputs.iter().any(|output| output.name == *name);
        let is_needed =
            move |step: usize| self.outputs.iter().any(|output| output.needs[step] && is_asked(&output.name));
        (0..self.steps.len()).filter(move |&step| outputs.is_empty() || is_needed(step))
    }

    /// What a step's requests ask for; nothing for all that its model has.
    pub fn step_outputs(&self, step: usize) -> &SmallVec<[RequestedOutput; 2]> {
        &self.steps[step].wanted
    }

    /// How many requests of one step may be under way, over all requests of the ensemble; `None` for any number.
    pub fn max_inflight_requests(&self) -> Option<u32> {
        (self.max_inflight_requests > 0).then_some(self.max_inflight_requests)
    }
}

impl Step {
    fn new(
        step: &server_proto::inference::model_ensembling::Step,
        version: VersionChoice,
        model: &Arc<Interface>,
        numbers: &mut Numbers,
    ) -> Self {
        let mut inputs: Vec<StepInput> = Vec::with_capacity(step.input_map.len());
        for spec in &model.inputs {
            let Some(tensor) = step.input_map.get(&*spec.name) else { continue };
            let tensor = numbers.of(tensor);
            inputs.push(StepInput { name: spec.name.clone(), tensor, is_last_use: false });
        }
        for index in 0..inputs.len() {
            let tensor = inputs[index].tensor;
            inputs[index].is_last_use = !inputs[index + 1..].iter().any(|later| later.tensor == tensor);
        }
        let mapped = |spec: &crate::interface::OutputSpec| step.output_map.get(&*spec.name);
        let outputs: Vec<(Name, usize)> =
            model.outputs.iter().filter_map(|spec| Some((spec.name.clone(), numbers.of(mapped(spec)?)))).collect();
        let wanted = outputs.iter().map(|(name, _)| RequestedOutput::values(name.clone())).collect();
        Self {
            model_name: step.model_name.as_str().into(),
            version,
            inputs,
            outputs,
            wanted,
            is_decoupled: model.is_decoupled,
            origin: 0,
            place: 0,
            output_origin: 0,
            dependents: Vec::new(),
        }
    }
}

/// Numbers of tensors by name, given in the order of their first use.
#[derive(Default)]
struct Numbers(BTreeMap<String, usize>);

impl Numbers {
    fn of(&mut self, name: &str) -> usize {
        let next = self.0.len();
        *self.0.entry(name.to_owned()).or_insert(next)
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

/// Labels of outputs that have none of their own: those of the model that gives them.
fn adopt_labels(own: &mut Interface, steps: &[Step], output_tensors: &[usize], members: &Members) {
    for (spec, tensor) in own.outputs.iter_mut().zip(output_tensors).filter(|(spec, _)| spec.labels.is_empty()) {
        for step in steps {
            let Some((name, _)) = step.outputs.iter().find(|(_, written)| written == tensor) else { continue };
            let model = members::interface(members, &step.model_name, step.version);
            if let Some(output) = model.and_then(|model| model.output(name)) {
                spec.labels.clone_from(&output.labels);
            }
        }
    }
}

/// Whether each step reads what `step` writes, directly or through others.
fn dependents_of(step: usize, steps: &[Step], tensors: &[TensorPlan]) -> Vec<bool> {
    let mut fed = vec![false; steps.len()];
    let mut open = vec![step];
    while let Some(step) = open.pop() {
        for reader in steps[step].outputs.iter().flat_map(|&(_, tensor)| &tensors[tensor].readers) {
            if !std::mem::replace(&mut fed[*reader], true) {
                open.push(*reader);
            }
        }
    }
    fed
}

/// The step that writes each tensor, if one does.
fn writers(steps: &[Step], tensor_count: usize) -> Vec<Option<usize>> {
    let mut writers = vec![None; tensor_count];
    for (index, step) in steps.iter().enumerate() {
        for &(_, tensor) in &step.outputs {
            writers[tensor] = Some(index);
        }
    }
    writers
}

/// Steps that must run before `tensor` has a value.
fn needed_for(tensor: usize, steps: &[Step], writers: &[Option<usize>]) -> Vec<bool> {
    let mut needed = vec![false; steps.len()];
    let mut open = vec![tensor];
    while let Some(tensor) = open.pop() {
        if let Some(index) = writers[tensor]
            && !std::mem::replace(&mut needed[index], true)
        {
            open.extend(steps[index].inputs.iter().map(|input| input.tensor));
        }
    }
    needed
}
