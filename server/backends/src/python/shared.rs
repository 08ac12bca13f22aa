//! What all threads that deal with a worker share.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use server_core::{
    backend::{Health, Host, ModelSource},
    error::Result,
    log_limit::LogLimit,
};
use server_shm::SegmentPool;

use super::{
    calls::Calls,
    channel::not_understood,
    decode::{Decoder, KnownOutput, raised},
    marshal::{self, Value},
    memory::{InputLeases, Outputs},
    open_requests::OpenRequests,
    recent_output::RecentOutput,
    settings::Memory,
    wire::event,
};

/// What all threads that deal with a worker share.
pub(super) struct Shared {
    pub(super) model_name: String,
    /// The instance, once it is one's.
    instance: OnceLock<OfInstance>,
    pub(super) leases: InputLeases,
    pub(super) outputs: Outputs,
    /// What it wrote to its standard error.
    pub(super) recent_output: RecentOutput,
    pub(super) calls: Calls,
    pub(super) requests: OpenRequests,
    failures: Mutex<LogLimit>,
    is_gone: AtomicBool,
    /// Why it was killed, if the server did that.
    pub(super) killed_because: OnceLock<String>,
    /// Called when the worker has closed its events channel.
    on_gone: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// What threads know of the instance that a worker is of.
pub(super) struct OfInstance {
    pub(super) name: String,
    pub(super) outputs: Arc<[KnownOutput]>,
    pub(super) health: Health,
    pub(super) is_decoupled: bool,
}

impl Shared {
    /// Of a worker that is about to start.
    pub(super) fn new(
        source: &ModelSource,
        host: Weak<dyn Host>,
        pool: Arc<SegmentPool>,
        memory: &Memory,
        requests: OpenRequests,
    ) -> Self {
        Self {
            model_name: source.name.clone(),
            instance: OnceLock::new(),
            leases: InputLeases::new(pool, memory.total),
            outputs: Outputs::default(),
            recent_output: RecentOutput::default(),
            calls: Calls::new(host, source),
            requests,
            failures: Mutex::default(),
            is_gone: AtomicBool::new(false),
            killed_because: OnceLock::new(),
            on_gone: OnceLock::new(),
        }
    }

    /// What logs and errors call the worker.
    pub(super) fn name(&self) -> &str {
        self.instance.get().map_or(&self.model_name, |instance| &instance.name)
    }

    /// Says what `execute` raised, of so many failures a second.
    ///
    /// Source: Triton Python backend, the line of its stub process.
    pub(super) fn log_failure(&self, text: &str) {
        let taken = self.failures.lock().take(Instant::now());
        let Some(left_out) = taken else { return };
        if left_out > 0 {
            self.say_left_out(left_out);
        }
        tracing::error!("{}", raised(self.name(), text));
    }

    fn say_left_out(&self, left_out: u64) {
        let name = self.name();
        tracing::error!(
            "{left_out} more failures of model '{name}' are not in the log, which takes {} a second",
            LogLimit::MOST
        );
    }

    /// Whether its model may answer a request any number of times.
    pub(super) fn is_decoupled(&self) -> bool {
        self.instance.get().is_some_and(|instance| instance.is_decoupled)
    }

    /// Reads results of requests.
    pub(super) fn decoder(&self) -> Decoder<'_> {
        let known = self.instance.get().map_or(&[] as &[KnownOutput], |instance| &instance.outputs);
        Decoder::new(self.name(), known, &self.leases, &self.outputs)
    }

    /// The instance's word on itself, once it is one.
    pub(super) fn health(&self) -> Option<&Health> {
        self.instance.get().map(|instance| &instance.health)
    }

    /// Which instance it is.
    pub(super) fn set_instance(&self, instance: OfInstance) {
        let _ = self.instance.set(instance); // said once
    }

    /// Has that called when the worker is gone; whoever says so looks by itself whether it is already.
    pub(super) fn on_gone(&self, call: Box<dyn Fn() + Send + Sync>) {
        let _ = self.on_gone.set(call); // said once
    }

    /// Whether the worker has closed its events channel: it has ended, or is about to.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::SeqCst)
    }

    /// The worker has closed its events channel.
    pub(super) fn gone(&self) {
        self.is_gone.store(true, Ordering::SeqCst);
        if let Some(call) = self.on_gone.get() {
            call();
        }
    }

    /// Takes an event. Returns the number of a call channel whose descriptor comes next.
    ///
    /// Errors: it cannot be understood.
    pub(super) fn event(&self, message: &Value<'_>) -> Result<Option<u64>> {
        match message.items() {
            [kind, handles] if kind.number() == Some(event::RELEASED) => self.release(handles),
            [kind, number] if kind.number() == Some(event::OPEN_CALL_CHANNEL) => return Ok(number.number()),
            [kind, number, request] if kind.number() == Some(event::CANCEL_CALL) => {
                self.calls.cancel(number.number().unwrap_or_default(), request.number().unwrap_or_default());
            }
            [kind, level, file, line, text] if kind.number() == Some(event::LOG) => {
                log(level.number(), file.text(), line.number().unwrap_or_default(), text.text());
            }
            [kind, text] if kind.number() == Some(event::BATCH_FAILED) => self.log_failure(text.text()),
            [kind, slot, result, is_last] if kind.number() == Some(event::RESPONSE) => {
                let slot = slot.number().and_then(|slot| u32::try_from(slot).ok());
                let slot = slot.ok_or_else(|| not_understood("no such slot"))?;
                let word = self.decoder().word(result, *is_last == Value::Bool(true));
                self.requests.said(slot, word, Instant::now());
            }
            _ => return Err(not_understood("no such event")),
        }
        Ok(None)
    }

    /// Takes what is appended to a message: inputs that nobody looks at any more.
    ///
    /// Errors: it cannot be understood.
    pub(super) fn release_appended(&self, appended: &[u8]) -> Result<()> {
        if !appended.is_empty() {
            self.release(&marshal::read(appended).map_err(not_understood)?.0);
        }
        Ok(())
    }

    /// Nobody looks at these inputs any more.
    pub(super) fn release(&self, handles: &Value<'_>) {
        self.leases.release(handles.items().iter().filter_map(Value::number));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let left_out = self.failures.get_mut().left_out();
        if left_out > 0 {
            self.say_left_out(left_out);
        }
    }
}

/// A line of the model in the log, with its place in the model's code.
fn log(level: Option<u64>, file: &str, line: u64, text: &str) {
    match level {
        Some(1) => tracing::warn!(log.file = file, log.line = line, "{text}"),
        Some(2) => tracing::error!(log.file = file, log.line = line, "{text}"),
        Some(3) => tracing::debug!(log.file = file, log.line = line, "{text}"),
        _ => tracing::info!(log.file = file, log.line = line, "{text}"),
    }
}
