//! The way back to the caller of one request, shared by the request, its response factories and its responses. It is over when
//! the library has said the last word and given the request back, or when all of them are gone; then the request no longer keeps
//! its model from being unloaded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use server_core::{
    batch::Pending,
    completion::{Completion, Marks, Reporter, ResponseMarks, ResponseOutcome},
    error::{Error, Result},
    request::InferRequest,
    responder::{NotSent, Reply},
    stats::FailureReason,
};

use super::model::Model;

/// Responses of one request that wait for a reader that is behind, in bytes and in number, before their sender waits with them.
/// The sender may be the one thread of a library, which others need as well.
const MOST_UNREAD: (usize, usize) = (2 << 20, 4096);

/// So many requests at a time may have so much unread; further ones have what any request has.
const MOST_BEHIND: usize = 128;

/// How long a sender waits then, before the request ends with an error.
const READER_TIMEOUT: Duration = Duration::from_secs(60);

/// The way back to one caller.
pub(crate) struct Answering {
    /// The model that was asked.
    pub(crate) model: Arc<Model>,
    reporter: Reporter,
    /// When its execution began.
    start: Instant,
    state: Mutex<State>,
}

struct State {
    /// Gone when the request goes back into the queue; not there while it waits for its first execution.
    completion: Option<Completion>,
    /// It waits for its first execution.
    is_waiting: bool,
    /// How the last word was, once it is said.
    outcome: Option<Result<(), FailureReason>>,
    /// The library has given the request back.
    is_released: bool,
    /// It is counted.
    is_counted: bool,
    /// Its reader is behind, and more responses than usual may wait.
    is_behind: bool,
    /// Threads that send for this request, until there is room for their responses; none did before it is there.
    waiting: Option<Arc<Waiting>>,
    /// Responses that the library has reported.
    reported: u32,
}

impl State {
    fn new(completion: Option<Completion>, is_counted: bool) -> Self {
        let is_waiting = completion.is_none();
        Self {
            completion,
            is_waiting,
            outcome: None,
            is_released: false,
            is_counted,
            is_behind: false,
            waiting: None,
            reported: 0,
        }
    }
}

impl Answering {
    /// The way back of a request whose execution begins at `start`.
    pub(crate) fn new(model: Arc<Model>, completion: Completion, start: Instant) -> Self {
        let reporter = completion.reporter();
        let state = Mutex::new(State::new(Some(completion), /* is_counted */ false));
        Self { model, reporter, start, state }
    }

    /// That of a request that waits, for a library to look at: it can be answered by nobody.
    pub(crate) fn of_waiting(model: Arc<Model>, completion: &Completion, start: Instant) -> Self {
        let state = Mutex::new(State::new(None, /* is_counted */ true));
        Self { model, reporter: completion.reporter(), start, state }
    }

