//! What a connection does to itself while it is polled. hyper wakes the connection's task from within its poll, once for each piece of
//! a body. The runtime would queue the task again and wake another of its threads to help with it, for nothing: here it is polled again
//! at once.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::task::yield_now;

/// Polls in a row before other tasks have their turn.
const MOST_POLLS: usize = 2;

/// Nobody polls, and nothing has happened since the last poll.
const IDLE: u8 = 0;
/// It is being polled, and nothing has happened since that began.
const POLLED: u8 = 1;
/// Something has happened that it has to see: it is polled again, or its task was woken.
const WOKEN: u8 = 2;

/// Polls a future whose task is woken only by what happens between its polls.
pub(crate) struct OwnWakes {
    shared: Arc<Shared>,
    waker: Waker,
}

struct Shared {
    state: AtomicU8,
    /// The waker of the task, which stays the same.
    task: OnceLock<Waker>,
}

impl OwnWakes {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared { state: AtomicU8::new(IDLE), task: OnceLock::new() });
        Self { waker: shared.clone().into(), shared }
    }

    /// Polls until it is ready or waits. It is always the same future of the same task.
    pub(crate) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Shared { state, task } = &*self.shared;
        task.get_or_init(|| context.waker().clone());
        for _ in 0..MOST_POLLS {
            state.swap(POLLED, Ordering::AcqRel);
            let outcome = poll(&mut Context::from_waker(&self.waker));
            let was_woken = state.compare_exchange(POLLED, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err();
            if outcome.is_ready() || !was_woken {
                return outcome;
            }
        }
        // after the tasks that are ready; a wake-up would have another thread help with it
        let yielded = pin!(yield_now()).poll(context);
        debug_assert!(yielded.is_pending());
        Poll::Pending
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == IDLE
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task {
        wakes: AtomicUsize,
    }

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often a future was polled that wakes itself in its first polls, and its task was woken meanwhile.
    fn polled(own_wakes: &OwnWakes, task: &Arc<Task>, itself: usize) -> (usize, usize) {
        let (mut polls, before) = (0, task.wakes.load(Ordering::Relaxed));
        let outcome = own_wakes.poll(&mut Context::from_waker(&task.clone().into()), |context| {
            polls += 1;
            if polls <= itself {
                context.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert!(outcome.is_pending());
        (polls, task.wakes.load(Ordering::Relaxed) - before)
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_and_its_task_is_not_woken() {
        let (own_wakes, task) = (OwnWakes::new(), Arc::default());
        assert_eq!(polled(&own_wakes, &task, 0), (1, 0));
        assert_eq!(polled(&own_wakes, &task, 1), (2, 0));
        assert_eq!(polled(&own_wakes, &task, 0), (1, 0));
    }

    #[test]
    fn one_that_goes_on_waking_itself_lets_other_tasks_have_their_turn() {
        let (own_wakes, task) = (OwnWakes::new(), Arc::default());
        assert_eq!(polled(&own_wakes, &task, usize::MAX), (MOST_POLLS, 1));
    }

    #[test]
    fn what_happens_between_polls_wakes_the_task_once() {
        let (own_wakes, task) = (OwnWakes::new(), Arc::<Task>::default());
        polled(&own_wakes, &task, 0);
        own_wakes.waker.wake_by_ref();
        own_wakes.waker.wake_by_ref();
        assert_eq!(task.wakes.load(Ordering::Relaxed), 1);
        assert_eq!(polled(&own_wakes, &task, 0), (1, 0));
        own_wakes.waker.wake_by_ref();
        assert_eq!(task.wakes.load(Ordering::Relaxed), 2);
    }
}
