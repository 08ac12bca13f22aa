//! Threads for the long computations of requests: large JSON, compression, classification. They have a bound of their
//! own and are not those that load models, so that neither can take the threads of the other.

use std::{num::NonZeroUsize, sync::Arc, thread::available_parallelism};

use server_core::error::{Error, Result};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

/// Most threads; more than processors gain nothing.
const MAX_THREADS: usize = 16;

/// A bounded pool of threads, started when first needed. Clones share it.
///
/// Work that waits for a thread is bounded by the requests in flight and by the budget of their bytes.
#[derive(Debug, Clone)]
pub struct BlockingPool(Arc<Threads>);

/// A runtime that runs no task: its blocking threads are the pool.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Default for BlockingPool {
    /// As many threads as processors.
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS))
    }
}

impl BlockingPool {
    /// A pool of at most `threads` threads, at least one.
    pub fn new(threads: usize) -> Self {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(threads.max(1))
            .thread_name("requests")
            .build()
            .expect("a runtime without I/O and timers asks nothing of the system");
        Self(Arc::new(Threads(Some(runtime))))
    }

    /// Runs `work` on a thread of the pool. Work that has not begun when the future is dropped is never run.
    ///
    /// Errors: `Internal` if it panics.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let failed = || Error::internal("the request could not be processed");
        let runtime = self.0.0.as_ref().ok_or_else(failed)?;
        let mut work = AbortOnDrop(runtime.spawn_blocking(work));
        (&mut work.0).await.map_err(|_| failed())
    }

    /// Runs `work` here, or on a thread of the pool if it is long.
    ///
    /// Errors: as [`BlockingPool::run`].
    pub async fn run_if<T: Send + 'static>(
        &self,
        is_long: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if is_long { self.run(work).await } else { Ok(work()) }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background(); // waiting for its threads would block the event loop
        }
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::SeqCst},
            mpsc,
        },
        thread::current,
    };

    use super::*;

    #[tokio::test]
    async fn only_long_work_leaves_the_callers_thread() {
        let pool = BlockingPool::new(1);
        let here = current().id();
        assert_eq!(pool.run_if(false, || current().id()).await, Ok(here));
        assert_ne!(pool.run_if(true, || current().id()).await, Ok(here));
        assert!(pool.run(|| panic!("as a fault would")).await.is_err_and(|error: Error| !error.message.is_empty()));
    }

    #[tokio::test]
    async fn the_bound_holds_and_abandoned_work_is_never_run() {
        let pool = BlockingPool::new(2);
        let running = Arc::new(AtomicUsize::new(0));
        let (finish, finished) = mpsc::channel::<()>();
        let finished = Arc::new(Mutex::new(finished));
        let start = || {
            let (pool, running, finished) = (pool.clone(), running.clone(), finished.clone());
            tokio::spawn(async move {
                let work = move || {
                    running.fetch_add(1, SeqCst);
                    let _ = finished.lock().unwrap().recv();
                };
                pool.run(work).await
            })
        };
        let first = [start(), start()];
        while running.load(SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        let waiting = [start(), start()];
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(running.load(SeqCst), 2);
        for call in waiting {
            call.abort();
            assert!(call.await.is_err());
        }
        let last = start();
        drop(finish);
        assert_eq!(last.await.unwrap(), Ok(()));
        for call in first {
            assert_eq!(call.await.unwrap(), Ok(()));
        }
        assert_eq!(running.load(SeqCst), 3);
    }

    #[test]
    fn the_threads_of_the_runtime_are_not_needed() {
        let runtime = Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (finish, finished) = mpsc::channel::<()>();
        runtime.block_on(async {
            let load = tokio::task::spawn_blocking(move || finished.recv()); // takes the only thread
            assert_eq!(BlockingPool::new(1).run(|| 1).await, Ok(1));
            drop(finish);
            assert!(load.await.unwrap().is_err());
        });
    }
}
