//! Requests of decoupled models: sent one by one, read as they are answered, with a record of how they were counted.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use server_core::{
    backend::{Backend, Health, Instance},
    batch::{Batch, Pending},
    completion::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
    config::{ModelConfig, from_text},
    error::Error,
    request::InferRequest,
    responder::{Replies, Reply},
    stats::FailureReason,
};

use crate::testing::{no_host, on_cpu, source};

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

/// How requests were counted.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) responses: Vec<(u32, ResponseOutcome, ResponseMarks)>,
    pub(crate) ends: Vec<Result<(), FailureReason>>,
    pub(crate) executions: usize,
    pub(crate) released: usize,
}

/// A record of how requests were counted.
#[derive(Default)]
pub(crate) struct Ledger {
    counted: Mutex<Counted>,
    changed: Condvar,
    /// Requests that asked for another turn.
    rescheduled: Mutex<Vec<Pending>>,
    turn: Condvar,
}

impl Ledger {
    /// Takes a request that has asked for another turn.
    pub(crate) fn rescheduled(&self) -> Option<Pending> {
        self.rescheduled.lock().pop()
    }

    /// The same, once one has.
    #[track_caller]
    pub(crate) fn wait_for_rescheduled(&self) -> Pending {
        let mut rescheduled = self.rescheduled.lock();
        self.turn.wait_while_for(&mut rescheduled, |rescheduled| rescheduled.is_empty(), DEADLINE);
        rescheduled.pop().expect("no request asked for another turn")
    }

    /// Waits until so many requests are released, and takes the record.
    #[track_caller]
    pub(crate) fn after(&self, released: usize) -> Counted {
        let mut counted = self.counted.lock();
        let wait = self.changed.wait_while_for(&mut counted, |counted| counted.released < released, DEADLINE);
        assert!(!wait.timed_out(), "{} of {released} requests were released", counted.released);
        std::mem::take(&mut counted)
    }

    /// Requests released so far.
    pub(crate) fn released(&self) -> usize {
        self.counted.lock().released
    }

    fn change(&self, change: impl FnOnce(&mut Counted)) {
        change(&mut self.counted.lock());
        self.changed.notify_all();
    }
}

impl RequestEvents for Ledger {
    fn batch_ended(&self, _requests: &[Pending], _replies: &[Reply], _marks: &Marks) {
        panic!("requests of decoupled models end by themselves");
    }

    fn executed(&self, _rows: u64, _marks: &Marks) {
        self.change(|counted| counted.executions += 1);
    }

    fn responded(&self, _: &RequestRecord, index: u32, outcome: ResponseOutcome, marks: &ResponseMarks) {
        self.change(|counted| counted.responses.push((index, outcome, *marks)));
    }

    fn ended(&self, _: EndedRequest<'_>, outcome: Result<(), FailureReason>, _: Option<&Marks>, _: Instant) {
        self.change(|counted| counted.ends.push(outcome));
    }

    fn released(&self, count: usize) {
        self.change(|counted| counted.released += count);
    }

    fn rescheduled(&self, request: Pending, _: Option<&Marks>) {
        self.rescheduled.lock().push(request);
        self.turn.notify_all();
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// Loads a model of that configuration text and makes an instance.
pub(crate) fn load(backend: &Arc<dyn Backend>, config: &str) -> Result<Box<dyn Instance>, Error> {
    let mut config: ModelConfig = from_text(config).expect("the tests write configurations that can be read");
    let mut model = backend.open(&source("m"), &mut config, true, &no_host())?;
    model.configure(&Arc::new(config))?;
    model.instance(&on_cpu(), &Health::default())
}

/// The caller's end of a request.
pub(crate) struct Caller(Replies);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Caller {
    /// The next reply; `None` after the last.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Reply> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.0.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(reply) => return reply,
                Poll::Pending => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
            }
            assert!(Instant::now() < deadline, "no reply came");
        }
    }

    /// Whether the reply that was read last was the last word.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// A request that may be handed to an instance, and its caller's end. The reply slot holds so many bytes.
pub(crate) fn queued(ledger: &Arc<Ledger>, request: InferRequest, slot_bytes: usize) -> (Pending, Caller) {
    let record = RequestRecord { received_at: request.received_at, queued_at: Instant::now(), batch_size: 1 };
    let (completion, replies) = Completion::new(record, ledger.clone(), slot_bytes);
    (Pending { request, completion }, Caller(replies))
}

/// Has the instance execute one request.
pub(crate) fn send(
    instance: &mut dyn Instance,
    ledger: &Arc<Ledger>,
    request: InferRequest,
    slot_bytes: usize,
) -> Caller {
    let (pending, caller) = queued(ledger, request, slot_bytes);
    instance.execute(Batch::new(vec![pending], Instant::now()));
    caller
}
