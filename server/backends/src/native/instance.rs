//! One execution context: takes a batch, feeds the runner, gives every request its part. What it allocates per batch
//! are the responses; packed inputs and strings use memory that stays.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    completion::Marks,
    error::{Error, Result},
    footprint::Footprint,
    responder::Reply,
    response::Outputs,
};
use smallvec::SmallVec;

use super::{
    input::{Fed, InputError},
    output::{Output, Run, Texts},
    runner::Runner,
    scratch::Scratch,
    tensors::Tensors,
};
use crate::heap::TrimAfter;

/// A runner and what it needs to serve requests.
pub(crate) struct BatchInstance<R> {
    name: String,
    runner: R,
    tensors: Tensors,
    /// The first dimension of every tensor is the batch.
    has_rows: bool,
    /// One per input.
    packed: Vec<Scratch>,
    texts: Texts,
    /// After the runner.
    _memory: TrimAfter,
}

/// Moments within a batch, as far as it came.
#[derive(Default)]
pub(super) struct Moments {
    pub(super) input_end: Option<Instant>,
    pub(super) output_start: Option<Instant>,
}

impl Moments {
    /// Answers a batch that ends now, after these moments.
    pub(super) fn complete(self, batch: Batch, replies: Vec<Reply>) {
        let end = Instant::now();
        let input_end = self.input_end.unwrap_or(end);
        let output_start = self.output_start.unwrap_or(end);
        let marks = Marks { start: batch.start(), input_end, output_start, end };
        batch.complete(replies, &marks);
    }
}

impl<R: Runner> BatchInstance<R> {
    /// `runner` counts inputs and outputs in the order of `tensors`. `has_rows`: the first dimension of every tensor is the batch.
    pub(crate) fn new(name: String, runner: R, tensors: Tensors, has_rows: bool) -> Self {
        let packed = tensors.inputs.iter().map(|_| Scratch::default()).collect();
        Self { name, runner, tensors, has_rows, packed, texts: Texts::default(), _memory: TrimAfter }
    }

    /// One reply per request, in order.
    fn run_all(&mut self, requests: &[Pending], replies: &mut Vec<Reply>, moments: &mut Moments) {
        let has_scalar = self.tensors.outputs.iter().any(Output::is_scalar);
        let together = if self.has_rows && !has_scalar { requests.len() } else { 1 };
        requests.chunks(together.max(1)).for_each(|group| self.run_or_split(group, replies, moments));
    }

    /// Runs requests together. If they cannot, or if the model fails on them, each half is run by itself, down to the requests at
    /// fault: those alone fail. All fail if the model runs no part of a batch.
    fn run_or_split(&mut self, requests: &[Pending], replies: &mut Vec<Reply>, moments: &mut Moments) {
        if requests.iter().all(|pending| pending.completion.is_empty_row()) {
            return replies.extend(requests.iter().map(|_| Ok(Outputs::default())));
        }
        match self.run(requests, replies, moments) {
            Ok(()) => {}
            Err(_) if requests.len() > 1 && self.runner.runs_parts() => {
                let (first, second) = requests.split_at(requests.len() / 2);
                self.run_or_split(first, replies, moments);
                self.run_or_split(second, replies, moments);
            }
            Err(InputError::Failed(error)) => replies.extend(requests.iter().map(|_| Err(error.clone()))),
            Err(InputError::CannotShareBatch) => {
                let error = Error::internal("the requests of a batch do not fit each other");
                replies.extend(requests.iter().map(|_| Err(error.clone())));
            }
        }
    }

    /// Runs requests together and appends their answers; appends nothing if that fails.
    fn run(&mut self, requests: &[Pending], replies: &mut Vec<Reply>, moments: &mut Moments) -> Result<(), InputError> {
        let Self { runner, tensors: Tensors { inputs, computed, outputs }, packed, texts, has_rows, .. } = self;
        let mut fed = SmallVec::<[(usize, Fed<'_>); 8]>::new();
        for ((number, input), scratch) in inputs.iter().enumerate().zip(packed) {
            if let Some(value) = input.feed(requests, number, scratch)? {
                fed.push((number, value));
            }
        }
        let mut number = inputs.len();
        for input in computed {
            let count = input.targets.len();
            let value = input.feed(requests)?;
            fed.extend((number..number + count).map(|number| (number, value.clone())));
            number += count;
        }
        moments.input_end.get_or_insert_with(Instant::now);

        let is_wanted = |output: &Output| requests.iter().any(|pending| output.is_wanted(pending));
        let wanted: SmallVec<[usize; 8]> =
            outputs.iter().enumerate().filter(|(_, output)| is_wanted(output)).map(|(number, _)| number).collect();
        let values = runner.run(&fed, &wanted)?;
        moments.output_start = Some(Instant::now());
        if values.len() != wanted.len() {
            return Err(InputError::Failed(Error::internal("an output is missing")));
        }

        let first = replies.len();
        replies.resize_with(first + requests.len(), || Ok(Outputs::default()));
        let run = Run { fed: &fed, requests, has_rows: *has_rows };
        for (&number, value) in wanted.iter().zip(values) {
            if let Err(error) = outputs[number].distribute(value, &run, texts, &mut replies[first..]) {
                replies.truncate(first);
                return Err(InputError::Failed(error));
            }
        }
        Ok(())
    }
}

impl<R: Runner> Instance for BatchInstance<R> {
    fn footprint(&self, footprint: &mut Footprint) {
        footprint.add(self);
        footprint.add(&*self.tensors.inputs);
        footprint.add(&*self.tensors.outputs);
        footprint.add(&*self.packed);
    }

    fn execute(&mut self, batch: Batch) {
        let mut moments = Moments::default();
        let mut replies = Vec::with_capacity(batch.pending().len());
        let run = || self.run_all(batch.pending(), &mut replies, &mut moments);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            let error = Error::internal(format!("instance '{}' failed inside while it ran a batch", self.name));
            replies.resize_with(batch.pending().len(), || Err(error.clone()));
        }
        moments.complete(batch, replies);
    }

    fn runs_on_any_thread(&self) -> bool {
        self.runner.runs_on_any_thread() // what is kept between batches is the instance's own
    }
}
