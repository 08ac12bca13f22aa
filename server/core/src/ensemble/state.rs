//! What [`Progress`](super::Progress) keeps: the values of every iteration, the runs that they make possible, and the responses
//! that they make up.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::{
    adapt::{adapt, undo_reshape},
    graph::Graph,
    run::{Run, StepInputs},
    sequence,
    values::{Iteration, Iterations, Slot, Value},
};
use crate::{
    error::Error,
    interface::Interface,
    request::{RequestedOutput, Sequence},
    response::{Outputs, ResponseParameters},
    tensor::Name,
};

pub(super) struct State {
    /// The sequence of the request itself.
    pub(super) sequence: Option<Sequence>,
    /// Steps that the outputs asked for need; `None` for all.
    needed: Option<Vec<bool>>,
    /// Outputs asked for, by their number; `None` for all.
    wanted: Option<Vec<bool>>,
    pub(super) iterations: Iterations,
    /// Step and iteration of runs that may start, in the order in which their inputs came.
    ready: SmallVec<[(usize, usize); 4]>,
    /// Runs that may start and runs under way, by step.
    counts: SmallVec<[Counts; 4]>,
    running: usize,
    /// Ready for the caller, who takes each before more are made: rarely more than one.
    pub(super) responses: SmallVec<[Outputs; 1]>,
    pub(super) has_responded: bool,
    pub(super) failure: Option<Error>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    ready: usize,
    running: usize,
}

impl State {
    pub(super) fn new(graph: &Graph, outputs: &[RequestedOutput], sequence: Option<Sequence>) -> Self {
        let (wanted, needed) = selection(graph, outputs);
        Self {
            sequence,
            needed,
            wanted,
            iterations: Iterations::default(),
            ready: SmallVec::new(),
            counts: smallvec![Counts::default(); graph.steps.len()],
            running: 0,
            responses: SmallVec::new(),
            has_responded: false,
            failure: None,
        }
    }

    /// Whether nothing runs, may run, or is to be read.
    pub(super) fn is_over(&self) -> bool {
        self.has_run() && self.responses.is_empty()
    }

    /// Whether nothing runs or may run.
    pub(super) fn has_run(&self) -> bool {
        self.running == 0 && self.ready.is_empty()
    }

    pub(super) fn is_needed(&self, step: usize) -> bool {
        self.needed.as_ref().is_none_or(|needed| needed[step])
    }

    fn is_wanted(&self, output: usize) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted[output])
    }

    /// Whether runs of any of those steps wait to be started.
    pub(super) fn has_ready(&self, steps: &[bool]) -> bool {
        !self.ready.is_empty() && steps.iter().zip(&self.counts).any(|(&is_asked, counts)| is_asked && counts.ready > 0)
    }

    /// Takes the first run that may start: `may_start` is asked once for each step, with its runs under way.
    pub(super) fn next_ready(&mut self, mut may_start: impl FnMut(usize, usize) -> bool) -> Option<(usize, usize)> {
        let mut refused: SmallVec<[usize; 4]> = SmallVec::new();
        let mut found = None;
        for (position, &(step, _)) in self.ready.iter().enumerate() {
            if refused.contains(&step) {
                continue;
            }
            if may_start(step, self.counts[step].running) {
                found = Some(position);
                break;
            }
            refused.push(step);
        }
        let (step, iteration) = self.ready.remove(found?);
        self.counts[step].ready -= 1;
        self.counts[step].running += 1;
        self.running += 1;
        Some((step, iteration))
    }

    /// A run has ended.
    pub(super) fn ended(&mut self, step: usize, iteration: usize) {
        self.counts[step].running -= 1;
        self.running -= 1;
        self.deactivate(iteration);
    }

    /// The first error counts. What was to start does not.
    pub(super) fn fail(&mut self, error: Error) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(error);
        for (step, iteration) in std::mem::take(&mut self.ready) {
            self.counts[step].ready -= 1;
            self.deactivate(iteration);
        }
    }

    pub(super) fn open_iteration(&mut self, graph: &Graph, number: usize) -> usize {
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
    pub(super) fn set(&mut self, graph: &Graph, number: usize, tensor: usize, value: Value) {
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
                self.ready.push((reader, number));
            }
        }
        if let Some(output) = plan.output
            && self.wanted.as_ref().is_none_or(|wanted| wanted[output])
        {
            iteration.missing_outputs -= 1;
            if iteration.missing_outputs == 0 {
                self.respond(graph, number);
            }
        }
    }

    /// Makes the ensemble's response of an iteration whose outputs are all there.
    fn respond(&mut self, graph: &Graph, number: usize) {
        let mut outputs = Outputs::default();
        let mut sequence: Option<Option<Arc<Sequence>>> = None;
        for (index, output) in graph.outputs.iter().enumerate() {
            if !self.is_wanted(index) {
                continue;
            }
            let Some(iteration) = self.iterations.get(number) else { return };
            let slot = &mut iteration.slots[graph.tensors[output.tensor].place];
            let Some(value) = slot.take() else { continue };
            let Some(mut tensor) = value.tensor else { continue };
            if value.is_of_step {
                sequence = Some(value.sequence);
            }
            let shape = adapt(&output.dims, graph.is_batching, value.rows, tensor.shape);
            tensor.shape = undo_reshape(&output.spec, graph.is_batching, shape);
            tensor.name = output.name.clone();
            outputs.tensors.push(tensor);
        }
        if let Some(changed) = sequence {
            outputs.parameters = self.parameters(graph, changed.as_deref());
        }
        self.has_responded = true;
        self.responses.push(outputs);
    }

    fn parameters(&self, graph: &Graph, changed: Option<&Sequence>) -> ResponseParameters {
        match changed.or(self.sequence.as_ref()) {
            None => graph.no_sequence.clone(),
            sequence => sequence::parameters(sequence).into(),
        }
    }

    /// The request of a run that starts. Tensors that nobody reads after it leave their slots.
    pub(super) fn take_inputs(
        &mut self,
        graph: &Graph,
        step: usize,
        number: usize,
        model: Option<&Interface>,
    ) -> (Run, StepInputs) {
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

    pub(super) fn forget_if_over(&mut self, number: usize) {
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
