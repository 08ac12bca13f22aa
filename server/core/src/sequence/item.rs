//! What sequence scheduling must know of requests, and does to them: the checks of Triton's sequence batcher, and the
//! inputs a request gets when its slot lets it run.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    SlotRef,
    controls::Position,
    settings::{ExtraInputs, Settings},
    state::States,
};
use crate::{
    batch::Pending,
    batching::item::Item,
    completion::{Completion, InSlot},
    error::{Error, Result},
    request::{CorrelationId, InferRequest, Sequence},
    tensor::{DataType, Tensor, element_count},
};

/// A request of a sequence.
pub trait SequenceItem: Item + Sized {
    /// Its place in its sequence, as its caller says.
    fn sequence(&self) -> Option<&Sequence>;

    /// The caller's own id of the request.
    fn request_id(&self) -> &str;

    /// It is about to run in that slot: it gets the control inputs of that position and the states of its sequence, and says
    /// itself where in its sequence it stands.
    fn enter(&mut self, slot: SlotRef, at: Position<'_>, states: Option<&Arc<States>>, extra: &ExtraInputs);

    /// The slot it is in, from [`SequenceItem::enter`] on.
    fn slot(&self) -> Option<SlotRef>;

    /// It leaves the slot without having run, or to run again: it is as its caller sent it.
    fn leave(&mut self);

    /// A row beside it that holds no request: shapes as its own, zeros, controls that say so.
    fn empty_row(&self, extra: &ExtraInputs) -> Self;
}

/// Whether a sequence can begin or go on with that request: in the words and the order of Triton.
///
/// Errors: `InvalidArgument` if it has several rows, names no sequence, or names it in another type than the model
/// reads.
pub(super) fn check<T: SequenceItem>(item: &T, settings: &Settings, extra: &ExtraInputs) -> Result<()> {
    let model = &settings.model_name;
    if let (Some((tensor, expect)), Some(sequence)) = (extra.controls.identity(), item.sequence()) {
        let is_text = matches!(sequence.id, CorrelationId::Text(_));
        if is_text != (expect == DataType::Bytes) && !is_none(&sequence.id) {
            let got = if is_text { DataType::Bytes } else { DataType::Uint64 };
            let text = format!(
                "sequence batching control '{tensor}' data-type is '{got}', but model '{model}' expects '{expect}'"
            );
            return Err(Error::invalid_argument(text).with_request_id(item.request_id()));
        }
    }
    if item.rows() > 1 {
        return Err(Error::invalid_argument(format!(
            "inference request to model '{model}' must specify batch-size 1 due to requirements of sequence batcher"
        )));
    }
    if !settings.is_iterative && item.sequence().is_none_or(|sequence| is_none(&sequence.id)) {
        return Err(Error::invalid_argument(format!(
            "inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
        )));
    }
    Ok(())
}

/// Whether it names no sequence.
pub(super) fn is_none(id: &CorrelationId) -> bool {
    match id {
        CorrelationId::Number(number) => *number == 0,
        CorrelationId::Text(text) => text.is_empty(),
    }
}

/// The answer to a request whose sequence is not there.
pub(super) fn not_started(settings: &Settings, id: &CorrelationId) -> Error {
    let id = shown(id);
    Error::invalid_argument(format!(
        "inference request for sequence {id} to model '{}' must specify the START flag on the first request of the \
         sequence",
        settings.model_name
    ))
}

/// The warning about a start within a sequence.
pub(super) fn conflict(settings: &Settings, id: &CorrelationId) -> String {
    format!(
        "sequence {} for model '{}' has a conflict. The previous sequence did not end before this sequence start. \
         Previous sequence will be terminated early.",
        shown(id),
        settings.model_name
    )
}

fn shown(id: &CorrelationId) -> String {
    match id {
        CorrelationId::Number(number) => number.to_string(),
        CorrelationId::Text(text) => text.clone(),
    }
}

impl SequenceItem for Pending {
    fn sequence(&self) -> Option<&Sequence> {
        self.request.sequence.as_ref()
    }

    fn request_id(&self) -> &str {
        &self.request.id
    }

    fn enter(&mut self, slot: SlotRef, at: Position<'_>, states: Option<&Arc<States>>, extra: &ExtraInputs) {
        let own_inputs = self.request.inputs.len();
        self.request.inputs.extend(extra.controls.tensors(Some(at)));
        self.request.inputs.extend(ExtraInputs::state_inputs(states.map(|states| &**states)));
        match &mut self.request.sequence {
            Some(sequence) if !is_none(&sequence.id) => sequence.is_start = at.is_start,
            // The model is iterative: the request is a sequence of its own, of which its backend knows its turns.
            sequence => *sequence = Some(Sequence { id: at.id.clone(), is_start: at.is_start, is_end: at.is_end }),
        }
        self.completion.set_slot(Some(InSlot { slot, own_inputs, states: states.cloned() }));
    }

    fn slot(&self) -> Option<SlotRef> {
        self.completion.slot()
    }

    fn leave(&mut self) {
        if let Some(entered) = self.completion.set_slot(None) {
            self.request.inputs.truncate(entered.own_inputs);
        }
    }

    fn empty_row(&self, extra: &ExtraInputs) -> Self {
        let control_count = extra.controls.tensors(None).count();
        let own = self.completion.own_inputs().unwrap_or(self.request.inputs.len());
        let (own, states) = self.request.inputs.split_at(own.min(self.request.inputs.len()));
        let states = states.iter().skip(control_count);
        let inputs = own.iter().map(zeroed).chain(extra.controls.tensors(None)).chain(states.map(zeroed)).collect();
        let request = InferRequest {
            model_name: self.request.model_name.clone(),
            model_version: self.request.model_version,
            id: String::new(),
            inputs,
            outputs: self.request.outputs.clone(),
            parameters: Vec::new(),
            sequence: None,
            priority: 0,
            timeout: None,
            received_at: self.request.received_at,
            callers: None,
            trace: None,
        };
        Pending { request, completion: Completion::of_empty_row(*self.completion.record()) }
    }
}

/// Zeros for every small tensor: rows without requests are made for most batches that are not full.
static ZEROS: [u8; 4096] = [0; 4096];

/// A tensor of that shape whose elements are zeros, or empty strings.
fn zeroed(tensor: &Tensor) -> Tensor {
    let length = match tensor.data_type {
        DataType::Bytes => {
            let count = element_count(&tensor.shape).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            count.saturating_mul(size_of::<u32>())
        }
        _ => tensor.data.len(),
    };
    let data = match ZEROS.get(..length) {
        Some(zeros) => Bytes::from_static(zeros),
        None => vec![0; length].into(),
    };
    Tensor { data: data.into(), name: tensor.name.clone(), shape: tensor.shape.clone(), data_type: tensor.data_type }
}
