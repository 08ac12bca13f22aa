//! Streamed inference: one stream carries requests for any models and their responses.
//!
//! Everything happens when the connection polls for the next message: requests are read while fewer than the limit are in
//! flight; responses of ordinary models are sent in the order of their requests, those of decoupled models as they come.
//! Nothing is spawned; while the client does not read responses, no requests are read; dropping the stream cancels them.

mod context;
mod run;
mod several;

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use server_core::{error::Result, header_forwarding::HeaderPattern, request::Parameters};
use server_engine::{Engine, ModelHandle};
use server_proto::inference::ModelStreamInferResponse;
use tonic::Status;

pub(crate) use self::context::{Context, Limits};
use self::{
    run::{Failure, Run},
    several::Several,
};
use crate::{
    admission::{self, Permit},
    error::status,
    forwarding::{self, STRICT},
    framing::receive::{Messages, Source},
    infer::request::{self, Prepared},
    tracing,
};

/// Opens the response half of a stream.
///
/// Errors: the server is stopping.
pub(crate) fn model_stream_infer<B: Source + Unpin>(
    context: Context,
    headers: &HeaderMap,
    pattern: Option<&HeaderPattern>,
    requests: Messages<B>,
) -> Result<InferStream<B>> {
    Ok(InferStream {
        forwarded: forwarding::forwarded(pattern, headers),
        metadata: headers.clone(),
        is_strict: headers.get(STRICT).is_some_and(|value| value.as_bytes() == b"true"),
        waited_since: tracing::waits(&context.engine),
        requests: Some(requests),
        reading: None,
        ordered: VecDeque::new(),
        polled_on: 0,
        decoupled: Several::new(),
        decoupled_first: false,
        final_status: None,
        shutdown: Some(Box::pin(context.admission.closed())),
        _permit: context.admission.admit()?,
        context,
    })
}

/// One stream.
pub(crate) struct InferStream<B> {
    context: Context,
    /// Of the call: it marks requests for canary versions.
    metadata: HeaderMap,
    /// The parameters that it becomes, of every request; or why it cannot.
    forwarded: Result<Parameters>,
    is_strict: bool,
    /// Since when the next message is waited for, where anything is traced.
    waited_since: Option<Instant>,
    /// `None` once the client has half-closed.
    requests: Option<Messages<B>>,
    /// A long request that is decoded on the blocking pool; those behind it wait.
    reading: Option<Pin<Box<dyn Future<Output = Read> + Send>>>,
    /// Requests to models that respond once, in the order they came.
    ordered: VecDeque<Ordered>,
    /// How many of them go on only while they are polled.
    polled_on: usize,
    /// Requests to decoupled models.
    decoupled: Several<Run>,
    /// Which kind is polled first: they alternate, so that neither starves.
    decoupled_first: bool,
    /// The status the stream ends with once all requests are answered, if not OK.
    final_status: Option<Status>,
    /// `None` once the server stops.
    shutdown: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _permit: Permit,
}

/// A request that was read: to be run, answered with an error, or the end of the stream.
type Read = Result<Result<Request, Failure>, Status>;

/// A request for the engine.
struct Request {
    model: ModelHandle,
    asked_version: String,
    prepared: Prepared,
}

/// Reads one message.
fn read(engine: &Engine, message: Bytes, received_at: Instant) -> Read {
    let message = request::decode(message)?;
    let (id, asked_version) = (message.id.clone(), message.model_version.clone());
    let request = request::model(engine, &message).and_then(|model| {
        let prepared = request::prepare(model.interface(), engine.shared_memory(), message, received_at)?;
        Ok(Request { model, asked_version, prepared })
    });
    Ok(request.map_err(|error| Failure::of_request(id, error)))
}

/// A request whose response is sent in request order.
enum Ordered {
    /// Refused before it ran.
    Refused(Failure),
    /// In flight.
    Running(Box<Run>),
}

impl<B: Source + Unpin> InferStream<B> {
    fn in_flight(&self) -> usize {
        self.ordered.len() + self.decoupled.len() + usize::from(self.reading.is_some())
    }

    /// Whether no further request is read. A request may wait for one behind it that ends its sequence or another, so many
    /// are read; a request to a decoupled model may hold many unread responses, so of those an eighth.
    fn is_full(&self) -> bool {
        let limit = self.context.limits.requests.max(1);
        self.in_flight() >= limit || self.decoupled.len() >= limit.div_ceil(8)
    }

