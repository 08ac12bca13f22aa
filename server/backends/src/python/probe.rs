//! Asks a worker whether its model is ready, in the model's own word: `is_ready` of its class. The worker answers on a thread of
//! its own, through a channel of its own, so that it may be asked while it runs a batch.

use std::{
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use server_core::{
    backend::Readiness,
    error::{Error, Result},
};
use tokio::sync::oneshot;

use super::{
    channel::{Broken, Channel},
    exchange::{Failure, failure, read_answer},
    marshal::{Value, Writer},
    shared::Shared,
    wire::kind,
};

/// How long the model may take to answer.
///
/// Source: Triton Python backend, model readiness.
const LIMIT: Duration = Duration::from_secs(5);

/// The channel through which one worker is asked.
pub(super) struct Probe {
    shared: Arc<Shared>,
    asked: Mutex<Asked>,
}

struct Asked {
    channel: Channel,
    /// A question has had no answer in time: it may still come.
    is_late: bool,
}

impl Probe {
    /// Over that channel, whose other end the worker has.
    ///
    /// Errors: the system's.
    pub(super) fn new(mut channel: Channel, shared: &Arc<Shared>) -> Result<Self> {
        let late = Error::internal(format!("is_ready did not answer within {} s", LIMIT.as_secs()));
        channel.set_limit(Some((LIMIT, late)))?;
        Ok(Self { shared: shared.clone(), asked: Mutex::new(Asked { channel, is_late: false }) })
    }

    /// Blocks until the model has answered, [`LIMIT`] at most. What is no answer is a no.
    fn is_ready(&self) -> bool {
        match self.ask() {
            Ok(is_ready) => is_ready,
            Err(Failure::Gone) => true, // no word of the model's: its instance says by itself that it cannot serve
            Err(Failure::Refused(text)) => self.problem(&text),
            Err(Failure::Lost(error)) => self.problem(&error.message),
        }
    }

    fn problem(&self, text: &str) -> bool {
        tracing::warn!(model = self.shared.model_name, "'{}' is not ready: {text}", self.shared.name());
        false
    }

    fn ask(&self) -> Result<bool, Failure> {
        let outputs = &self.shared.outputs;
        let mut asked = self.asked.lock();
        let Asked { channel, is_late } = &mut *asked;
        if *is_late {
            *is_late = channel.try_receive(outputs).map_err(failure)?.is_none(); // what was asked long ago
        }
        if !*is_late {
            let mut message = Writer::default();
            message.tuple(1);
            message.int(kind::READY);
            channel.send(&message.into_bytes(), &[]).map_err(failure)?;
        }
        let answer = channel.receive(outputs);
        *is_late = matches!(answer, Err(Broken::Failed(_)));
        let read = |value: &Value<'_>, _: &[u8], _: &Shared| Ok(*value == Value::Bool(true));
        read_answer(&answer.map_err(failure)?, &self.shared, read)
    }
}

/// The probes of the workers of one model that have one.
#[derive(Default)]
pub(super) struct Probes(Mutex<Vec<Weak<Probe>>>);

impl Probes {
    /// A worker may be asked from here on, for as long as it holds its probe.
    pub(super) fn add(&self, probe: &Arc<Probe>) {
        let mut probes = self.0.lock();
        probes.retain(|probe| probe.strong_count() > 0);
        probes.push(Arc::downgrade(probe));
    }

    /// Whether all workers say that they are ready; `None` if none has a word of its own.
    pub(super) fn readiness(&self) -> Option<Readiness> {
        let probes: Vec<Arc<Probe>> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        if probes.is_empty() {
            return None;
        }
        Some(Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let ask = move || {
                let _ = answer.send(probes.iter().all(|probe| probe.is_ready())); // nobody may wait any more
            };
            match thread::Builder::new().name("is_ready".into()).spawn(ask) {
                Ok(_) => answered.await.unwrap_or(false),
                Err(error) => {
                    tracing::error!(%error, "no thread to ask a Python model whether it is ready");
                    false
                }
            }
        }))
    }
}
