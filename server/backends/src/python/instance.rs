//! One execution context of a Python model: its worker, as the instance's thread drives it.

use std::time::Instant;

use server_core::{backend::Instance, batch::Batch, error::Error};

use super::{encode::Message, run, worker::Worker};

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
}

impl Instance for PythonInstance {
    fn execute(&mut self, batch: Batch) {
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            let shared = self.worker.as_ref().map(|worker| worker.shared.clone());
            shared.iter().for_each(|shared| shared.calls.begin_main(&batch));
            self.run(batch);
            batches.extend(shared.iter().flat_map(|shared| shared.calls.end_main()));
        }
    }
}

impl PythonInstance {
    fn run(&mut self, batch: Batch) {
        let Some(worker) = &mut self.worker else {
            return batch.fail(&Error::internal("the worker has ended"), Instant::now());
        };
        let shared = worker.shared.clone();
        let Message { writer, segments, .. } =
            match run::message(std::mem::take(&mut self.memory), batch.pending(), None, &shared) {
                Ok(message) => message,
                Err(error) => return batch.fail(&error, Instant::now()),
            };
        self.memory = writer.into_bytes();
        let sent_at = Instant::now();
        let outcomes = worker.ask(&self.memory, &segments, run::outcomes);
        run::end(batch, outcomes, sent_at, &shared);
    }
}

impl Drop for PythonInstance {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.end();
        }
    }
}
