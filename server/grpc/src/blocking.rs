//! Work that would hold the event loop up runs on blocking threads: a bounded number of them, so that large requests and
//! model loads, which use the same threads of the runtime, do not take them from each other.

use std::{future::Future, num::NonZeroUsize, pin::Pin, sync::Arc, thread::available_parallelism};

use server_core::error::{Error, Result};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Most threads used at once. Beyond the number of processors more threads gain nothing.
const MAX_THREADS: usize = 8;

/// Work that runs or waits for a thread.
pub(crate) type Running<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Runs blocking work for this front end. Waiting work is bounded by the calls in flight and by the budget of their bytes.
#[derive(Debug, Clone)]
pub(crate) struct Blocking(Arc<Semaphore>);

impl Default for Blocking {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        Self(Arc::new(Semaphore::new(processors.min(MAX_THREADS))))
    }
}

impl Blocking {
    /// Runs `work` on a blocking thread when one of this front end's is free. Boxed, so that the many callers that hardly ever
    /// need it stay small.
    ///
    /// Errors: `Internal` if it panics, or the server ends first.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Running<T> {
        let threads = self.0.clone();
        let failed = || Error::internal("the request could not be processed");
        Box::pin(async move {
            let permit = threads.acquire_owned().await.map_err(|_| failed())?;
            // The permit goes with the work: it counts until it is done, whether or not its caller still waits.
            let work = spawn_blocking(move || {
                let _permit = permit;
                work()
            });
            work.await.map_err(|_| failed())
        })
    }

    /// Runs `work` here, or on a blocking thread if it is long.
    ///
    /// Errors: as [`Blocking::run`].
    pub(crate) async fn run_if<T: Send + 'static>(
        &self,
        is_long: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if is_long { self.run(work).await } else { Ok(work()) }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering::SeqCst},
            mpsc,
        },
        thread::current,
    };

    use super::*;

    #[tokio::test]
    async fn only_long_work_leaves_the_event_loop() {
        let blocking = Blocking::default();
        let here = current().id();
        assert_eq!(blocking.run_if(false, || current().id()).await, Ok(here));
        assert_ne!(blocking.run_if(true, || current().id()).await, Ok(here));
        assert!(blocking.run(|| panic!("as a fault would")).await.is_err_and(|error: Error| !error.message.is_empty()));
    }

    #[tokio::test]
    async fn no_more_threads_are_used_than_allowed_even_if_callers_leave() {
        let blocking = Blocking(Arc::new(Semaphore::new(2)));
        let running = Arc::new(AtomicUsize::new(0));
        let (finish, finished) = mpsc::channel::<()>();
        let finished = Arc::new(std::sync::Mutex::new(finished));
        let start = || {
            let (blocking, running, finished) = (blocking.clone(), running.clone(), finished.clone());
            tokio::spawn(async move {
                let work = move || {
                    running.fetch_add(1, SeqCst);
                    let _ = finished.lock().unwrap().recv();
                };
                blocking.run(work).await
            })
        };
        let calls = [start(), start(), start(), start()];
        while running.load(SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        let late = start();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(running.load(SeqCst), 2);
        drop(finish);
        assert_eq!(late.await.unwrap(), Ok(()));
    }
}