    /// Reads requests while fewer than the limit are in flight.
    fn take_requests(&mut self, context: &mut task::Context<'_>) {
        loop {
            if let Some(reading) = &mut self.reading {
                let Poll::Ready(read) = reading.as_mut().poll(context) else { return };
                self.reading = None;
                self.start(read);
            }
            if self.is_full() {
                return;
            }
            let Some(requests) = &mut self.requests else { return };
            match requests.poll_next(context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(message))) if request::is_long(&message) => {
                    let (engine, received_at) = (self.context.engine.clone(), Instant::now());
                    let pool = self.context.pool.clone();
                    self.reading = Some(Box::pin(async move {
                        pool.run(move || read(&engine, message, received_at)).await.map_err(status)?
                    }));
                }
                Poll::Ready(Some(Ok(message))) => {
                    let read = read(&self.context.engine, message, Instant::now());
                    self.start(read);
                }
                Poll::Ready(Some(Err(broken))) => self.start(Err(broken)),
                Poll::Ready(None) => self.requests = None,
            }
        }
    }

    /// Starts one request. An error takes the place of its response; what cannot be read ends the stream.
    fn start(&mut self, read: Read) {
        match read.map(|read| read.and_then(|request| self.run(request))) {
            Ok(Ok(run)) if run.is_decoupled() => self.decoupled.push(run),
            Ok(Ok(run)) => {
                self.polled_on += usize::from(run.is_polled_on());
                self.ordered.push_back(Ordered::Running(Box::new(run)));
            }
            Ok(Err(failure)) => self.ordered.push_back(Ordered::Refused(failure)),
            Err(broken) => {
                self.final_status = Some(broken);
                self.requests = None;
            }
        }
    }

    fn run(&mut self, request: Request) -> Result<Run, Failure> {
        let Request { model, asked_version, mut prepared } = request;
        let id = prepared.request.id.clone();
        match &self.forwarded {
            Ok(forwarded) => {
                forwarding::take_metadata(forwarded.iter().cloned(), &model, &self.metadata, &mut prepared.request);
            }
            Err(error) => return Err(Failure::of_request(id, error.clone())),
        }
        let engine = &self.context.engine;
        let received_at = prepared.request.received_at;
        prepared.request.trace = tracing::begin(engine, &model, &self.metadata, self.waited_since, received_at);
        self.waited_since = tracing::waits(engine);
        let run = if self.context.admission.is_closed() {
            Err(admission::shutting_down())
        } else {
            Run::start(&self.context, &model, asked_version, prepared)
        };
        run.map_err(|error| Failure::of_request(id, error))
    }

    fn poll_ordered(&mut self, context: &mut task::Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        if let Some(Ordered::Running(run)) = self.ordered.front_mut() {
            let answer = ready!(run.poll_only(context));
            self.polled_on -= usize::from(run.is_polled_on());
            self.ordered.pop_front();
            return Poll::Ready(answer);
        }
        match self.ordered.pop_front() {
            Some(Ordered::Refused(failure)) => Poll::Ready(Err(failure)),
            _ => Poll::Pending,
        }
    }

    /// Has requests behind the first go on that do so only while they are polled.
    fn poll_ahead(&mut self, context: &mut task::Context<'_>) {
        if self.polled_on == 0 {
            return;
        }
        for ordered in self.ordered.iter_mut().skip(1) {
            if let Ordered::Running(run) = ordered {
                run.poll_ahead(context);
            }
        }
    }

    fn poll_responses(&mut self, context: &mut task::Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        // An error that needs no model comes before the responses to requests behind it, as from Triton.
        let is_refused = matches!(self.ordered.front(), Some(Ordered::Refused(_)));
        self.decoupled_first = !self.decoupled_first && !is_refused;
        if self.decoupled_first {
            let first = self.decoupled.poll_next(context);
            if first.is_ready() { first } else { self.poll_ordered(context) }
        } else {
            let first = self.poll_ordered(context);
            if first.is_ready() { first } else { self.decoupled.poll_next(context) }
        }
    }

    /// Ends the stream: requests in flight are cancelled, further ones are not read.
    fn finish(&mut self) {
        self.requests = None;
        self.reading = None;
        self.polled_on = 0;
        self.ordered.clear();
        self.decoupled.clear();
    }
}

impl<B: Source + Unpin> Stream for InferStream<B> {
    type Item = Result<ModelStreamInferResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            this.take_requests(context);
            let was_full = this.is_full();
            match this.poll_responses(context) {
                Poll::Ready(Ok(message)) => return Poll::Ready(Some(Ok(message))),
                Poll::Ready(Err(failure)) if this.is_strict => {
                    this.finish();
                    return Poll::Ready(Some(Err(status(failure.error))));
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Some(Ok(failure.into_message()))),
                Poll::Pending => this.poll_ahead(context),
            }
            // A decoupled model may have ended without a response: another request can be read now.
            if was_full && !this.is_full() {
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
