//! The state of one request to an ensemble: which steps may run now, and which responses are ready. It is told every
//! response of every step, and keeps a tensor only until the last step that reads it has started.
//!
//! Values come in iterations: those of the request are iteration one of a kind, and every response of a decoupled step opens
//! an iteration of that step's own. A step runs once for each iteration in which all its inputs are there; a value may be
//! there and be absent, where an optional input was not given or a model left an output out. An iteration in which nothing
//! runs and nothing can run is forgotten: nothing ever waits for what cannot come.

use std::{collections::VecDeque, sync::Arc};

use smallvec::{SmallVec, smallvec};

use super::{
    adapt::{adapt, undo_reshape},
    graph::Graph,
    sequence,
};
use crate::{
    error::{Error, Result},
    interface::Interface,
    request::{RequestedOutput, Sequence},
    response::{Outputs, ResponseParameters},
    tensor::{Name, Tensor},
};

/// Runs of one step that one request may have under way. More iterations wait, and the steps that feed it are not listened
/// to meanwhile: see [`Progress::is_paused`]. Bounds the memory of a request whose decoupled step is fast.
pub const MAX_RUNS_PER_STEP: usize = 64;

/// One run of a step that was started.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the step.
    pub step: usize,
    iteration: usize,
    /// Batch of its request; 0 if its model has no batch dimension.
    rows: u32,
    sequence: Option<Arc<Sequence>>,
}

/// What a run asks its model.
#[derive(Debug)]
pub struct StepInputs {
    /// Tensors under the model's names, in the model's shapes.
    pub inputs: SmallVec<[Tensor; 2]>,
    /// The sequence that the request belongs to.
    pub sequence: Option<Sequence>,
}

/// The state of one request.
pub struct Progress {
    graph: Arc<Graph>,
    request_id: String,
    /// The sequence of the request itself.
    sequence: Option<Sequence>,
    /// Steps that the outputs asked for need; `None` for all.
    needed: Option<Vec<bool>>,
    /// Outputs asked for, by their number; `None` for all.
    wanted: Option<Vec<bool>>,
    iterations: Iterations,
    /// Step and iteration of runs that may start, in the order in which their inputs came.
    ready: VecDeque<(usize, usize)>,
    /// Runs that may start and runs under way, by step.
    counts: SmallVec<[Counts; 4]>,
    running: usize,
    responses: VecDeque<Outputs>,
    has_responded: bool,
    failure: Option<Error>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    ready: usize,
    running: usize,
}

/// One value of an ensemble tensor.
struct Value {
    /// `None` if it is known that there is none.
    tensor: Option<Tensor>,
    /// Batch of whoever made it; 0 without a batch dimension.
    rows: u32,
    /// The sequence that it belongs to, where that is not the request's own.
    sequence: Option<Arc<Sequence>>,
    /// A step made it.
    is_of_step: bool,
}

struct Slot {
    value: Option<Value>,
    /// Readers that have not started, and the response.
    uses: usize,
    is_set: bool,
}

/// Values that belong together.
struct Iteration {
    origin: usize,
    /// By place among the origin's tensors.
    slots: SmallVec<[Slot; 2]>,
    /// By place among the origin's steps: tensors that are not there yet.
    missing: SmallVec<[u16; 4]>,
    /// Outputs asked for that are not there yet.
    missing_outputs: usize,
    /// Runs of this iteration that may start or are under way.
    active: usize,
}

/// Iterations by number; numbers are given again.
#[derive(Default)]
struct Iterations {
    all: SmallVec<[Option<Iteration>; 1]>,
    free: Vec<usize>,
}

impl Progress {
    /// The state of a request that was checked against the ensemble's interface. `rows` is its batch dimension,
    /// which is ignored if the ensemble has none; `outputs` are those asked for, none for all.
    pub fn new(
        graph: Arc<Graph>,
        inputs: SmallVec<[Tensor; 2]>,
        outputs: &[RequestedOutput],
        rows: u32,
        request_id: &str,
        sequence: Option<Sequence>,
    ) -> Self {
        let (wanted, needed) = selection(&graph, outputs);
        let rows = if graph.is_batching { rows } else { 0 };
        let mut progress = Self {
            request_id: request_id.to_owned(),
            sequence,
            needed,
            wanted,
            iterations: Iterations::default(),
            ready: VecDeque::new(),
            counts: smallvec![Counts::default(); graph.steps.len()],
            running: 0,
            responses: VecDeque::new(),
            has_responded: false,
            failure: None,
            graph,
        };
        let graph = progress.graph.clone();
        let root = progress.open_iteration(0);
        let mut inputs = inputs;
        for input in &graph.inputs {
            let given = inputs.iter().position(|tensor| tensor.name == input.name);
            let tensor = given.map(|position| inputs.swap_remove(position));
            progress.set(root, input.tensor, Value { tensor, rows, sequence: None, is_of_step: false });
        }
        progress.forget_if_over(root);
        progress
    }

