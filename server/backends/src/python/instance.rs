//! One execution context of a Python model: its worker, as the instance's thread drives it.

use std::{mem, time::Instant};

use server_core::{backend::Instance, batch::Batch};

use super::{open_requests::SLOTS, run, supervise::Supervisor};

/// Runs batches on one worker.
pub(super) struct PythonInstance {
    supervisor: Supervisor,
    /// Memory of the last message, for the next.
    memory: Vec<u8>,
}

impl PythonInstance {
    pub(super) fn new(supervisor: Supervisor) -> Self {
        Self { supervisor, memory: Vec::new() }
    }

    /// Runs a batch of [`SLOTS`] requests at most, and after it what was to run in the middle of its calls and did not.
    fn run_all(&mut self, batch: Batch) {
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            batches.extend(self.run(batch));
        }
    }

    /// Runs a batch; gives what was to run in the middle of its calls and did not.
    fn run(&mut self, batch: Batch) -> Vec<Batch> {
        let mut worker = match self.supervisor.take() {
            Ok(worker) => worker,
            Err(error) => {
                batch.fail(&error, Instant::now());
                self.supervisor.leave_to_others();
                return Vec::new();
            }
        };
        let shared = worker.shared.clone();
        shared.calls.begin_main(&batch);
        let lost = run::begin(batch, None, &mut self.memory, &shared).and_then(|running| {
            let outcomes = worker.ask(&self.memory, &running.segments, run::outcomes);
            run::end(running, outcomes, &shared)
        });
        let left = shared.calls.end_main();
        match lost {
            None => self.supervisor.give_back(worker),
            Some(reason) => {
                self.supervisor.lost(worker, reason);
                self.supervisor.leave_to_others();
            }
        }
        left
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
