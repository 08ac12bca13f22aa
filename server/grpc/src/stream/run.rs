//! One request of a stream in flight, and the messages its responses become.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use server_core::{
    error::{Error, Result},
    interface::Interface,
    request::Parameter,
    response::InferResponse,
    trace::Trace,
};
use server_engine::{BlockingPool, Inference, ModelHandle};
use server_proto::inference::{ModelInferResponse, ModelStreamInferResponse};

use super::context::Context as StreamContext;
use crate::{
    infer::{answer, outputs::Classes, request::Prepared},
    tracing,
};

/// Parameter of every response: whether it is the request's last.
const FINAL: &str = "triton_final_response";

/// A response that is an error, with what identifies its request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) about: Box<ModelInferResponse>,
}

impl Failure {
    /// An error before anything but the id of the request was known.
    pub(super) fn of_request(id: String, error: Error) -> Self {
        Self { error, about: Box::new(ModelInferResponse { id, ..Default::default() }) }
    }

    /// The form that leaves the stream open.
    pub(super) fn into_message(self) -> ModelStreamInferResponse {
        let Self { error, about } = self;
        ModelStreamInferResponse { error_message: error.message.into_owned(), infer_response: Some(*about) }
    }
}

/// A request in flight. Dropping it cancels it.
pub(super) struct Run {
    inference: Inference,
    interface: Arc<Interface>,
    pool: BlockingPool,
    classes: Classes,
    id: String,
    /// The version as the client has written it: errors carry it.
    asked_version: String,
    wants_empty_final: bool,
    max_send_bytes: usize,
    /// A response that is classified on the blocking pool.
    classifying: Option<Pin<Box<dyn Future<Output = Result<InferResponse>> + Send>>>,
    /// What is recorded of it, until its last message is sent.
    trace: Option<Arc<Trace>>,
    has_answered: bool,
    is_over: bool,
}

impl Run {
    /// Starts a request.
    pub(super) fn start(
        context: &StreamContext,
        model: &ModelHandle,
        asked_version: String,
        prepared: Prepared,
    ) -> Result<Self> {
        let Prepared { request, classes, wants_empty_final } = prepared;
        let id = request.id.clone();
        let trace = request.trace.clone();
        let inference = context.engine.infer(model, request)?;
        if context.limits.unread < usize::MAX && inference.interface().is_decoupled {
            inference.limit_unread(context.limits.unread);
        }
        Ok(Self {
            interface: inference.interface().clone(),
            inference,
            pool: context.pool.clone(),
            classes,
            id,
            asked_version,
            wants_empty_final,
            max_send_bytes: context.limits.send_bytes,
            classifying: None,
            trace,
            has_answered: false,
            is_over: false,
        })
    }

    /// Whether its model is decoupled.
    pub(super) fn is_decoupled(&self) -> bool {
        self.interface.is_decoupled
    }

    /// Whether it goes on only while it is polled.
    pub(super) fn is_polled_on(&self) -> bool {
        self.inference.is_polled_on()
    }

    /// Goes on while others are answered first.
    pub(super) fn poll_ahead(&mut self, context: &mut Context<'_>) {
        self.inference.poll_ahead(context);
    }

    /// The only response of a model that responds once.
    pub(super) fn poll_only(&mut self, context: &mut Context<'_>) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        if self.classifying.is_none() {
            let reply = ready!(self.inference.poll_next(context));
            let reply = reply.unwrap_or_else(|| Err(Error::internal("expected a single response, got 0")));
            if let Some(response) = self.respond(reply, true) {
                return Poll::Ready(response);
            }
        }
        self.poll_classified(context, true)
    }

    /// The message of a response; `None` if it is to be classified first.
    fn respond(
        &mut self,
        reply: Result<InferResponse>,
        is_final: bool,
    ) -> Option<Result<ModelStreamInferResponse, Failure>> {
        if !std::mem::replace(&mut self.has_answered, true) {
            tracing::answered(self.trace.as_ref());
        }
        let reply = match reply {
            Ok(mut response) if self.classes.is_long(&response) => {
                let (pool, interface) = (self.pool.clone(), self.interface.clone());
                let classes = self.classes.clone();
                self.classifying = Some(Box::pin(async move {
                    pool.run(move || classes.apply(&interface, &mut response).map(|()| response)).await?
                }));
                return None;
            }
            Ok(mut response) => self.classes.apply(&self.interface, &mut response).map(|()| response),
            error => error,
        };
        Some(self.message(reply, is_final))
    }

    fn poll_classified(
        &mut self,
        context: &mut Context<'_>,
        is_final: bool,
    ) -> Poll<Result<ModelStreamInferResponse, Failure>> {
        let Some(classifying) = &mut self.classifying else { return Poll::Pending };
        let reply = ready!(classifying.as_mut().poll(context));
        self.classifying = None;
        Poll::Ready(self.message(reply, is_final))
    }

    fn message(&self, reply: Result<InferResponse>, is_final: bool) -> Result<ModelStreamInferResponse, Failure> {
        let _sending = tracing::sends(self.trace.as_ref());
        match reply.and_then(|response| answer::message(response, self.max_send_bytes)) {
            Ok(message) => Ok(message_of(marked(message, is_final))),
            Err(error) => Err(Failure { error, about: Box::new(marked(self.response_head(), is_final)) }),
        }
    }

    /// A response without data that identifies its request.
    fn response_head(&self) -> ModelInferResponse {
        ModelInferResponse {
            model_name: self.interface.model_name.as_ref().to_owned(),
            model_version: self.asked_version.clone(),
            id: self.id.clone(),
            ..Default::default()
        }
    }
}

fn marked(mut message: ModelInferResponse, is_final: bool) -> ModelInferResponse {
    message.parameters.insert(FINAL.to_owned(), answer::parameter(Parameter::Bool(is_final)));
    message
}

fn message_of(message: ModelInferResponse) -> ModelStreamInferResponse {
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(message) }
}

/// The responses of a decoupled model, followed by an empty final one if the client asked for that.
impl Stream for Run {
    type Item = Result<ModelStreamInferResponse, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.classifying.is_some() {
            return this.poll_classified(context, this.is_over).map(Some);
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        let Some(reply) = ready!(this.inference.poll_next(context)) else {
            this.is_over = true;
            if this.wants_empty_final && !this.has_answered {
                tracing::answered(this.trace.as_ref());
            }
            let _sending = this.wants_empty_final.then(|| tracing::sends(this.trace.as_ref()));
            let empty = this.wants_empty_final.then(|| Ok(message_of(marked(this.response_head(), true))));
            return Poll::Ready(empty);
        };
        this.is_over = this.inference.is_finished();
        match this.respond(reply, this.is_over) {
            Some(response) => Poll::Ready(Some(response)),
            None => this.poll_classified(context, this.is_over).map(Some),
        }
    }
}