    /// Starts the next run that may start. `model` is what the step's model takes; `may_start` is asked for
    /// each step of which a run waits, and may refuse it for now.
    pub fn start<'a>(
        &mut self,
        mut may_start: impl FnMut(usize) -> bool,
        model: impl FnOnce(usize) -> Option<&'a Interface>,
    ) -> Option<(Run, StepInputs)> {
        let mut refused: SmallVec<[usize; 4]> = SmallVec::new();
        let mut found = None;
        for (position, &(step, _)) in self.ready.iter().enumerate() {
            if refused.contains(&step) {
                continue;
            }
            if self.counts[step].running < MAX_RUNS_PER_STEP && may_start(step) {
                found = Some(position);
                break;
            }
            refused.push(step);
        }
        let (step, iteration) = self.ready.remove(found?)?;
        self.counts[step].ready -= 1;
        self.counts[step].running += 1;
        self.running += 1;
        Some(self.take_inputs(step, iteration, model(step)))
    }

    /// Whether the responses of a step's runs should wait unread: a step that it feeds has runs that cannot start now. Such
    /// a step itself is never paused for that, nor are those behind it, so that what it waits for goes on.
    pub fn is_paused(&self, step: usize) -> bool {
        !self.ready.is_empty()
            && self.graph.steps[step].feeds.iter().zip(&self.counts).any(|(&feeds, counts)| feeds && counts.ready > 0)
    }

    /// A run has answered; more responses may follow.
    pub fn responded(&mut self, run: &Run, mut response: Outputs) {
        if self.failure.is_some() {
            return;
        }
        let current = run.sequence.as_deref().or(self.sequence.as_ref());
        let sequence = match sequence::named(&response.parameters, current) {
            Ok(None) => run.sequence.clone(),
            Ok(Some(named)) => Some(Arc::new(named)),
            Err(error) => return self.fail(error),
        };
        let graph = self.graph.clone();
        let step = &graph.steps[run.step];
        let iteration = if step.is_decoupled { self.open_iteration(step.output_origin) } else { run.iteration };
        for (name, tensor) in &step.outputs {
            let given = response.tensors.iter().position(|tensor| tensor.name == *name);
            let value = given.map(|position| response.tensors.swap_remove(position));
            let value = Value { tensor: value, rows: run.rows, sequence: sequence.clone(), is_of_step: true };
            self.set(iteration, *tensor, value);
        }
        if step.is_decoupled {
            self.forget_if_over(iteration);
        }
    }

    /// A run has ended well.
    pub fn finished(&mut self, run: &Run) {
        self.counts[run.step].running -= 1;
        self.running -= 1;
        self.deactivate(run.iteration);
    }

    /// A run has ended with an error. Other runs are let finish; no more are started.
    pub fn failed(&mut self, run: &Run, error: Error) {
        self.finished(run);
        self.fail(error);
    }

    /// The request cannot go on.
    pub fn fail(&mut self, error: Error) {
        if self.failure.is_some() {
            return;
        }
        let text = format!("in ensemble '{}', {}", self.graph.ensemble, error.message);
        self.failure = Some(Error::new(error.code, text));
        for (step, iteration) in std::mem::take(&mut self.ready) {
            self.counts[step].ready -= 1;
            self.deactivate(iteration);
        }
    }

    /// Whether the request is going to end with an error.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// A response of the ensemble that is ready for its caller.
    pub fn next_response(&mut self) -> Option<Outputs> {
        self.responses.pop_front()
    }

    /// How the request ended: well, or with an error for its caller. `None` while runs may start or are under way, or
    /// responses are ready.
    pub fn end(&mut self) -> Option<Result<()>> {
        if self.running > 0 || !self.ready.is_empty() || !self.responses.is_empty() {
            return None;
        }
        if let Some(failure) = &self.failure {
            return Some(Err(failure.clone()));
        }
        if self.has_responded || self.graph.origins.len() > 1 {
            return Some(Ok(())); // a decoupled ensemble may answer nothing
        }
        let ensemble = &self.graph.ensemble;
        let deadlock = Error::invalid_argument(
            "unexpected deadlock, at least one output is not set while no more ensemble steps can be made",
        )
        .with_request_id(&self.request_id);
        Some(Err(Error::invalid_argument(format!("in ensemble '{ensemble}', {}", deadlock.message))))
    }

    /// Whether a step has to run for the outputs asked for.
    pub fn is_needed(&self, step: usize) -> bool {
        self.needed.as_ref().is_none_or(|needed| needed[step])
    }

    /// Iterations that are not forgotten yet.
    #[cfg(test)]
    pub(super) fn iterations_held(&self) -> usize {
        self.iterations.all.iter().flatten().count()
    }

    fn is_wanted(&self, output: usize) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted[output])
    }

    fn open_iteration(&mut self, number: usize) -> usize {
        let graph = self.graph.clone();
        let origin = &graph.origins[number];
        let slots = origin.tensors.iter().map(|&tensor| {
            let plan = &graph.tensors[tensor];
            let readers = plan.readers.iter().filter(|&&step| self.is_needed(step)).count();
            let is_output = plan.output.is_some_and(|output| self.is_wanted(output));
            Slot { value: None, uses: readers + usize::from(is_output), is_set: false }
        });
        let slots = slots.collect();
        let missing_outputs = if number == graph.of_outputs {
            (0..graph.outputs.len()).filter(|&output| self.is_wanted(output)).count()
        } else {
            0
        };
        let missing = origin.reads.iter().copied().collect();
        self.iterations.add(Iteration { origin: number, slots, missing, missing_outputs, active: 0 })
    }

    /// Puts a value in its place, and finds the runs and the response that it completes.
    fn set(&mut self, number: usize, tensor: usize, value: Value) {
        let graph = self.graph.clone();
        let plan = &graph.tensors[tensor];
        let Some(iteration) = self.iterations.get(number) else { return };
        debug_assert_eq!(plan.origin, iteration.origin, "a tensor has one origin");
        let slot = &mut iteration.slots[plan.place];
        if slot.is_set {
            return; // a model that answers once answered twice: the first counts
        }
        slot.is_set = true;
        if slot.uses > 0 {
            slot.value = Some(value);
        }
        for &reader in &plan.readers {
            if self.needed.as_ref().is_some_and(|needed| !needed[reader]) {
                continue;
            }
            let missing = &mut iteration.missing[graph.steps[reader].place];
            *missing -= 1;
            if *missing == 0 {
                iteration.active += 1;
                self.counts[reader].ready += 1;
                self.ready.push_back((reader, number));
            }
        }
        if let Some(output) = plan.output
            && self.wanted.as_ref().is_none_or(|wanted| wanted[output])
        {
            iteration.missing_outputs -= 1;
            if iteration.missing_outputs == 0 {
                self.respond(number);
            }
        }
    }

    /// Makes the ensemble's response of an iteration whose outputs are all there.
    fn respond(&mut self, number: usize) {
        let graph = self.graph.clone();
        let mut outputs = Outputs::default();
        let mut sequence: Option<Option<Arc<Sequence>>> = None;
        for (index, output) in graph.outputs.iter().enumerate() {
            if !self.is_wanted(index) {
                continue;
            }
            let Some(iteration) = self.iterations.get(number) else { return };
            let slot = &mut iteration.slots[graph.tensors[output.tensor].place];
            let Some(value) = slot.take() else { continue };
            if value.is_of_step {
                sequence = Some(value.sequence);
            }
            let Some(mut tensor) = value.tensor else { continue };
            let shape = adapt(&output.dims, graph.is_batching, value.rows, tensor.shape);
            tensor.shape = undo_reshape(&output.spec, graph.is_batching, shape);
            tensor.name = output.name.clone();
            outputs.tensors.push(tensor);
        }
        if let Some(changed) = sequence {
            outputs.parameters = self.parameters(changed.as_deref());
        }
        self.has_responded = true;
        self.responses.push_back(outputs);
    }

    fn parameters(&self, changed: Option<&Sequence>) -> ResponseParameters {
        match changed.or(self.sequence.as_ref()) {
            None => self.graph.no_sequence.clone(),
            sequence => sequence::parameters(sequence).into(),
        }
    }

    /// The request of a run that starts. Tensors that nobody reads after it leave their slots.
    fn take_inputs(&mut self, step: usize, number: usize, model: Option<&Interface>) -> (Run, StepInputs) {
        let graph = self.graph.clone();
        let plan = &graph.steps[step];
        let mut inputs = SmallVec::with_capacity(plan.inputs.len());
        let mut sequence: Option<Option<Arc<Sequence>>> = None;
        let is_batching = model.is_some_and(|model| model.max_batch_size > 0);
        let mut rows = 0;
        if let Some(iteration) = self.iterations.get(number) {
            for (position, input) in plan.inputs.iter().enumerate() {
                let slot = &mut iteration.slots[graph.tensors[input.tensor].place];
                let value = if input.is_last_use { slot.take() } else { slot.value.as_ref().map(Value::share) };
                let Some(value) = value else { continue };
                if value.is_of_step && sequence.is_none() {
                    sequence = Some(value.sequence);
                }
                let Some(mut tensor) = value.tensor else { continue };
                let spec = model.and_then(|model| model.input_near(position, &input.name));
                let dims = spec.map(|spec| &*spec.dims).unwrap_or_default();
                tensor.shape = adapt(dims, is_batching, value.rows, tensor.shape);
                tensor.name = input.name.clone();
                if is_batching {
                    rows = tensor.shape.first().and_then(|&rows| u32::try_from(rows).ok()).unwrap_or(0);
                }
                inputs.push(tensor);
            }
        }
        let changed = sequence.flatten();
        let of_request = changed.as_deref().or(self.sequence.as_ref()).cloned();
        (Run { step, iteration: number, rows, sequence: changed }, StepInputs { inputs, sequence: of_request })
    }

    fn deactivate(&mut self, number: usize) {
        if let Some(iteration) = self.iterations.get(number) {
            iteration.active -= 1;
        }
        self.forget_if_over(number);
    }

    fn forget_if_over(&mut self, number: usize) {
        if self.iterations.get(number).is_some_and(|iteration| iteration.active == 0) {
            self.iterations.remove(number);
        }
    }
}

