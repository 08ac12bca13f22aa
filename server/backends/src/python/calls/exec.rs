//! Requests to other models.

use std::{
    sync::Arc,
    sync::Weak,
    task::{Context, Poll, Waker},
    thread,
};

use server_core::{
    backend::Responses,
    caller::{Caller, Reentry},
    error::{Error, Result},
    request::InferRequest,
    response::InferResponse,
};

use super::super::encode::Message;
use super::{
    Calls, answer,
    thread::{CallThread, Stream},
};

impl CallThread {
    /// Runs a request; answers its response, or the first of several.
    pub(super) fn exec(&mut self, execution: Option<u64>, wants_all: bool, request: InferRequest) -> Message {
        self.stream = None;
        self.line.begin();
        let model = request.model_name.clone();
        match self.begin(execution, wants_all, request) {
            Ok(responses) => self.stream = Some(Stream(responses)),
            Err(error) => {
                self.end_wait();
                let text = format!("Model {model} - Error when running inference: {}", error.message);
                return answer::response(Some(Err(Error::internal(text))), true, &self.shared.leases);
            }
        }
        let reply = self.wait();
        if wants_all {
            return self.respond(reply);
        }
        let reply = reply.unwrap_or_else(|| Err(Error::internal("Unexpected empty response.")));
        self.stream = None;
        self.end_wait();
        answer::response(Some(reply), true, &self.shared.leases)
    }

    /// The next response of a request of several.
    pub(super) fn next(&mut self) -> Message {
        let reply = self.wait();
        self.respond(reply)
    }

    /// The model has enough of the responses; it may still ask for the next, which says so.
    pub(super) fn cancel(&mut self) {
        self.line.cancel(self.line.current());
        self.stream = None;
        self.end_wait();
    }

    fn respond(&mut self, reply: Option<Result<InferResponse>>) -> Message {
        let is_last = reply.is_none() || self.stream.as_ref().is_none_or(|Stream(responses)| responses.is_finished());
        if is_last {
            self.stream = None;
            self.end_wait();
        }
        answer::response(reply, is_last, &self.shared.leases)
    }

    fn begin(
        &mut self,
        execution: Option<u64>,
        wants_all: bool,
        mut request: InferRequest,
    ) -> Result<Box<dyn Responses>> {
        let calls = &self.shared.calls;
        let host = calls.host()?;
        let model = &request.model_name;
        let found = host.find_model(model, request.model_version).map_err(|error| match error.message.as_ref() {
            unknown if unknown == format!("Request for unknown model: '{model}' is not found") => error,
            // It is known, and that version is not there. One that is there is asked as by any caller, also while its workers
            // are being replaced.
            _ => Error::internal(format!("Failed for execute the inference request. Model '{model}' is not ready.")),
        })?;
        if found.is_decoupled && !wants_all {
            return Err(Error::internal(format!(
                "Model {model} is using the decoupled. The current BLS request call doesn't support models using the \
                 decoupled transaction policy. Please use 'decoupled=True' argument to the 'exec' or 'async_exec' calls for \
                 decoupled models.'"
            )));
        }
        request.callers = self.shared.health().map(|health| {
            let mut executions = calls.executions.lock();
            let parent = executions.of_call(execution).and_then(|(number, parent)| {
                executions.wait(self.number, number, health); // before the request looks where it may run
                parent
            });
            calls.caller(health, parent)
        });
        host.infer(request)
    }

    /// The next response; `None` after the last. Meanwhile, runs what other models want of this one.
    fn wait(&mut self) -> Option<Result<InferResponse>> {
        let waker = Waker::from(self.line.clone());
        loop {
            if self.line.is_cancelled() {
                self.stream = None;
                return Some(Err(Error::cancelled("the request was cancelled by the model that made it")));
            }
            let Some(Stream(responses)) = &mut self.stream else { return None };
            if let Poll::Ready(reply) = responses.poll_next(&mut Context::from_waker(&waker)) {
                return reply;
            }
            let interrupt = self.shared.calls.executions.lock().interrupt(self.number);
            match interrupt {
                Some(batch) => self.run_in_call(batch),
                None => {
                    thread::park();
                    self.shared.calls.executions.lock().awake(self.number);
                }
            }
        }
    }
}

impl Calls {
    /// The instance of that health, which asks.
    fn caller(&self, health: &server_core::backend::Health, parent: Option<Arc<Caller>>) -> Arc<Caller> {
        // It is marked as waiting by `Executions::wait`, for as long as the worker waits.
        let unmarked: Weak<dyn Reentry> = Weak::<NoReentry>::new();
        Caller::new(self.model.clone(), self.version, health.clone(), unmarked, parent)
    }
}

enum NoReentry {}

impl Reentry for NoReentry {
    fn execute(&self, _batch: server_core::batch::Batch) {
        match *self {}
    }
}
