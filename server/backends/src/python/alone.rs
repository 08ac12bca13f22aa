//! One batch on the worker of an instance, from taking the worker to putting it back. Blocks until the worker has answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use server_core::batch::Batch;

use super::{run, supervise::Watch};

/// What came of it.
pub(super) struct Ran {
    /// What was to run in the middle of the model's calls and did not.
    pub(super) left: Vec<Batch>,
    /// How long the worker took, if it was given the batch.
    pub(super) took: Option<Duration>,
    /// The instance has no worker now.
    pub(super) is_lost: bool,
}

/// Runs a batch of [`super::open_requests::SLOTS`] requests at most. Waits for a while if the worker is being replaced.
pub(super) fn run(watch: &Arc<Watch>, memory: &mut Vec<u8>, batch: Batch) -> Ran {
    let mut worker = match watch.take() {
        Ok(worker) => worker,
        Err(error) => {
            batch.refuse(&error);
            return Ran { left: Vec::new(), took: None, is_lost: true };
        }
    };
    let shared = worker.shared.clone();
    shared.calls.begin_main(&batch);
    let mut took = None;
    let lost = run::begin(batch, None, memory, &shared).and_then(|running| {
        let sent_at = Instant::now();
        let answer = worker.ask(memory, &running.segments, run::outcomes);
        took = Some(sent_at.elapsed());
        run::end(running, answer, &shared)
    });
    let left = shared.calls.end_main();
    let is_lost = lost.is_some();
    watch.put_back(worker, lost);
    Ran { left, took, is_lost }
}
