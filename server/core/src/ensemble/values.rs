//! Tensors of one request on their way from step to step, kept until the last step that reads them has started.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{request::Sequence, tensor::Tensor};

/// One value of an ensemble tensor.
pub(super) struct Value {
    /// `None` if it is known that there is none.
    pub(super) tensor: Option<Tensor>,
    /// Batch of whoever made it; 0 without a batch dimension.
    pub(super) rows: u32,
    /// The sequence that it belongs to, where that is not the request's own.
    pub(super) sequence: Option<Arc<Sequence>>,
    /// A step made it.
    pub(super) is_of_step: bool,
}

pub(super) struct Slot {
    pub(super) value: Option<Value>,
    /// Readers that have not started, and the response.
    pub(super) uses: usize,
    pub(super) is_set: bool,
}

/// Values that belong together.
pub(super) struct Iteration {
    pub(super) origin: usize,
    /// By place among the origin's tensors.
    pub(super) slots: Vec<Slot>,
    /// By place among the origin's steps: tensors that are not there yet.
    pub(super) missing: SmallVec<[u16; 4]>,
    /// Outputs asked for that are not there yet.
    pub(super) missing_outputs: usize,
    /// Runs of this iteration that may start or are under way.
    pub(super) active: usize,
}

/// Iterations by number; numbers are given again.
#[derive(Default)]
pub(super) struct Iterations {
    all: SmallVec<[Option<Iteration>; 1]>,
    free: Vec<usize>,
}

impl Slot {
    /// The value for one of its uses: itself for the last one, shared for those before.
    pub(super) fn take(&mut self) -> Option<Value> {
        self.uses = self.uses.saturating_sub(1);
        if self.uses == 0 { self.value.take() } else { self.value.as_ref().map(Value::share) }
    }
}

impl Value {
    /// The same value again; bytes are shared.
    pub(super) fn share(&self) -> Self {
        Self {
            tensor: self.tensor.clone(),
            rows: self.rows,
            sequence: self.sequence.clone(),
            is_of_step: self.is_of_step,
        }
    }
}

impl Iterations {
    pub(super) fn add(&mut self, iteration: Iteration) -> usize {
        if let Some(number) = self.free.pop() {
            self.all[number] = Some(iteration);
            return number;
        }
        self.all.push(Some(iteration));
        self.all.len() - 1
    }

    pub(super) fn get(&mut self, number: usize) -> Option<&mut Iteration> {
        self.all.get_mut(number)?.as_mut()
    }

    /// Those that are not forgotten.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.all.iter().flatten().count()
    }

    pub(super) fn remove(&mut self, number: usize) {
        if let Some(held) = self.all.get_mut(number)
            && held.take().is_some()
        {
            self.free.push(number);
        }
    }
}
