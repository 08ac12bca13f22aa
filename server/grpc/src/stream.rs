//! Streamed inference: one stream carries requests for any models and their responses.
//!
//! Everything happens when the connection polls for the next message: requests are read while fewer than the limit are in
//! flight; responses of ordinary models are sent in the order of their requests, those of decoupled models as they come.
//! Nothing is spawned; while the client does not read responses, no requests are read; dropping the stream cancels them.

mod run;

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use futures_util::{Stream, StreamExt, stream::SelectAll};
use server_core::error::Result;
use server_engine::Engine;
use server_proto::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use tonic::{Request, Status, Streaming};

use self::run::{Failure, Run};
use crate::{
    admission::{self, Admission, Permit},
    error::status,
    infer::request,
};

/// Metadata of a call that its first error ends.
const STRICT: &str = "triton_grpc_error";

/// Limits of one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests in flight; further ones wait in the connection.
    pub(crate) requests: usize,
    /// Largest message sent, in bytes.
    pub(crate) send_bytes: usize,
}

/// What a stream yields.
type Item = Result<ModelStreamInferResponse, Status>;

/// Opens the response half of a stream.
///
/// Errors: the server is stopping.
pub(crate) fn model_stream_infer(
    engine: Arc<Engine>,
    admission: &Arc<Admission>,
    request: Request<Streaming<ModelInferRequest>>,
    limits: Limits,
) -> Result<Pin<Box<dyn Stream<Item = Item> + Send>>> {
    let is_strict = request.metadata().get(STRICT).is_some_and(|value| value.as_encoded_bytes() == b"true");
    Ok(Box::pin(InferStream {
        engine,
        limits: Limits { requests: limits.requests.max(1), ..limits },
        is_strict,
        requests: Some(request.into_inner()),
        ordered: VecDeque::new(),
        decoupled: SelectAll::new(),
        decoupled_first: false,
        final_status: None,
        shutdown: Some(Box::pin(admission.closed())),
        admission: admission.clone(),
        _permit: admission.admit()?,
    }))
}

/// One stream.
struct InferStream {
    engine: Arc<Engine>,
    limits: Limits,
    is_strict: bool,
    /// `None` once the client has half-closed.
    requests: Option<Streaming<ModelInferRequest>>,
    /// Requests to models that respond once, in the order they came.
    ordered: VecDeque<Ordered>,
    /// Requests to decoupled models.
    decoupled: SelectAll<Run>,
    /// Which kind is polled first: they alternate, so that neither starves.
    decoupled_first: bool,
    /// The status the stream ends with once all requests are answered, if not OK.
    final_status: Option<Status>,
    /// `None` once the server stops.
    shutdown: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    admission: Arc<Admission>,
    _permit: Permit,
}

/// A request whose response is sent in request order.
enum Ordered {
    /// Refused before it ran.
    Refused(Failure),
    /// In flight.
    Running(Box<Run>),
}

impl InferStream {
    fn in_flight(&self) -> usize {
        self.ordered.len() + self.decoupled.len()
    }

    /// Reads requests while fewer than the limit are in flight.
    fn take_requests(&mut self, context: &mut Context<'_>) {
        while self.in_flight() < self.limits.requests {
            let Some(requests) = &mut self.requests else { return };
            match requests.poll_next_unpin(context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(message))) => self.start(message),
                Poll::Ready(Some(Err(broken))) => {
                    self.final_status = Some(broken);
                    self.requests = None;
                }
                Poll::Ready(None) => self.requests = None,
            }
        }
    }

    /// Starts one request. An error takes the place of its response.
    fn start(&mut self, message: ModelInferRequest) {
        let id = message.id.clone();
        match self.run(message) {
            Ok(run) if run.is_decoupled() => self.decoupled.push(run),
            Ok(run) => self.ordered.push_back(Ordered::Running(Box::new(run))),
            Err(error) => {
                let about = Box::new(ModelInferResponse { id, ..Default::default() });
                self.ordered.push_back(Ordered::Refused(Failure { error, about }));
            }
        }
    }

    fn run(&self, message: ModelInferRequest) -> Result<Run> {
        if self.admission.is_closed() {
            return Err(admission::shutting_down());
        }
        let received_at = Instant::now();
        let model = request::model(&self.engine, &message)?;
        let asked_version = message.model_version.clone();
        let prepared = request::prepare(model.interface(), message, received_at)?;
        Run::start(&self.engine, &model, asked_version, prepared, self.limits.send_bytes)
    }

    fn poll_ordered(&mut self, context: &mut Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        if let Some(Ordered::Running(run)) = self.ordered.front_mut() {
            let answer = ready!(run.poll_only(context));
            self.ordered.pop_front();
            return Poll::Ready(answer);
        }
        match self.ordered.pop_front() {
            Some(Ordered::Refused(failure)) => Poll::Ready(Err(failure)),
            _ => Poll::Pending,
        }
    }

    fn poll_decoupled(&mut self, context: &mut Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        match self.decoupled.poll_next_unpin(context) {
            Poll::Ready(Some(answer)) => Poll::Ready(answer),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_responses(&mut self, context: &mut Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        self.decoupled_first = !self.decoupled_first;
        if self.decoupled_first {
            let first = self.poll_decoupled(context);
            if first.is_ready() { first } else { self.poll_ordered(context) }
        } else {
            let first = self.poll_ordered(context);
            if first.is_ready() { first } else { self.poll_decoupled(context) }
        }
    }

    /// Ends the stream: requests in flight are cancelled, further ones are not read.
    fn finish(&mut self) {
        self.requests = None;
        self.ordered.clear();
        self.decoupled.clear();
    }
}

impl Stream for InferStream {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = &mut *self;
        loop {
            this.take_requests(context);
            let was_full = this.in_flight() == this.limits.requests;
            match this.poll_responses(context) {
                Poll::Ready(Ok(message)) => return Poll::Ready(Some(Ok(message))),
                Poll::Ready(Err(failure)) if this.is_strict => {
                    this.finish();
                    return Poll::Ready(Some(Err(status(failure.error))));
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Some(Ok(failure.into_message()))),
                Poll::Pending => {}
            }
            // A decoupled model may have ended without a response: another request can be read now.
            if was_full && this.in_flight() < this.limits.requests {
                continue;
            }
            let is_idle = this.in_flight() == 0;
            if is_idle && this.requests.is_none() {
                return Poll::Ready(this.final_status.take().map(Err));
            }
            if let Some(shutdown) = &mut this.shutdown {
                ready!(shutdown.as_mut().poll(context));
                this.shutdown = None;
            }
            // The server stops: what is in flight is answered, and an idle client is not waited for.
            if !is_idle {
                return Poll::Pending;
            }
            this.finish();
            this.final_status = Some(status(admission::shutting_down()));
        }
    }
}
