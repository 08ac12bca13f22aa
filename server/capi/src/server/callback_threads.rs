//! Threads on which functions of libraries are called that wait for something of the server: the responses of their requests, and
//! memory that is theirs again. A function may block for a while; what comes meanwhile is done by the others.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    task::{Wake, Waker},
    thread,
};

use parking_lot::{Condvar, Mutex};

/// How many there are at most: few, for what is called there only notes what has come.
const MOST_THREADS: usize = 8;

/// Something that is done in steps: as often as it is woken.
pub(super) trait Task: Send + Sync + 'static {
    /// Does what can be done now.
    fn step(&self, waker: &Waker);
}

/// A task, to be woken.
pub(super) struct Scheduled<T> {
    task: T,
    state: AtomicU8,
}

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const WOKEN: u8 = 3;

/// Begins a task: its first step is done soon.
pub(super) fn begin<T: Task>(task: T) -> Arc<Scheduled<T>> {
    let scheduled = Arc::new(Scheduled { task, state: AtomicU8::new(IDLE) });
    scheduled.schedule();
    scheduled
}

/// Does something once.
pub(super) fn run(work: impl FnOnce() + Send + 'static) {
    THREADS.push(Box::new(work));
}

impl<T: Task> Scheduled<T> {
    /// The task itself.
    pub(super) fn task(&self) -> &T {
        &self.task
    }

    /// Has the next step done.
    pub(super) fn schedule(self: &Arc<Self>) {
        let next = |state| match state {
            IDLE => Some(QUEUED),
            RUNNING => Some(WOKEN),
            _ => None,
        };
        if self.state.fetch_update(SeqCst, SeqCst, next) == Ok(IDLE) {
            let task = self.clone();
            THREADS.push(Box::new(move || task.step()));
        }
    }

    fn step(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        self.state.store(RUNNING, SeqCst);
        self.task.step(&waker);
        if self.state.compare_exchange(RUNNING, IDLE, SeqCst, SeqCst).is_err() {
            self.state.store(QUEUED, SeqCst);
            let task = self.clone();
            THREADS.push(Box::new(move || task.step()));
        }
    }
}

impl<T: Task> Wake for Scheduled<T> {
    fn wake(self: Arc<Self>) {
        self.schedule();
    }
}

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Threads {
    state: Mutex<State>,
    is_work: Condvar,
}

#[derive(Default)]
struct State {
    /// One piece of work for each task at most, and for each request whose memory is free again: bounded by the requests.
    queue: VecDeque<Work>,
    idle: usize,
    threads: usize,
}

static THREADS: LazyLock<Threads> = LazyLock::new(Threads::default);

impl Threads {
    fn push(&'static self, work: Work) {
        let mut state = self.state.lock();
        state.queue.push_back(work);
        if state.idle >= state.queue.len() || state.threads == MOST_THREADS {
            self.is_work.notify_one();
            return;
        }
        let number = state.threads;
        match thread::Builder::new().name(format!("callbacks-{number}")).spawn(|| self.work()) {
            Ok(_) => state.threads += 1,
            Err(error) if number == 0 => tracing::error!("no thread for functions of libraries can be made: {error}"),
            Err(_) => {} // those that are there do it
        }
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            match state.queue.pop_front() {
                Some(work) => {
                    drop(state);
                    // a panic is the server's error, and said by its hook; the thread goes on for the others
                    let _ = catch_unwind(AssertUnwindSafe(work));
                    state = self.state.lock();
                }
                None => {
                    state.idle += 1;
                    self.is_work.wait(&mut state);
                    state.idle -= 1;
                }
            }
        }
    }
}
