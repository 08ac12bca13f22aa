//! Several batches of one worker under way at a time. A quick worker that got one batch after the other would sleep between
//! them, and so would the instance's thread: for such a model the wake-ups cost more than the work. So it has the next batches
//! before it has answered, and its answers are fetched a few at a time. Nothing waits for what is not there yet.

use std::{collections::VecDeque, thread, time::Instant};

use server_core::{batch::Batch, error::Error};

use super::{
    pace::Pace,
    run::{self, Running},
    worker::{Failure, Worker},
};

/// Batches that a worker has at the same time.
const MOST: usize = 8;

/// Bytes of inputs of a batch that is one of several: all together fit into the channel, so that the server does not wait to
/// send while the worker waits to answer.
const SMALL: usize = 4 << 10;

/// Whether it may be one of several. Requests of models that wait for the answer run alone, so that it is known whose calls
/// the worker makes meanwhile.
pub(super) fn is_small(batch: &Batch) -> bool {
    let pending = batch.pending();
    pending.iter().map(|pending| pending.request.input_bytes()).sum::<usize>() <= SMALL
        && pending.iter().all(|pending| pending.request.callers.is_none())
}

/// Runs several batches on a worker.
pub(super) struct Several<'a> {
    worker: &'a mut Worker,
    memory: &'a mut Vec<u8>,
    pace: &'a mut Pace,
    /// What the worker has, the oldest first.
    under_way: VecDeque<Running>,
    /// Why the worker is lost, if it is.
    pub(super) lost: Option<Error>,
}

impl<'a> Several<'a> {
    pub(super) fn new(worker: &'a mut Worker, memory: &'a mut Vec<u8>, pace: &'a mut Pace) -> Self {
        Self { worker, memory, pace, under_way: VecDeque::new(), lost: None }
    }

    /// Runs `next` and what comes behind it, for as long as `more` gives small batches. Gives back one that is not small.
    pub(super) fn run(&mut self, next: Batch, more: &mut dyn FnMut() -> Option<Batch>) -> Option<Batch> {
        let mut next = Some(next);
        let mut looked_at = Instant::now();
        loop {
            while self.may_have_another() {
                let Some(batch) = next.take().or_else(&mut *more) else { break };
                if !is_small(&batch) {
                    next = Some(batch);
                    break;
                }
                self.send(batch);
            }
            if self.under_way.is_empty() {
                return next;
            }
            let answered = self.fetch();
            self.pace.record(answered, looked_at.elapsed());
            looked_at = Instant::now();
        }
    }

    fn may_have_another(&self) -> bool {
        self.lost.is_none() && self.under_way.len() < MOST && (self.pace.is_quick() || self.under_way.is_empty())
    }

    fn send(&mut self, batch: Batch) {
        let shared = self.worker.shared.clone();
        let Some(running) = run::begin(batch, None, self.memory, &shared) else { return };
        if let Err(failure) = self.worker.send(self.memory, &running.segments) {
            self.lost = Some(run::reason(failure, &shared));
        }
        self.under_way.push_back(running);
    }

    /// Ends the batches whose answers are there, one at least. Returns how many.
    fn fetch(&mut self) -> u32 {
        let ahead = u32::try_from(self.under_way.len() / 2).unwrap_or(0);
        if ahead > 1 && self.lost.is_none() {
            thread::sleep(self.pace.time_for(ahead)); // one wake-up for several answers: the worker has enough to do
        }
        let shared = self.worker.shared.clone();
        let mut answered = 0;
        while let Some(running) = self.under_way.pop_front() {
            let answer = match &self.lost {
                Some(error) => Err(Failure::Lost(error.clone())),
                None => match self.worker.next_answer(answered == 0, run::outcomes).transpose() {
                    Some(answer) => answer,
                    None => {
                        self.under_way.push_front(running);
                        break;
                    }
                },
            };
            answered += 1;
            if let Some(error) = run::end(running, answer, &shared) {
                self.lost.get_or_insert(error);
            }
        }
        answered
    }
}
