//! The request path, from a front end's request to the queue, and the reply's way back.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use server_core::{
    check,
    error::{Error, Result},
    interface::Interface,
    request::{InferRequest, RequestedOutput},
    responder::Replies,
    response::{InferResponse, Outputs},
    tensor::Tensor,
};
use smallvec::SmallVec;

use crate::{
    model::{LoadedModel, Refused},
    registry::Registry,
    scheduler::Refusal,
};

/// A ready model version as a request found it. It stays what it is, whatever is loaded meanwhile.
#[derive(Clone)]
pub struct ModelHandle(pub(crate) Arc<LoadedModel>);

impl ModelHandle {
    /// What it takes and gives.
    pub fn interface(&self) -> &Arc<Interface> {
        &self.0.interface
    }
}

/// Checks and queues one request for a model that was found: step 1, the registry, lies behind.
///
/// Errors: those found before it was queued; later ones come through the [`Inference`].
pub(crate) fn infer(registry: &Registry, found: &ModelHandle, mut request: InferRequest) -> Result<Inference> {
    let mut model = &found.0;
    // 2  check: against what the model takes
    let batch_size = check::check(&model.interface, &mut request)?;
    // 5  scheduler: queued, and an instance called if it has something to do
    let id = request.id.clone();
    let wanted = request.outputs.clone();
    let successor;
    let replies = match model.submit(request, batch_size) {
        Ok(replies) => replies,
        Err(refused) => match replaced(registry, model, &refused) {
            // A reload took the model away between the look and the queue: whoever replaced it takes the request.
            Some(other) => {
                successor = other;
                model = &successor;
                model.submit(refused.request, batch_size).map_err(|refused| model.reject(&refused))?
            }
            None => return Err(model.reject(&refused)),
        },
    };
    // 7  the reply slot's other end
    Ok(Inference { interface: model.interface.clone(), id, wanted, replies })
}

/// The model that took the place of a closed one, if it takes and gives the same.
fn replaced(registry: &Registry, model: &Arc<LoadedModel>, refused: &Refused) -> Option<Arc<LoadedModel>> {
    let is_closed = matches!(refused.refusal, Refusal::Closed);
    let found = registry.find(&model.interface.model_name, refused.request.model_version).ok().filter(|_| is_closed)?;
    (!Arc::ptr_eq(&found, model) && found.interface.is_like(&model.interface)).then_some(found)
}

/// A running request: poll it for its responses. Dropping it cancels the request.
pub struct Inference {
    interface: Arc<Interface>,
    id: String,
    wanted: SmallVec<[RequestedOutput; 2]>,
    replies: Replies,
}

impl Inference {
    /// What the model that runs it takes and gives.
    pub fn interface(&self) -> &Arc<Interface> {
        &self.interface
    }

    /// The next response; `None` after the last one. Output order is the caller's, names nobody asked for are gone.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<InferResponse>>> {
        let reply = ready!(self.replies.poll_next(context));
        Poll::Ready(reply.map(|reply| reply.map(|outputs| self.respond(outputs))))
    }

    /// The only response.
    ///
    /// Errors: the request's own, or `Internal` if there was none or more than one.
    pub async fn response(mut self) -> Result<InferResponse> {
        let first = poll_fn(|context| self.poll_next(context)).await;
        let response = first.ok_or_else(|| Error::internal("expected a single response, got 0"))??;
        if self.interface.is_decoupled {
            let mut count = 1;
            while poll_fn(|context| self.poll_next(context)).await.is_some() {
                count += 1;
            }
            if count > 1 {
                return Err(Error::internal(format!("expected a single response, got {count}")));
            }
        }
        Ok(response)
    }

    fn respond(&self, outputs: Outputs) -> InferResponse {
        InferResponse {
            model_name: self.interface.model_name.clone(),
            model_version: self.interface.version,
            id: self.id.clone(),
            parameters: outputs.parameters,
            outputs: self.pick(outputs.tensors),
        }
    }

    /// The tensors asked for in the order asked for; all in the order of the configuration otherwise.
    fn pick(&self, mut tensors: SmallVec<[Tensor; 2]>) -> SmallVec<[Tensor; 2]> {
        if self.wanted.is_empty() {
            if !tensors.iter().map(|tensor| &*tensor.name).eq(self.interface.outputs.iter().map(|spec| &*spec.name)) {
                let place = |tensor: &Tensor| self.interface.outputs.iter().position(|spec| spec.name == tensor.name);
                tensors.retain(|tensor| place(tensor).is_some());
                tensors.sort_by_key(place);
            }
            return tensors;
        }
        let mut picked = SmallVec::with_capacity(self.wanted.len());
        for wanted in &self.wanted {
            if let Some(index) = tensors.iter().position(|tensor| tensor.name == wanted.name) {
                picked.push(tensors.swap_remove(index));
            }
        }
        picked
    }
}
