//! One execution context of a Python model: its worker, as the instance's thread drives it.

use std::mem;

use server_core::{
    backend::{Instance, Rest},
    batch::Batch,
};

use super::{
    alone,
    batch_time::BatchTime,
    inline,
    open_requests::SLOTS,
    several::{Several, is_small},
    supervise::Supervisor,
};

/// Runs batches on one worker.
pub(super) struct PythonInstance {
    supervisor: Supervisor,
    /// Memory of the last message, for the next.
    memory: Vec<u8>,
    batch_time: BatchTime,
    runs_inline: bool,
}

impl PythonInstance {
    /// With `runs_inline`, callers' threads may run its batches, if it is quick.
    pub(super) fn new(supervisor: Supervisor, runs_inline: bool) -> Self {
        let runs_inline = runs_inline && !supervisor.watch().reloads();
        Self { supervisor, memory: Vec::new(), batch_time: BatchTime::new(), runs_inline }
    }

    /// Runs a batch of [`SLOTS`] requests at most, and after it what was to run in the middle of its calls and did not.
    fn run_all(&mut self, batch: Batch) {
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            let ran = alone::run(self.supervisor.watch(), &mut self.memory, batch);
            if let Some(took) = ran.took {
                self.batch_time.record(1, took);
            }
            if ran.is_lost {
                self.supervisor.watch().leave_to_others();
            }
            batches.extend(ran.left);
        }
    }

    /// Runs small batches of a quick worker, beginning with `next`, several under way at a time. Gives back a batch that came
    /// and is not small, and what was to run in the middle of the model's calls and did not.
    fn run_several(&mut self, next: Batch, more: &mut dyn FnMut() -> Option<Batch>) -> Vec<Batch> {
        let mut worker = match self.supervisor.watch().take() {
            Ok(worker) => worker,
            Err(error) => {
                next.refuse(&error);
                self.supervisor.watch().leave_to_others();
                return Vec::new();
            }
        };
        let shared = worker.shared.clone();
        shared.calls.begin_main(&next);
        let mut several = Several::new(&mut worker, &mut self.memory, &mut self.batch_time);
        let other = several.run(next, more);
        let lost = several.lost;
        let left = shared.calls.end_main().into_iter().chain(other).collect();
        let is_lost = lost.is_some();
        self.supervisor.watch().put_back(worker, lost);
        if is_lost {
            self.supervisor.watch().leave_to_others();
        }
        left
    }
}

impl Instance for PythonInstance {
    fn execute_with_more(&mut self, batch: Batch, more: &mut dyn FnMut() -> Option<Batch>) {
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            if self.batch_time.is_quick() && is_small(&batch) && !self.supervisor.watch().reloads() {
                batches.extend(self.run_several(batch, more));
            } else {
                self.execute(batch);
            }
        }
    }

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

    fn runs_on_any_thread(&self) -> bool {
        self.runs_inline
    }

    fn execute_inline(&mut self, batch: Batch) -> Option<Rest> {
        inline::run(self.supervisor.watch(), &mut self.memory, batch)
    }
}