/// Outputs asked for and steps they need, by number; `None` each where that is all of them.
fn selection(graph: &Graph, outputs: &[RequestedOutput]) -> (Option<Vec<bool>>, Option<Vec<bool>>) {
    let is_asked = |name: &Name| outputs.iter().any(|output| output.name == *name);
    if outputs.is_empty() || graph.outputs.iter().all(|output| is_asked(&output.name)) {
        return (None, None);
    }
    let wanted: Vec<bool> = graph.outputs.iter().map(|output| is_asked(&output.name)).collect();
    let is_needed =
        |step: usize| graph.outputs.iter().zip(&wanted).any(|(output, &wanted)| wanted && output.needs[step]);
    let needed: Vec<bool> = (0..graph.steps.len()).map(is_needed).collect();
    (Some(wanted), Some(needed))
}

impl Slot {
    /// The value for one of its uses: itself for the last one, shared for those before.
    fn take(&mut self) -> Option<Value> {
        self.uses = self.uses.saturating_sub(1);
        if self.uses == 0 { self.value.take() } else { self.value.as_ref().map(Value::share) }
    }
}

impl Value {
    /// The same value again; bytes are shared.
    fn share(&self) -> Self {
        Self {
            tensor: self.tensor.clone(),
            rows: self.rows,
            sequence: self.sequence.clone(),
            is_of_step: self.is_of_step,
        }
    }
}

impl Iterations {
    fn add(&mut self, iteration: Iteration) -> usize {
        if let Some(number) = self.free.pop() {
            self.all[number] = Some(iteration);
            return number;
        }
        self.all.push(Some(iteration));
        self.all.len() - 1
    }

    fn get(&mut self, number: usize) -> Option<&mut Iteration> {
        self.all.get_mut(number)?.as_mut()
    }

    fn remove(&mut self, number: usize) {
        if let Some(held) = self.all.get_mut(number)
            && held.take().is_some()
        {
            self.free.push(number);
        }
    }
}
