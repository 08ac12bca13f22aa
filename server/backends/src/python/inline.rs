//! A batch that the thread of its caller runs: for a quick model the way to the instance's own thread and back costs more than
//! the work. The caller's thread does not wait long; what takes longer is finished by another.

use std::{sync::Arc, time::Duration};

use server_core::{backend::Rest, batch::Batch};

use super::{
    alone,
    busy::Busy,
    run::{self, Running},
    supervise::Watch,
    worker::Worker,
};

/// How long the caller's thread waits: a worker that is expected to be quick is not, for once.
const PATIENCE: Duration = Duration::from_millis(2);

/// Runs a batch. Returns what is left of it, if the worker takes long or there is none just now.
pub(super) fn run(watch: &Arc<Watch>, memory: &mut Vec<u8>, batch: Batch) -> Option<Rest> {
    let Some(mut worker) = watch.try_take() else {
        let watch = watch.clone();
        return Some(Box::new(move || run_to_the_end(&watch, vec![batch])));
    };
    let shared = worker.shared.clone();
    shared.calls.begin_main(&batch);
    let Some(running) = run::begin(batch, None, memory, &shared) else {
        let left = shared.calls.end_main();
        watch.put_back(worker, None);
        return rest_of(watch, left);
    };
    // What is to be done about a worker that is gone takes long as well.
    if worker.set_may_spin(Busy::has_spare_processor()).is_ok()
        && worker.send(memory, &running.segments).is_ok()
        && worker.answers_within(PATIENCE)
    {
        let left = finish(watch, worker, running);
        return rest_of(watch, left);
    }
    let watch = watch.clone();
    Some(Box::new(move || {
        let left = finish(&watch, worker, running);
        run_to_the_end(&watch, left);
    }))
}

/// Waits for the answer and ends the requests. Gives what was to run in the middle of the model's calls and did not.
fn finish(watch: &Arc<Watch>, mut worker: Worker, running: Running) -> Vec<Batch> {
    let shared = worker.shared.clone();
    let answer = worker.next_answer(true, run::outcomes);
    let answer = answer.map(Option::unwrap_or_default); // there is one, or the worker is lost
    let lost = run::end(running, answer, &shared);
    let left = shared.calls.end_main();
    watch.put_back(worker, lost);
    left
}

fn rest_of(watch: &Arc<Watch>, batches: Vec<Batch>) -> Option<Rest> {
    if batches.is_empty() {
        return None;
    }
    let watch = watch.clone();
    Some(Box::new(move || run_to_the_end(&watch, batches)))
}

/// Runs batches one after the other, however long they take.
fn run_to_the_end(watch: &Arc<Watch>, mut batches: Vec<Batch>) {
    let mut memory = Vec::new();
    while let Some(batch) = batches.pop() {
        batches.extend(alone::run(watch, &mut memory, batch).left);
    }
}
