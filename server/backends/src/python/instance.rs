//! One execution context of a Python model: its worker, as the instance's thread drives it.

use std::{mem, time::Instant};

use server_core::{backend::Instance, batch::Batch, error::Error};

use super::{open_requests::SLOTS, run, worker::Worker};

/// Runs batches on one worker.
pub(super) struct PythonInstance {
    /// Taken at the end.
    worker: Option<Worker>,
    /// Memory of the last message, for the next.
    memory: Vec<u8>,
}

impl PythonInstance {
    pub(super) fn new(worker: Worker) -> Self {
        Self { worker: Some(worker), memory: Vec::new() }
    }

    /// Runs a batch of [`SLOTS`] requests at most, and after it what was to run in the middle of its calls and did not.
    fn run_all(&mut self, batch: Batch) {
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            let shared = self.worker.as_ref().map(|worker| worker.shared.clone());
            shared.iter().for_each(|shared| shared.calls.begin_main(&batch));
            self.run(batch);
            batches.extend(shared.iter().flat_map(|shared| shared.calls.end_main()));
        }
    }

    fn run(&mut self, batch: Batch) {
        let Some(worker) = &mut self.worker else {
            return batch.fail(&Error::internal("the worker has ended"), Instant::now());
        };
        let shared = worker.shared.clone();
        let Some(running) = run::begin(batch, None, &mut self.memory, &shared) else { return };
        let outcomes = worker.ask(&self.memory, &running.segments, run::outcomes);
        run::end(running, outcomes, &shared);
    }
}

impl Instance for PythonInstance {
    fn execute(&mut self, batch: Batch) {
        if batch.pending().len() <= SLOTS {
            return self.run_all(batch);
        }
        let start = batch.start();
        let (mut pending, _) = batch.into_pending();
        while !pending.is_empty() {
            let rest = pending.split_off(pending.len().min(SLOTS));
            self.run_all(Batch::new(mem::replace(&mut pending, rest), start));
        }
    }
}

impl Drop for PythonInstance {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.end();
        }
    }
}
