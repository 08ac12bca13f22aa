//! Several batches of one worker under way at a time. A quick worker that got one batch after the other would sleep between
//! them, and so would the instance's thread: for such a model the wake-ups cost more than the work. So it has the next batches
//! before it has answered, those that are there together with one message, and its answers are fetched a few at a time. Nothing
//! waits for what is not there yet.

use std::{collections::VecDeque, mem, time::Instant};

use server_core::{batch::Batch, error::Error};

use super::{
    batch_time::BatchTime,
    encode,
    exchange::Failure,
    run::{self, Running},
    worker::Worker,
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
    batch_time: &'a mut BatchTime,
    /// What the worker has, the oldest first.
    under_way: VecDeque<Running>,
    /// Why the worker is lost, if it is.
    pub(super) lost: Option<Error>,
}

/// Batches that the worker is about to get.
#[derive(Default)]
struct Next {
    running: Vec<Running>,
    /// Their messages, one behind the other.
    messages: Vec<u8>,
}

impl<'a> Several<'a> {
    pub(super) fn new(worker: &'a mut Worker, memory: &'a mut Vec<u8>, batch_time: &'a mut BatchTime) -> Self {
        Self { worker, memory, batch_time, under_way: VecDeque::new(), lost: None }
    }

    /// Runs `next` and what comes behind it, for as long as `more` gives small batches. Gives back one that is not small.
    pub(super) fn run(&mut self, next: Batch, more: &mut dyn FnMut() -> Option<Batch>) -> Option<Batch> {
        let mut next = Some(next);
        let mut looked_at = Instant::now();
        loop {
            let mut together = Next::default();
            while self.may_have_another(together.running.len()) {
                let Some(batch) = next.take().or_else(&mut *more) else { break };
                if !is_small(&batch) {
                    next = Some(batch);
                    break;
                }
                self.begin(batch, &mut together);
            }
            self.send(together);
            if self.under_way.is_empty() {
                return next;
            }
            let answered = self.fetch();
            self.batch_time.record(answered, looked_at.elapsed());
            looked_at = Instant::now();
        }
    }

    /// Whether the worker may have one more than those under way and those that it is about to get.
    fn may_have_another(&self, begun: usize) -> bool {
        let count = self.under_way.len() + begun;
        self.lost.is_none() && count < MOST && (self.batch_time.is_quick() || count == 0)
    }

    fn begin(&mut self, batch: Batch, together: &mut Next) {
        let Some(running) = run::begin(batch, None, self.memory, &self.worker.shared) else { return };
        if together.running.is_empty() {
            mem::swap(&mut together.messages, self.memory);
        } else {
            together.messages.extend_from_slice(self.memory);
        }
        together.running.push(running);
    }

    fn send(&mut self, together: Next) {
        let Next { running, messages } = together;
        let segments: Vec<_> = running.iter().flat_map(|running| running.segments.iter().cloned()).collect();
        if running.is_empty() {
            return;
        }
        let sent = self.worker.set_may_spin(false).and_then(|()| match running.len() {
            1 => self.worker.send(&messages, &segments),
            count => self.worker.send(&encode::execute_each(count, &messages), &segments),
        });
        if let Err(failure) = sent {
            self.lost = Some(run::reason(failure, &self.worker.shared));
        }
        *self.memory = messages;
        self.under_way.extend(running);
    }

    /// Ends the batches whose answers are there, one at least. Returns how many.
    fn fetch(&mut self) -> u32 {
        let ahead = u32::try_from(self.under_way.len() / 2).unwrap_or(0);
        if ahead > 1 && self.lost.is_none() {
            // One wake-up for several answers: the worker has enough to do.
            if let Err(failure) = self.worker.wait_for_answers(ahead, self.batch_time.time_for(ahead)) {
                self.lost = Some(run::reason(failure, &self.worker.shared));
            }
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
