//! Streamed inference: one stream carries requests for any models and their responses.
//!
//! Everything happens when the connection asks for the next message: requests are read while there is room, answers of
//! ordinary models leave in the order of their requests, those of decoupled models as they come. Nothing is spawned; a
//! caller that does not read is not read from; dropping the stream cancels all of it.

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
    error::status,
    gate::{self, Gate, Pass},
    infer::request,
};

/// Metadata of a call whose first error shall be its end.
const STRICT: &str = "triton_grpc_error";

/// What one stream may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests under way; further ones wait in the connection.
    pub(crate) requests: usize,
    /// Bytes of the largest message sent.
    pub(crate) send_bytes: usize,
}

/// What a stream yields.
type Item = Result<ModelStreamInferResponse, Status>;

/// Opens the answering half of a stream.
///
/// Errors: the server is stopping.
pub(crate) fn model_stream_infer(
    engine: Arc<Engine>,
    gate: &Arc<Gate>,
    request: Request<Streaming<ModelInferRequest>>,
    limits: Limits,
) -> Result<Pin<Box<dyn Stream<Item = Item> + Send>>> {
    let is_strict = request.metadata().get(STRICT).is_some_and(|value| value.as_encoded_bytes() == b"true");
    Ok(Box::pin(Exchange {
        engine,
        limits: Limits { requests: limits.requests.max(1), ..limits },
        is_strict,
        requests: Some(request.into_inner()),
        ordered: VecDeque::new(),
        decoupled: SelectAll::new(),
        is_decoupled_turn: false,
        last_words: None,
        closing: Some(Box::pin(gate.closing())),
        gate: gate.clone(),
        _pass: gate.enter()?,
    }))
}

/// One stream.
struct Exchange {
    engine: Arc<Engine>,
    limits: Limits,
    is_strict: bool,
    /// `None` once the caller has said everything.
    requests: Option<Streaming<ModelInferRequest>>,
    /// Requests to models that answer once, in the order they came.
    ordered: VecDeque<Turn>,
    /// Requests to models that answer as they like.
    decoupled: SelectAll<Run>,
    /// Whose answer is looked for first: they alternate, so that neither waits for ever.
    is_decoupled_turn: bool,
    /// How the stream ends when all is answered, if not well.
    last_words: Option<Status>,
    /// `None` once the server stops.
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    gate: Arc<Gate>,
    _pass: Pass,
}

/// A place in the order of answers.
enum Turn {
    /// Found wrong before it ran.
    Refused(Failure),
    /// Under way.
    Running(Box<Run>),
}

impl Exchange {
    fn under_way(&self) -> usize {
        self.ordered.len() + self.decoupled.len()
    }

    /// Reads requests while there is room for them.
    fn take_requests(&mut self, context: &mut Context<'_>) {
        while self.under_way() < self.limits.requests {
            let Some(requests) = &mut self.requests else { return };
            match requests.poll_next_unpin(context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(message))) => self.start(message),
                Poll::Ready(Some(Err(broken))) => {
                    self.last_words = Some(broken);
                    self.requests = None;
                }
                Poll::Ready(None) => self.requests = None,
            }
        }
    }

    /// Starts one request. An error takes the place of its answer.
    fn start(&mut self, message: ModelInferRequest) {
        let id = message.id.clone();
        match self.run(message) {
            Ok(run) if run.is_decoupled() => self.decoupled.push(run),
            Ok(run) => self.ordered.push_back(Turn::Running(Box::new(run))),
            Err(error) => {
                let about = Box::new(ModelInferResponse { id, ..Default::default() });
                self.ordered.push_back(Turn::Refused(Failure { error, about }));
            }
        }
    }

    fn run(&self, message: ModelInferRequest) -> Result<Run> {
        if self.gate.is_closed() {
            return Err(gate::closed());
        }
        let received_at = Instant::now();
        let model = request::model(&self.engine, &message)?;
        let asked_version = message.model_version.clone();
        let prepared = request::prepare(model.interface(), message, received_at)?;
        Run::start(&self.engine, &model, asked_version, prepared, self.limits.send_bytes)
    }

    fn poll_ordered(&mut self, context: &mut Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        if let Some(Turn::Running(run)) = self.ordered.front_mut() {
            let answer = ready!(run.poll_only(context));
            self.ordered.pop_front();
            return Poll::Ready(answer);
        }
        match self.ordered.pop_front() {
            Some(Turn::Refused(failure)) => Poll::Ready(Err(failure)),
            _ => Poll::Pending,
        }
    }

    fn poll_decoupled(&mut self, context: &mut Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        match self.decoupled.poll_next_unpin(context) {
            Poll::Ready(Some(answer)) => Poll::Ready(answer),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        self.is_decoupled_turn = !self.is_decoupled_turn;
        if self.is_decoupled_turn {
            let first = self.poll_decoupled(context);
            if first.is_ready() { first } else { self.poll_ordered(context) }
        } else {
            let first = self.poll_ordered(context);
            if first.is_ready() { first } else { self.poll_decoupled(context) }
        }
    }

    /// Ends the stream: what runs is cancelled, what comes is not read.
    fn finish(&mut self) {
        self.requests = None;
        self.ordered.clear();
        self.decoupled.clear();
    }
}

impl Stream for Exchange {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = &mut *self;
        loop {
            this.take_requests(context);
            let was_full = this.under_way() == this.limits.requests;
            match this.poll_answers(context) {
                Poll::Ready(Ok(message)) => return Poll::Ready(Some(Ok(message))),
                Poll::Ready(Err(failure)) if this.is_strict => {
                    this.finish();
                    return Poll::Ready(Some(Err(status(failure.error))));
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Some(Ok(failure.into_message()))),
                Poll::Pending => {}
            }
            // A decoupled model may have ended without a word: there is room again, and nobody has looked.
            if was_full && this.under_way() < this.limits.requests {
                continue;
            }
            let is_idle = this.under_way() == 0;
            if is_idle && this.requests.is_none() {
                return Poll::Ready(this.last_words.take().map(Err));
            }
            if let Some(closing) = &mut this.closing {
                ready!(closing.as_mut().poll(context));
                this.closing = None;
            }
            // The server stops: what is under way is answered, and an idle caller is not waited for.
            if !is_idle {
                return Poll::Pending;
            }
            this.finish();
            this.last_words = Some(status(gate::closed()));
        }
    }
}
