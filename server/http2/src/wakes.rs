//! Which calls of a connection are to be polled. Each has a waker of its own, so that waking one polls no other; the task of
//! the connection is woken once for all of them, and not at all while it is polled.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use parking_lot::Mutex;

/// The calls of one connection that are to be polled.
#[derive(Debug, Default)]
pub(crate) struct Wakes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    woken: Vec<usize>,
    /// The waker of the connection's task.
    task: Option<Waker>,
    /// Whether the task is being polled or was woken, so that it looks here in any case.
    is_awake: bool,
}

/// The waker of one call.
#[derive(Debug)]
pub(crate) struct CallWaker {
    key: usize,
    is_woken: AtomicBool,
    wakes: Arc<Wakes>,
}

impl Wakes {
    /// The task is polled from here on.
    pub(crate) fn begin(&self, task: &Waker) {
        let mut state = self.0.lock();
        state.is_awake = true;
        match &mut state.task {
            Some(known) => known.clone_from(task),
            None => state.task = Some(task.clone()),
        }
    }

    /// Exchanges the list of calls that are to be polled for this one, which is empty.
    pub(crate) fn take(&self, woken: &mut Vec<usize>) {
        mem::swap(&mut self.0.lock().woken, woken);
    }

    /// The task waits from here on, unless there are calls to be polled: whether it does.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.0.lock();
        state.is_awake = !state.woken.is_empty();
        !state.is_awake
    }
}

impl CallWaker {
    pub(crate) fn new(key: usize, wakes: &Arc<Wakes>) -> Arc<Self> {
        Arc::new(Self { key, is_woken: AtomicBool::new(false), wakes: wakes.clone() })
    }

    /// Whether the call was woken since the last time. What happens from here on wakes it again.
    pub(crate) fn take(&self) -> bool {
        self.is_woken.swap(false, Ordering::SeqCst)
    }
}

impl Wake for CallWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_woken.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.wakes.0.lock();
        state.woken.push(self.key);
        if !mem::replace(&mut state.is_awake, true) {
            let task = state.task.clone();
            drop(state);
            task.iter().for_each(Waker::wake_by_ref);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[track_caller]
    fn taken(wakes: &Wakes, expected: &[usize]) {
        let mut woken = Vec::new();
        wakes.take(&mut woken);
        assert_eq!(woken, expected);
    }

    #[test]
    fn the_task_is_woken_once_and_sees_every_call_that_was() {
        let (wakes, task) = (Arc::<Wakes>::default(), Arc::<Task>::default());
        let calls = [0, 1, 2].map(|key| CallWaker::new(key, &wakes));
        let wakers = calls.clone().map(Waker::from);
        wakes.begin(&task.clone().into());
        wakers[1].wake_by_ref(); // while the task is polled
        assert!(!wakes.end());
        taken(&wakes, &[1]);
        assert!(calls[1].take() && !calls[1].take());
        assert!(wakes.end());
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
        for call in [2, 0, 2, 2, 0] {
            wakers[call].wake_by_ref();
        }
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        wakes.begin(&task.clone().into());
        taken(&wakes, &[2, 0]);
        assert!(calls[2].take());
        wakers[2].wake_by_ref(); // it goes on at once
        wakers[0].wake_by_ref(); // which is not polled yet
        taken(&wakes, &[2]);
        assert!(wakes.end());
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        let (wakes, task) = (Arc::<Wakes>::default(), Arc::<Task>::default());
        let call = CallWaker::new(0, &wakes);
        let waker = Waker::from(call.clone());
        wakes.begin(&task.clone().into());
        const TIMES: usize = 10_000;
        let said = Arc::new(AtomicUsize::new(0));
        let other = std::thread::spawn({
            let said = said.clone();
            move || {
                for number in 1..=TIMES {
                    said.store(number, Ordering::SeqCst);
                    waker.wake_by_ref();
                }
            }
        });
        let (mut seen, mut polls, mut woken) = (0, 0, Vec::new());
        while seen < TIMES {
            wakes.take(&mut woken);
            for _ in woken.drain(..) {
                assert!(call.take());
                seen = said.load(Ordering::SeqCst);
            }
            if wakes.end() {
                let before = polls;
                while seen < TIMES && task.0.load(Ordering::SeqCst) == before {
                    std::thread::yield_now(); // the last wake-up has to come
                }
                polls = task.0.load(Ordering::SeqCst);
                wakes.begin(&task.clone().into());
            }
        }
        other.join().unwrap();
    }
}
