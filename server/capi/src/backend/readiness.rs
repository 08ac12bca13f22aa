//! The question to a library whether its instances are ready. It may take its time to answer: so a thread asks, and nobody else waits.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
};

use parking_lot::Mutex;

/// An answer that a thread looks for, from the first time that somebody wants to know.
pub(crate) struct Asked<F> {
    question: Option<F>,
    answer: Arc<Mutex<Answer>>,
}

#[derive(Default)]
struct Answer {
    is_ready: Option<bool>,
    waker: Option<Waker>,
}

impl<F> Asked<F> {
    /// The answer to that question.
    pub(crate) fn new(question: F) -> Self {
        Self { question: Some(question), answer: Arc::default() }
    }
}

impl<F: FnOnce() -> bool + Send + Unpin + 'static> Future for Asked<F> {
    type Output = bool;

    /// Not ready if no thread can be had to ask.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        self.answer.lock().waker = Some(context.waker().clone());
        if let Some(question) = self.question.take() {
            let answer = self.answer.clone();
            let asking = thread::Builder::new().name("readiness".into()).spawn(move || {
                let is_ready = question();
                let waker = {
                    let mut answer = answer.lock();
                    answer.is_ready = Some(is_ready);
                    answer.waker.take()
                };
                waker.into_iter().for_each(Waker::wake);
            });
            if asking.is_err() {
                return Poll::Ready(false);
            }
        }
        let is_ready = self.answer.lock().is_ready;
        is_ready.map_or(Poll::Pending, Poll::Ready)
    }
}