    /// What counts it.
    pub(crate) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Whether its caller has left. Once it is answered nobody can leave any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        let state = self.state.lock();
        state.outcome.is_none() && state.completion.as_ref().is_some_and(Completion::is_cancelled)
    }

    /// Sends a response. Where its reader is far behind, waits for it.
    ///
    /// Errors: the last word is said already; or its reader did not come back for a minute, and the request is over.
    pub(crate) fn send(&self, reply: Reply, is_last: bool) -> Result<()> {
        if is_last {
            return self.finish(Some(reply));
        }
        let deadline = Instant::now() + READER_TIMEOUT;
        let mut reply = reply;
        loop {
            let (left, why) = {
                let mut state = self.state.lock();
                let State { completion: Some(completion), outcome: None, is_behind, waiting, .. } = &mut *state else {
                    return Err(too_late("a response", &state));
                };
                match completion.send_unreported(reply) {
                    // nobody waits for it: as in Triton, that is the server's to know
                    Ok(()) | Err(NotSent::Abandoned) => return Ok(()),
                    Err(NotSent::Full(back)) => reply = *back,
                }
                if !*is_behind && let Some(behind) = Behind::begin() {
                    *is_behind = true;
                    completion.widen(MOST_UNREAD.0, MOST_UNREAD.1, Box::new(behind));
                    continue;
                }
                let waiting = waiting.get_or_insert_default();
                waiting.join();
                let waker = Waker::from(waiting.clone());
                match completion.poll_room(&reply, &mut Context::from_waker(&waker)) {
                    Poll::Ready(()) => continue,
                    Poll::Pending => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        (left, left.is_zero().then(|| completion.why_no_room(READER_TIMEOUT)))
                    }
                }
            };
            if let Some(why) = why {
                let error = Error::unavailable(format!("{why}, so no further one is taken"));
                self.finish(Some(Err(error.clone())))?;
                return Err(error);
            }
            thread::park_timeout(left);
        }
    }

    /// Says the last word, with a response or none.
    ///
    /// Errors: it is said already.
    pub(crate) fn finish(&self, reply: Option<Reply>) -> Result<()> {
        let what = if reply.is_some() { "a response" } else { "the final flag" };
        let mut state = self.state.lock();
        let State { completion: Some(completion), outcome: None, .. } = &mut *state else {
            return Err(too_late(what, &state));
        };
        let outcome = match &reply {
            Some(Err(error)) => Err(FailureReason::of_backend(error)),
            _ if completion.is_cancelled() => Err(FailureReason::Canceled),
            _ => Ok(()),
        };
        completion.finish_unreported(reply, &Marks::at(self.start, self.reporter.now()));
        state.outcome = Some(outcome);
        self.end_if_over(&mut state);
        if let Some(waiting) = state.waiting.take() {
            waiting.wake(); // whoever has another response hears that it comes too late
        }
        Ok(())
    }

    /// The library has given the request back, and may go on answering it.
    pub(crate) fn released(&self) {
        let mut state = self.state.lock();
        state.is_released = true;
        self.end_if_over(&mut state);
    }

    /// Lets go of a request that is answered and given back, whatever else the library has of it.
    fn end_if_over(&self, state: &mut State) {
        if let Some(outcome) = state.outcome.filter(|_| state.is_released) {
            if !std::mem::replace(&mut state.is_counted, true) {
                let marks = Marks::at(self.start, self.reporter.now());
                if let Some(completion) = &state.completion {
                    completion.record_reported(&marks);
                }
                self.reporter.ended(outcome, &marks);
            }
            state.completion = None;
        }
    }

    /// Counts the request as its library reports it; the first report counts.
    pub(crate) fn report(&self, is_success: bool, marks: &Marks) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.is_counted, true) {
            return;
        }
        if let Some(completion) = &state.completion {
            completion.record_reported(marks);
        }
        let outcome = if is_success { Ok(()) } else { Err(FailureReason::Backend) };
        let outcome = match state.outcome {
            Some(Err(reason)) if !is_success => Err(reason),
            _ => outcome,
        };
        drop(state);
        self.reporter.ended(outcome, marks);
    }

    /// Counts a response as its library reports it.
    pub(crate) fn report_response(&self, outcome: ResponseOutcome, marks: &ResponseMarks) {
        let index = {
            let mut state = self.state.lock();
            state.reported = state.reported.saturating_add(1);
            state.reported - 1
        };
        self.reporter.responded(index, outcome, marks);
    }

    /// Renews a state of the request's sequence.
    ///
    /// Errors: the request has none, or the words of [`server_core::sequence::state::States::update`].
    pub(crate) fn with_states(
        &self,
        update: impl FnOnce(&server_core::sequence::state::States) -> Result<()>,
    ) -> Result<()> {
        let state = self.state.lock();
        match state.completion.as_ref().and_then(Completion::states) {
            Some(states) => update(states),
            None => {
                Err(Error::invalid_argument("the request belongs to no sequence that is under way: it has no states"))
            }
        }
    }

    /// Puts the request back into the queue.
    ///
    /// Errors: it is over.
    pub(crate) fn reschedule(&self, request: InferRequest) -> Result<()> {
        let mut state = self.state.lock();
        if state.outcome.is_some() {
            return Err(Error::invalid_argument("a request that has its final response cannot be rescheduled"));
        }
        let completion = state.completion.take();
        let is_counted = std::mem::replace(&mut state.is_counted, true);
        drop(state);
        let completion = completion.ok_or_else(|| Error::invalid_argument("the request was rescheduled before"))?;
        let marks = Marks::at(self.start, self.reporter.now());
        Pending { request, completion }.reschedule((!is_counted).then_some(&marks));
        Ok(())
    }
}

impl Drop for Answering {
    /// Counts what was answered and not reported. What was not answered is counted and answered as the completion is dropped.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let marks = || Marks::at(self.start, self.reporter.now());
        match (state.outcome, state.is_counted) {
            (Some(outcome), false) => self.reporter.ended(outcome, &marks()),
            (None, true) => {
                if let Some(completion) = &mut state.completion {
                    let error = Error::internal("the request was dropped without a response");
                    completion.finish_unreported(Some(Err(error)), &marks());
                }
            }
            (Some(_), true) | (None, false) => {}
        }
    }
}

fn too_late(what: &str, state: &State) -> Error {
    crate::abi::misuse::note();
    Error::invalid_argument(if state.outcome.is_some() {
        format!("{what} was sent for a request that had its final response already")
    } else if state.is_waiting {
        format!("{what} was sent for a request that still waits in the queue, and can be answered by nobody")
    } else {
        format!("{what} was sent for a request that was rescheduled: what its next execution makes can be sent")
    })
}

/// A request whose reader is behind, until the responses are read or nobody reads them any more.
struct Behind;

static BEHIND: AtomicUsize = AtomicUsize::new(0);

impl Behind {
    /// Nothing if there are too many.
    fn begin() -> Option<Self> {
        let one_more = |count| (count < MOST_BEHIND).then_some(count + 1);
        BEHIND.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        BEHIND.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Wakes threads that are parked: several threads may send for one request, and a reply slot remembers one waker.
#[derive(Default)]
struct Waiting(Mutex<Vec<Thread>>);

impl Waiting {
    /// The calling thread is woken from now on, once.
    fn join(&self) {
        let (mut threads, this) = (self.0.lock(), thread::current());
        if threads.iter().all(|thread| thread.id() != this.id()) {
            threads.push(this);
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.lock().drain(..).for_each(|thread| thread.unpark());
    }
}
