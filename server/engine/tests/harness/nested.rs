//! Instances that ask models and may be asked meanwhile: the script `count_down MODEL`. Instances of `count_down_blocking MODEL` may not.

use std::{
    sync::{Arc, Weak},
    thread,
    time::Instant,
};

use server_core::{
    backend::{Health, Host},
    batch::{Batch, Pending},
    caller::{Blocking, Caller, Reentry},
    completion::Marks,
    error::{Error, Result},
    request::{InferRequest, VersionChoice},
    response::Outputs,
    tensor::Name,
};

use super::scripted::{Probe, echo, wait_for};

/// Answers a request of zero with itself; for any other, asks a model with one less and answers what that does. Every input
/// has one number, the tensor of an ensemble is called `IN`.
pub(crate) struct CountDown {
    pub(crate) probe: Arc<Probe>,
    pub(crate) host: Weak<dyn Host>,
    pub(crate) health: Health,
    /// The model it is an instance of, and the one that it asks.
    pub(crate) model: Name,
    pub(crate) other: String,
    /// Whether others may run requests on it while it waits.
    pub(crate) may_reenter: bool,
    /// It runs nothing at all while it waits, and waits at the gate before it asks.
    pub(crate) is_blocking: bool,
    pub(crate) this: Weak<CountDown>,
}

impl CountDown {
    pub(crate) fn run(&self, batch: Batch) {
        let execution = Arc::default();
        let replies = batch.pending().iter().map(|pending| self.answer(pending, &execution)).collect();
        let marks = Marks::at(batch.start(), Instant::now());
        batch.complete(replies, &marks);
    }

    fn answer(&self, pending: &Pending, execution: &Arc<Blocking>) -> Result<Outputs> {
        let request = &pending.request;
        let bytes = request.inputs[0].data.as_host().and_then(|bytes| bytes.try_into().ok()).expect("one number");
        let number = f32::from_le_bytes(bytes);
        if number <= 0.0 {
            return Ok(echo(request));
        }
        let mut inputs = request.inputs.clone();
        inputs[0].data = (number - 1.0).to_le_bytes().to_vec().into();
        if self.other.starts_with("ensemble") {
            inputs[0].name = "IN".into();
        }
        let (model, health, parent) = (self.model.clone(), self.health.clone(), request.callers.clone());
        let callers = if self.is_blocking {
            self.probe.pass();
            Caller::blocking(model, 1, health, execution, parent)
        } else {
            let reentry: Weak<dyn Reentry> = if self.may_reenter { self.this.clone() } else { Weak::<Self>::new() };
            Caller::new(model, 1, health, reentry, parent)
        };
        let host = self.host.upgrade().ok_or_else(|| Error::unavailable("the server is gone"))?;
        let mut responses = host.infer(InferRequest {
            model_name: self.other.as_str().into(),
            model_version: VersionChoice::Latest,
            inputs,
            outputs: Default::default(),
            callers: Some(callers),
            ..request.clone()
        })?;
        let mut response = wait_for(&mut *responses).ok_or_else(|| Error::internal("no response"))??;
        response.outputs[0].name = "OUTPUT0".into();
        Ok(Outputs { tensors: response.outputs, parameters: Default::default() })
    }
}

impl Reentry for CountDown {
    fn execute(&self, batch: Batch) {
        self.probe.reentries.lock().push(thread::current().id());
        // a stack of its own for each: chains of them are long
        thread::scope(|scope| drop(scope.spawn(|| self.run(batch))));
    }
}
