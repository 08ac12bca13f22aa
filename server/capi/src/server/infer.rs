//! Requests of libraries under way: sent like those of other models, answered by calling the library.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use server_core::{
    backend::Responses,
    error::{Error, Result},
    response::InferResponse,
};

use super::{
    Server,
    allocator::UserPointer,
    asking,
    callback_threads::{self, Scheduled, Task},
    request::{InferenceRequest, ReleaseFn, Responded},
    response::InferenceResponse,
    trace::{InferenceTrace, Running},
};
use crate::abi::{
    Handle,
    export::exports,
    numbers::{release_flag, response_flag},
};

/// A request under way.
pub(super) type Flight = Scheduled<Run>;

/// What is known of a request under way.
pub(super) struct Run {
    model: String,
    id: String,
    responded: Responded,
    was_cancelled: AtomicBool,
    /// Until the last response.
    rest: Mutex<Option<Rest>>,
}

struct Rest {
    responses: Box<dyn Responses>,
    trace: Option<Running>,
    _until: Arc<Release>,
}

/// Says that a request is the library's again, when it is dropped: nothing reads its memory any more.
struct Release {
    handle: Handle<InferenceRequest>,
    request: Arc<InferenceRequest>,
    function: Option<(ReleaseFn, UserPointer)>,
    /// The server took it.
    is_sent: AtomicBool,
}

impl Drop for Release {
    fn drop(&mut self) {
        *self.request.flight.lock() = None;
        let Some((function, user)) = self.function.filter(|_| self.is_sent.load(SeqCst)) else { return };
        let handle = self.handle;
        // not here: whoever dropped the last tensor may have something locked
        callback_threads::run(move || call_release(function, handle, user));
    }
}

#[allow(unsafe_code)]
fn call_release(function: ReleaseFn, request: Handle<InferenceRequest>, user: UserPointer) {
    // SAFETY: the function of the library that was given for this.
    unsafe { function(request, release_flag::ALL, user.0) }
}

/// Keeps others from sending a request, or from changing it, while it is being sent. Its lock is not held meanwhile: tensors
/// may be dropped at once, and the last of them takes it.
struct Sending<'a>(&'a InferenceRequest);

impl<'a> Sending<'a> {
    /// Errors: it is under way already.
    fn begin(request: &'a InferenceRequest) -> Result<Self> {
        let flight = request.flight.lock();
        if flight.is_some() || request.is_sending.swap(true, SeqCst) {
            return Err(Error::invalid_argument("the request is under way already"));
        }
        Ok(Self(request))
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.is_sending.store(false, SeqCst);
    }
}

impl Flight {
    /// Nobody waits for it any more.
    pub(super) fn cancel(self: &Arc<Self>) {
        self.task().was_cancelled.store(true, SeqCst);
        self.schedule();
    }
}

impl Run {
    /// Calls the library with a response, or with the end alone.
    #[allow(unsafe_code)]
    fn deliver(&self, reply: Option<Result<InferResponse>>, is_last: bool) {
        let failed = |error: &Error| InferenceResponse::failed(&self.model, &self.id, error);
        let made = reply.map(|reply| match reply {
            Ok(response) => {
                InferenceResponse::of(&response, &self.responded.allocator).unwrap_or_else(|error| failed(&error))
            }
            Err(error) => failed(&error),
        });
        let response = made.map_or(Handle::NULL, Handle::new);
        let flags = if is_last { response_flag::FINAL } else { 0 };
        // SAFETY: the function of the library that was given for this.
        unsafe { (self.responded.function)(response, flags, self.responded.user.0) }
    }

    /// The next thing to tell the library, and whether it is the last.
    fn next(&self, rest: &mut Rest, waker: &Waker) -> Poll<(Option<Result<InferResponse>>, bool)> {
        if self.was_cancelled.load(SeqCst) {
            return Poll::Ready((Some(Err(Error::cancelled("request was cancelled"))), true));
        }
        rest.responses.poll_next(&mut Context::from_waker(waker)).map(|reply| {
            let is_last = reply.is_none() || rest.responses.is_finished();
            (reply, is_last)
        })
    }
}

impl Task for Run {
    fn step(&self, waker: &Waker) {
        let mut rest = self.rest.lock();
        while let Some(under_way) = &mut *rest {
            let Poll::Ready((reply, is_last)) = self.next(under_way, waker) else { return };
            if is_last && let Some(trace) = under_way.trace.take() {
                trace.end();
            }
            self.deliver(reply, is_last);
            if is_last {
                *rest = None;
            }
        }
    }
}

exports! {
    /// Sends a request. From then on it is the server's, until its function for that is called; its responses are told as they come.
    /// With an error, it stays the library's, and nothing is called.
    fn TRITONSERVER_ServerInferAsync(
        server: Handle<Server>,
        request: Handle<InferenceRequest>,
        trace: Handle<InferenceTrace>,
    ) {
        let host = server.get()?.host()?;
        let (handle, request) = (request, request.get()?.share());
        let trace = if trace.is_null() { None } else { Some((trace, trace.get()?.share())) };
        let sending = Sending::begin(&request)?;
        let (mut to_send, run, until) = {
            let mut settings = request.settings.lock();
            let not_set = || Error::invalid_argument("the function for responses of the request is not set");
            let responded = settings.responded.ok_or_else(not_set)?;
            settings.was_cancelled = false;
            let until = Arc::new(Release {
                handle,
                request: request.clone(),
                function: settings.released,
                is_sent: AtomicBool::new(false),
            });
            let to_send = request.to_core(&settings, &until);
            let run = Run {
                model: request.model.clone(),
                id: to_send.id.clone(),
                responded,
                was_cancelled: AtomicBool::new(false),
                rest: Mutex::default(),
            };
            (to_send, run, until)
        };
        to_send.trace = trace.as_ref().and_then(|(_, trace)| trace.core().cloned());
        to_send.callers = asking::caller();
        let responses = host.infer(to_send).inspect_err(|_| {
            if let Some((handle, trace)) = &trace {
                trace.let_go(*handle);
            }
        })?;
        until.is_sent.store(true, SeqCst);
        let trace = trace.map(|(handle, trace)| Running::begin(handle, trace, &run.model, &run.id));
        let mut flight = request.flight.lock();
        drop(sending);
        *run.rest.lock() = Some(Rest { responses, trace, _until: until });
        let begun = callback_threads::begin(run);
        if request.settings.lock().was_cancelled {
            begun.cancel(); // between the call and here
        }
        *flight = Some(begun);
        Ok(())
    }
}
