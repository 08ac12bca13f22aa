//! Threads for work that may block for long, such as the end of a model. Each piece of work has one at once, so none waits for another;
//! a thread that is done takes what comes next, for models mostly go in numbers, and making a thread for each costs more than the work.

use std::{collections::VecDeque, io, thread, time::Duration};

use parking_lot::{Condvar, Mutex};
use server_core::error::{Error, Result};

/// How long a thread that is done waits for more.
const IDLE: Duration = Duration::from_secs(1);

type Work = Box<dyn FnOnce() + Send>;

static THREADS: Threads = Threads::new();

/// Runs work on a thread that does nothing else meanwhile.
///
/// Errors: there is no thread for it.
pub(crate) fn in_background(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    THREADS.run(Box::new(work))
}

/// Runs something that blocks, off the runtime's threads.
pub(crate) async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal(format!("loading ended unexpectedly: {error}")))
}

struct Threads {
    state: Mutex<State>,
    has_work: Condvar,
}

struct State {
    /// For threads that wait: never more than there are.
    work: VecDeque<Work>,
    waiting: usize,
}

impl Threads {
    const fn new() -> Self {
        Self { state: Mutex::new(State { work: VecDeque::new(), waiting: 0 }), has_work: Condvar::new() }
    }

    fn run(&'static self, work: Work) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.waiting > state.work.len() {
            state.work.push_back(work);
            drop(state);
            self.has_work.notify_one();
            return Ok(());
        }
        drop(state);
        let run_all = move || {
            let mut next = Some(work);
            while let Some(work) = next.take() {
                work();
                next = self.next();
            }
        };
        thread::Builder::new().name("background".into()).spawn(run_all).map(drop)
    }

    /// The next work, if any comes soon.
    fn next(&self) -> Option<Work> {
        let mut state = self.state.lock();
        if state.work.is_empty() {
            state.waiting += 1;
            let _ = self.has_work.wait_while_for(&mut state, |state| state.work.is_empty(), IDLE);
            state.waiting -= 1;
        }
        state.work.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread::ThreadId};

    use super::*;

    static ONE_AFTER_THE_OTHER: Threads = Threads::new();
    static SIDE_BY_SIDE: Threads = Threads::new();

    #[test]
    fn a_thread_that_is_done_takes_the_next_work() {
        let thread_of_next = || {
            let (said, hears) = mpsc::channel::<ThreadId>();
            ONE_AFTER_THE_OTHER.run(Box::new(move || said.send(thread::current().id()).unwrap())).unwrap();
            hears.recv().unwrap()
        };
        let first = thread_of_next();
        while ONE_AFTER_THE_OTHER.state.lock().waiting == 0 {
            thread::yield_now();
        }
        assert_eq!(thread_of_next(), first);
    }

    #[test]
    fn no_work_waits_for_other_work() {
        let (goes_on, waits) = mpsc::channel::<()>();
        let (said, hears) = mpsc::channel();
        let other = said.clone();
        SIDE_BY_SIDE
            .run(Box::new(move || {
                waits.recv().unwrap();
                said.send("first").unwrap();
            }))
            .unwrap();
        SIDE_BY_SIDE.run(Box::new(move || other.send("second").unwrap())).unwrap();
        assert_eq!(hears.recv().unwrap(), "second");
        goes_on.send(()).unwrap();
        assert_eq!(hears.recv().unwrap(), "first");
    }
}
