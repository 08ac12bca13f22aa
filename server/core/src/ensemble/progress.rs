//! The state of one request to an ensemble: which steps may run now, and which responses are ready. It is told every
//! response of every step, and keeps a tensor only until the last step that reads it has started.
//!
//! Values come in iterations: those of the request are iteration one of a kind, and every response of a decoupled step opens
//! an iteration of that step's own. A step runs once for each iteration in which all its inputs are there; a value may be
//! there and be absent, where an optional input was not given or a model left an output out. An iteration in which nothing
//! runs and nothing can run is forgotten: nothing ever waits for what cannot come.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    graph::Graph,
    run::{Run, StepInputs},
    sequence,
    state::State,
    values::Value,
};
use crate::{
    error::{Error, Result},
    interface::Interface,
    request::{RequestedOutput, Sequence},
    response::Outputs,
    tensor::Tensor,
};

/// Runs of one step that one request may have under way. More iterations wait, and the steps that feed it are not listened
/// to meanwhile: see [`Progress::is_paused`]. Bounds the memory of a request whose decoupled step is fast.
pub const MAX_RUNS_PER_STEP: usize = 64;

/// The progress of one request.
pub struct Progress {
    graph: Arc<Graph>,
    request_id: String,
    state: State,
}

impl Progress {
    /// The state of a request that was checked against the ensemble's interface. `rows` is its batch dimension, which is
    /// ignored if the ensemble has none; `outputs` are those asked for, none for all.
    pub fn new(
        graph: Arc<Graph>,
        mut inputs: SmallVec<[Tensor; 2]>,
        outputs: &[RequestedOutput],
        rows: u32,
        request_id: String,
        sequence: Option<Sequence>,
    ) -> Self {
        let rows = if graph.is_batching { rows } else { 0 };
        let mut state = State::new(&graph, outputs, sequence);
        let root = state.open_iteration(&graph, 0);
        for input in &graph.inputs {
            let given = inputs.iter().position(|tensor| tensor.name == input.name);
            let tensor = given.map(|position| inputs.swap_remove(position));
            state.set(&graph, root, input.tensor, Value { tensor, rows, sequence: None, is_of_step: false });
        }
        state.forget_if_over(root);
        Self { graph, request_id, state }
    }

    /// The caller's own id of the request.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Starts the next run that may start. `model` is what the step's model takes; `may_start` is asked for each step of
    /// which a run waits, with how many of its runs are under way, and may refuse it for now; a run that it lets start
    /// does.
    pub fn start<'a>(
        &mut self,
        mut may_start: impl FnMut(usize, usize) -> bool,
        model: impl FnOnce(usize) -> Option<&'a Interface>,
    ) -> Option<(Run, StepInputs)> {
        let (step, iteration) =
            self.state.next_ready(|step, running| running < MAX_RUNS_PER_STEP && may_start(step, running))?;
        Some(self.state.take_inputs(&self.graph, step, iteration, model(step)))
    }

    /// Whether the responses of a step's runs should wait unread: a step that it feeds has runs that cannot start now. Such
    /// a step itself is never paused for that, nor are those behind it, so that what it waits for goes on.
    pub fn is_paused(&self, step: usize) -> bool {
        self.state.has_ready(&self.graph.steps[step].dependents)
    }

    /// A run has answered; more responses may follow.
    pub fn responded(&mut self, run: &Run, mut response: Outputs) {
        let Self { graph, state, .. } = self;
        if state.failure.is_some() {
            return;
        }
        let current = run.sequence.as_deref().or(state.sequence.as_ref());
        let sequence = match sequence::named(&response.parameters, current) {
            Ok(None) => run.sequence.clone(),
            Ok(Some(named)) => Some(Arc::new(named)),
            Err(error) => return self.fail(error),
        };
        let step = &graph.steps[run.step];
        let iteration = if step.is_decoupled { state.open_iteration(graph, step.output_origin) } else { run.iteration };
        for (name, tensor) in &step.outputs {
            let given = response.tensors.iter().position(|tensor| tensor.name == *name);
            let value = given.map(|position| response.tensors.swap_remove(position));
            let value = Value { tensor: value, rows: run.rows, sequence: sequence.clone(), is_of_step: true };
            state.set(graph, iteration, *tensor, value);
        }
        if step.is_decoupled {
            state.forget_if_over(iteration);
        }
    }

    /// A run has ended well.
    pub fn finished(&mut self, run: &Run) {
        self.state.ended(run.step, run.iteration);
    }

    /// A run has ended with an error. Other runs are let finish; no more are started.
    pub fn failed(&mut self, run: &Run, error: Error) {
        self.finished(run);
        self.fail(error);
    }

    /// The request cannot go on.
    pub fn fail(&mut self, error: Error) {
        let text = format!("in ensemble '{}', {}", self.graph.ensemble, error.message);
        self.state.fail(Error::new(error.code, text));
    }

    /// Whether the request is going to end with an error.
    pub fn has_failed(&self) -> bool {
        self.state.failure.is_some()
    }

    /// Whether a response is ready.
    pub fn has_response(&self) -> bool {
        !self.state.responses.is_empty()
    }

    /// Whether every run has ended and none will start: only responses may be left, to be read.
    pub fn has_run(&self) -> bool {
        self.state.has_run()
    }

    /// A response of the ensemble that is ready for its caller.
    pub fn next_response(&mut self) -> Option<Outputs> {
        let responses = &mut self.state.responses;
        (!responses.is_empty()).then(|| responses.remove(0))
    }

    /// How the request ended: well, or with an error for its caller. `None` while runs may start or are under way, or
    /// responses are ready.
    pub fn end(&self) -> Option<Result<()>> {
        let Self { graph, state, .. } = self;
        if !state.is_over() {
            return None;
        }
        if let Some(failure) = &state.failure {
            return Some(Err(failure.clone()));
        }
        if state.has_responded || graph.origins.len() > 1 {
            return Some(Ok(())); // a decoupled ensemble may answer nothing
        }
        let deadlock = Error::invalid_argument(
            "unexpected deadlock, at least one output is not set while no more ensemble steps can be made",
        )
        .with_request_id(&self.request_id);
        Some(Err(Error::invalid_argument(format!("in ensemble '{}', {}", graph.ensemble, deadlock.message))))
    }

    /// Whether a step has to run for the outputs asked for.
    pub fn is_needed(&self, step: usize) -> bool {
        self.state.is_needed(step)
    }

    /// Iterations that are not forgotten yet.
    #[cfg(test)]
    pub(super) fn iterations_held(&self) -> usize {
        self.state.iterations.held()
    }
}
