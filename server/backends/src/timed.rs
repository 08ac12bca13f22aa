//! A thread that answers requests over time, for backends that go on after `execute` has returned: what is due is done in
//! turn, and who waits for time, for its reader or for nobody costs nothing meanwhile. One thread per instance, however
//! many requests it has; those are bounded.

use std::{
    collections::BTreeSet,
    sync::Arc,
    task::{Context, Wake, Waker},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use server_core::{
    completion::{Completion, Marks, ResponseMarks},
    error::{Error, Result},
    responder::{NotSent, Reply},
};

/// Requests that one thread has at the same time; `execute` waits while there are so many.
const MOST_JOBS: usize = 1024;

/// What is left of a request.
pub(crate) trait Job: Send + 'static {
    /// Does what is due at `now`, a bounded part of it, and says when it goes on.
    fn advance(&mut self, now: Instant, context: &mut Context<'_>) -> Next;
}

/// When a job goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Then, or when its waker is woken.
    At(Instant),
    /// It is done.
    Over,
}

/// How long a response may wait for a reader that is behind, before its request ends with an error: readers that never come
/// back must not keep a model from others for ever.
const READER_TIMEOUT: Duration = Duration::from_secs(300);

/// A response that is to be sent.
pub(crate) struct Unsent {
    reply: Reply,
    marks: ResponseMarks,
    since: Instant,
}

/// What became of a response.
pub(crate) enum Sent {
    /// It is with its reader.
    Yes,
    /// Its caller has left.
    Abandoned,
    /// There is no room: it comes back, to be sent again then.
    Later(Box<Unsent>, Next),
    /// There was none for too long: the request has ended with an error.
    GivenUp,
}

impl Unsent {
    /// A response that was made at `now`.
    pub(crate) fn new(reply: Reply, marks: ResponseMarks, now: Instant) -> Self {
        Self { reply, marks, since: now }
    }

    /// Sends it, or has `context` woken when there is room for it.
    pub(crate) fn send(self, completion: &mut Completion, now: Instant, context: &mut Context<'_>) -> Sent {
        let reply = match completion.send(self.reply, &self.marks, Duration::ZERO) {
            Ok(()) => return Sent::Yes,
            Err(NotSent::Abandoned) => return Sent::Abandoned,
            Err(NotSent::Full(reply)) => *reply,
        };
        let until = self.since + READER_TIMEOUT;
        if now >= until {
            let text = format!("{}, so no further one is computed", completion.why_no_room(READER_TIMEOUT));
            completion.finish(Some(Err(Error::unavailable(text))), &Marks::at(self.since, now));
            return Sent::GivenUp;
        }
        let next = if completion.poll_room(&reply, context).is_ready() { Next::At(now) } else { Next::At(until) };
        Sent::Later(Box::new(Self { reply, ..self }), next)
    }
}

struct State<J> {
    arrived: Vec<J>,
    woken: Vec<usize>,
    /// Jobs that are not over, those that have just arrived included.
    count: usize,
    is_closed: bool,
    /// The thread is gone.
    has_ended: bool,
}

struct Shared<J> {
    state: Mutex<State<J>>,
    /// For the thread: something has come.
    changed: Condvar,
    /// For who adds: there are fewer jobs.
    left: Condvar,
}

/// The thread, as its instance holds it. Dropping it waits for the last job.
pub(crate) struct Timed<J: Job> {
    shared: Arc<Shared<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Job> Timed<J> {
    /// Starts the thread of that name.
    ///
    /// Errors: the system has none.
    pub(crate) fn start(name: &str) -> Result<Self> {
        let state = State { arrived: Vec::new(), woken: Vec::new(), count: 0, is_closed: false, has_ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), left: Condvar::new() });
        let of_thread = shared.clone();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let _ended = Ended(&of_thread);
            run(&of_thread);
        });
        let thread = thread.map_err(|error| Error::internal(format!("cannot start a thread for '{name}': {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands over a request. Blocks while the thread has as many as it may.
    pub(crate) fn add(&self, job: J) {
        let mut state = self.shared.state.lock();
        self.shared.left.wait_while(&mut state, |state| state.count >= MOST_JOBS && !state.has_ended);
        if state.has_ended {
            return; // by panic: the request says so as it is dropped
        }
        state.count += 1;
        state.arrived.push(job);
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl<J: Job> Drop for Timed<J> {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.changed.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread that answers over time ended by panic");
        }
    }
}

/// The thread, for as long as it runs. Jobs that come later are dropped.
struct Ended<'a, J>(&'a Shared<J>);

impl<J> Drop for Ended<'_, J> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.has_ended = true;
        let arrived = std::mem::take(&mut state.arrived);
        drop(state);
        drop(arrived);
        self.0.left.notify_all();
    }
}

/// A job on its thread.
struct Entry<J> {
    job: J,
    waker: Waker,
    due: Option<Instant>,
}

/// Wakes the job of that number.
struct JobWaker<J> {
    number: usize,
    shared: Arc<Shared<J>>,
}

impl<J: Job> Wake for JobWaker<J> {
    fn wake(self: Arc<Self>) {
        self.shared.state.lock().woken.push(self.number);
        self.shared.changed.notify_one();
    }
}

fn run<J: Job>(shared: &Arc<Shared<J>>) {
    let mut jobs: Vec<Option<Entry<J>>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut times: BTreeSet<(Instant, usize)> = BTreeSet::new(); // one for each job at most
    let mut ready: Vec<usize> = Vec::new();
    let mut state = shared.state.lock();
    loop {
        let now = Instant::now();
        for job in state.arrived.drain(..) {
            let number = free.pop().unwrap_or_else(|| {
                jobs.push(None);
                jobs.len() - 1
            });
            let waker = Waker::from(Arc::new(JobWaker { number, shared: shared.clone() }));
            jobs[number] = Some(Entry { job, waker, due: None });
            ready.push(number);
        }
        ready.append(&mut state.woken);
        while let Some(&(due, number)) = times.first().filter(|(due, _)| *due <= now) {
            times.remove(&(due, number));
            if let Some(entry) = &mut jobs[number] {
                entry.due = None;
            }
            ready.push(number);
        }
        if ready.is_empty() {
            if state.is_closed && state.count == 0 {
                return;
            }
            match times.first() {
                Some((due, _)) => drop(shared.changed.wait_until(&mut state, *due)),
                None => shared.changed.wait(&mut state),
            }
            continue;
        }
        drop(state);
        let mut ended = 0;
        for number in ready.drain(..) {
            let Some(entry) = &mut jobs[number] else { continue }; // woken twice, and over since
            let next = entry.job.advance(now, &mut Context::from_waker(&entry.waker));
            let due = match next {
                Next::At(due) => Some(due),
                Next::Over => None,
            };
            if due != entry.due {
                entry.due.map(|before| times.remove(&(before, number)));
                due.map(|due| times.insert((due, number)));
                entry.due = due;
            }
            if due.is_none() {
                jobs[number] = None;
                free.push(number);
                ended += 1;
            }
        }
        state = shared.state.lock();
        state.count -= ended;
        if ended > 0 {
            shared.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    use server_core::{error::Code, response::Outputs, stats::FailureReason};

    use crate::{
        testing::request,
        testing_over_time::{Ledger, queued},
    };

    const DEADLINE: Duration = Duration::from_secs(30);

    #[test]
    fn a_reader_that_stays_behind_for_too_long_ends_its_request() {
        let ledger = Arc::new(Ledger::default());
        let (mut pending, mut caller) = queued(&ledger, request([]), 1);
        let start = Instant::now();
        let mut context = Context::from_waker(Waker::noop());
        let marks = ResponseMarks { start, output_start: start, end: start };
        let unsent = || Unsent::new(Ok(Outputs::default()), marks, start);
        assert!(matches!(unsent().send(&mut pending.completion, start, &mut context), Sent::Yes));
        let sent = unsent().send(&mut pending.completion, start, &mut context);
        let Sent::Later(back, Next::At(until)) = sent else { panic!("there is no room") };
        assert_eq!(until, start + READER_TIMEOUT);
        let Sent::Later(back, _) = back.send(&mut pending.completion, until - Duration::from_secs(1), &mut context)
        else {
            panic!("it is not late yet")
        };
        assert!(matches!(back.send(&mut pending.completion, until, &mut context), Sent::GivenUp));
        drop(pending);
        assert_eq!(ledger.after(1).ends, [Err(FailureReason::Backend)]);
        assert!(caller.next().unwrap().is_ok());
        assert_eq!(caller.next().unwrap().unwrap_err().code, Code::Unavailable);
        assert!(caller.is_finished());
    }

    /// Ends at its time, or when it is woken, or panics; says its number as it goes.
    struct Test {
        number: usize,
        due: Option<Instant>,
        wakers: Option<Sender<Waker>>,
        panics: bool,
        gone: Sender<usize>,
    }

    impl Job for Test {
        fn advance(&mut self, now: Instant, context: &mut Context<'_>) -> Next {
            assert!(!self.panics, "as the test wants");
            if let Some(wakers) = self.wakers.take() {
                wakers.send(context.waker().clone()).unwrap();
                return Next::At(now + 100 * DEADLINE);
            }
            self.due.filter(|due| *due > now).map_or(Next::Over, Next::At)
        }
    }

    impl Drop for Test {
        fn drop(&mut self) {
            let _ = self.gone.send(self.number); // or the test is over
        }
    }

    fn next(gone: &Receiver<usize>) -> usize {
        gone.recv_timeout(DEADLINE).expect("no job ended in time")
    }

    #[test]
    fn jobs_end_in_the_order_of_their_times_or_when_they_are_woken() {
        let timed = Timed::start("test").unwrap();
        let ((gone, ended), (wakers, woken)) = (channel(), channel());
        let now = Instant::now();
        for (number, wait) in [(1, Some(60)), (2, Some(20)), (3, None), (4, Some(40))] {
            let due = wait.map(|wait| now + Duration::from_millis(wait));
            let wakers = wait.is_none().then(|| wakers.clone());
            timed.add(Test { number, due, wakers, panics: false, gone: gone.clone() });
        }
        assert_eq!([next(&ended), next(&ended), next(&ended)], [2, 4, 1]);
        assert!(now.elapsed() >= Duration::from_millis(60));
        woken.recv_timeout(DEADLINE).unwrap().wake();
        assert_eq!(next(&ended), 3);
    }

    #[test]
    fn who_adds_waits_while_there_are_as_many_as_may_be() {
        let timed = Timed::start("test").unwrap();
        let ((gone, ended), (wakers, woken)) = (channel(), channel());
        let job = |number| Test { number, due: None, wakers: Some(wakers.clone()), panics: false, gone: gone.clone() };
        (0..MOST_JOBS).for_each(|number| timed.add(job(number)));
        thread::scope(|scope| {
            let adding = scope.spawn(|| timed.add(job(MOST_JOBS)));
            let first = woken.recv_timeout(DEADLINE).unwrap();
            assert!(!adding.is_finished() && timed.shared.state.lock().count == MOST_JOBS);
            first.wake();
            next(&ended);
        });
        (0..MOST_JOBS).for_each(|_| woken.recv_timeout(DEADLINE).unwrap().wake());
        for _ in 0..MOST_JOBS {
            next(&ended);
        }
    }

    #[test]
    fn after_a_panic_jobs_are_dropped_and_nobody_waits() {
        let timed = Timed::start("test").unwrap();
        let (gone, ended) = channel();
        let job = |number, panics| Test {
            number,
            due: Some(Instant::now() + DEADLINE),
            wakers: None,
            panics,
            gone: gone.clone(),
        };
        timed.add(job(1, false));
        timed.add(job(2, true));
        let mut first = [next(&ended), next(&ended)];
        first.sort_unstable();
        assert_eq!(first, [1, 2]);
        timed.add(job(3, false));
        assert_eq!(next(&ended), 3);
    }
}
