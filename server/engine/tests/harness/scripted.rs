//! A backend whose instances do what the parameter `script` of their model says, and tell the test what happened to
//! them. Inputs and outputs are those of the identity models of the harness.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use server_core::{
    backend::{Backend, Backends, Health, Host, Instance, Model, ModelSource, Placement, Readiness, Responses, Rest},
    batch::{Batch, Pending},
    completion::{Marks, ResponseMarks},
    config::ModelConfig,
    error::{Error, Result},
    request::{InferRequest, VersionChoice},
    response::Outputs,
    tensor::Name,
};

use super::nested::CountDown;

/// What a test sees of the instances, and how it steers them.
#[derive(Default)]
pub(crate) struct Probe {
    /// Models opened so far.
    pub(crate) opened: AtomicUsize,
    /// Instances that are there.
    pub(crate) instances: AtomicUsize,
    /// Requests that a thread of the backend still holds.
    pub(crate) held: AtomicUsize,
    /// An instance went while a request was held.
    pub(crate) went_too_early: AtomicBool,
    /// Threads that executed, in order.
    pub(crate) threads: Mutex<Vec<ThreadId>>,
    /// Threads that made instances.
    makers: Mutex<Vec<ThreadId>>,
    /// Requests that `echo_request` has executed, in order.
    pub(crate) requests: Mutex<Vec<InferRequest>>,
    /// What models of the script `says_ready` say of themselves.
    pub(crate) says_ready: AtomicBool,
    /// Threads that ran a request on an instance that waited for the answer of its own, in order.
    pub(crate) reentries: Mutex<Vec<ThreadId>>,
    /// Health of the instances, by their making.
    pub(crate) health: Mutex<Vec<Health>>,
    /// Executions of the script `crowd` at this moment, and the most there have been.
    running: AtomicUsize,
    pub(crate) most_running: AtomicUsize,
    /// How many batches the script `several` ran in one go, in order.
    pub(crate) at_once: Mutex<Vec<usize>>,
    /// Who stands at the gate.
    pub(crate) waiting: AtomicUsize,
    gate: Gate,
}

/// Holds whoever passes while it is closed; it opens by itself after a minute, so that no test hangs.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Probe {
    /// Requests that are held, and executions that wait, stay where they are.
    pub(crate) fn close_gate(&self) {
        *self.gate.is_closed.lock() = true;
    }

    pub(crate) fn open_gate(&self) {
        *self.gate.is_closed.lock() = false;
        self.gate.opened.notify_all();
    }

    /// Executions on threads that made no instance.
    pub(crate) fn inline_runs(&self) -> usize {
        let makers = self.makers.lock();
        self.threads.lock().iter().filter(|thread| !makers.contains(thread)).count()
    }

    fn crowd(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        for _ in 0..20 {
            thread::yield_now();
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn pass(&self) {
        let mut is_closed = self.gate.is_closed.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.gate.opened.wait_while_for(&mut is_closed, |is_closed| *is_closed, Duration::from_secs(60));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The backend `scripted`, beside those that are built in.
pub(crate) struct Scripted {
    pub(crate) probe: Arc<Probe>,
}

impl Backends for Scripted {
    fn find(&self, name: &str, runtime: &str, source: &ModelSource) -> Result<Arc<dyn Backend>> {
        match name {
            "scripted" => Ok(Arc::new(Scripted { probe: self.probe.clone() })),
            _ => server_backends::all(&BTreeMap::new()).find(name, runtime, source),
        }
    }
}

impl Backend for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn open(
        &self,
        source: &ModelSource,
        _config: &mut ModelConfig,
        _may_complete: bool,
        host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        if source.version_dir.join("broken").exists() {
            return Err(Error::unavailable(format!("version {} is broken", source.version)));
        }
        if source.version_dir.join("slow").exists() {
            self.probe.pass();
        }
        self.probe.opened.fetch_add(1, Ordering::SeqCst);
        let is_gated = source.version_dir.join("gated").exists();
        Ok(Box::new(ScriptedModel {
            probe: self.probe.clone(),
            host: host.clone(),
            name: source.name.as_str().into(),
            script: String::new(),
            is_gated,
        }))
    }
}

struct ScriptedModel {
    probe: Arc<Probe>,
    host: Weak<dyn Host>,
    name: Name,
    script: String,
    /// This version waits at the gate, whatever the script of the model says.
    is_gated: bool,
}

impl Model for ScriptedModel {
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        self.script = config.parameters.get("script").map(|value| value.string_value.clone()).unwrap_or_default();
        if self.is_gated {
            self.script = "gated".into();
        }
        Ok(())
    }

    fn readiness(&self) -> Option<Readiness> {
        let probe = (self.script == "says_ready").then(|| self.probe.clone())?;
        Some(Box::pin(async move {
            tokio::task::yield_now().await;
            probe.says_ready.load(Ordering::SeqCst)
        }))
    }

    fn instance(&self, placement: &Placement, health: &Health) -> Result<Box<dyn Instance>> {
        if self.script == "made waits" {
            self.probe.pass();
        } else {
            self.control_as_told("made")?;
        }
        self.probe.instances.fetch_add(1, Ordering::SeqCst);
        self.probe.health.lock().push(health.clone());
        self.probe.makers.lock().push(thread::current().id());
        let nested =
            self.script.split_once(' ').filter(|(word, _)| word.starts_with("count_down")).map(|(word, other)| {
                Arc::new_cyclic(|this| CountDown {
                    probe: self.probe.clone(),
                    host: self.host.clone(),
                    health: health.clone(),
                    model: self.name.clone(),
                    other: other.to_owned(),
                    may_reenter: word != "count_down_alone",
                    is_blocking: word == "count_down_blocking",
                    this: this.clone(),
                })
            });
        Ok(Box::new(ScriptedInstance {
            nested,
            name: self.name.clone(),
            probe: self.probe.clone(),
            host: self.host.clone(),
            script: self.script.clone(),
            is_first: placement.instance_name.ends_with("_0"),
        }))
    }
}

impl ScriptedModel {
    /// Has another model loaded or unloaded, if the script says so for that moment: `made loads MODEL`.
    fn control_as_told(&self, moment: &str) -> Result<()> {
        control_as_told(&self.host, &self.name, &self.script, moment)
    }
}

fn control_as_told(host: &Weak<dyn Host>, own: &str, script: &str, moment: &str) -> Result<()> {
    let Some(rest) = script.strip_prefix(moment) else { return Ok(()) };
    let host = host.upgrade().ok_or_else(|| Error::unavailable("the server is gone"))?;
    match rest.trim_start().split_once(' ') {
        Some(("loads", model)) => host.load_model(own, model, None, Vec::new()),
        Some(("unloads", model)) => host.unload_model(own, model, false),
        _ => panic!("{script}?"),
    }
}

struct ScriptedInstance {
    nested: Option<Arc<CountDown>>,
    name: Name,
    probe: Arc<Probe>,
    host: Weak<dyn Host>,
    script: String,
    is_first: bool,
}

impl Drop for ScriptedInstance {
    fn drop(&mut self) {
        self.probe.instances.fetch_sub(1, Ordering::SeqCst);
        if self.probe.held.load(Ordering::SeqCst) > 0 {
            self.probe.went_too_early.store(true, Ordering::SeqCst);
        }
    }
}

impl Instance for ScriptedInstance {
    fn execute(&mut self, batch: Batch) {
        self.probe.threads.lock().push(thread::current().id());
        if let Some(nested) = &self.nested {
            return nested.run(batch);
        }
        if let Err(error) = control_as_told(&self.host, &self.name, &self.script, "asked") {
            return batch.fail(&error, Instant::now());
        }
        let (word, rest) = self.script.split_once(' ').unwrap_or((&self.script, ""));
        match word {
            "panic" => panic!("as the script says"),
            "gated" | "several" => self.probe.pass(),
            "gated_first" if self.is_first => self.probe.pass(),
            "echo_request" => {
                let requests = batch.pending().iter().map(|pending| pending.request.clone());
                self.probe.requests.lock().extend(requests);
            }
            "late" => return self.answer_late(batch),
            "many_gated_first" | "many_unreported_gated_first" => {
                if self.is_first {
                    self.probe.pass();
                }
                return answer_often(batch, rest.parse().expect("a number"), word.contains("unreported"));
            }
            "many" => return answer_often(batch, rest.parse().expect("a number"), false),
            "crowd" => self.probe.crowd(),
            "rests" => thread::sleep(Duration::from_millis(rest.parse().expect("a number"))),
            "forget" => return drop(batch.into_pending()),
            "turns" => return take_turns(batch, rest.parse().expect("a number")),
            "ask" => return self.ask_another(batch, rest),
            _ => {}
        }
        let replies = batch.pending().iter().map(|pending| Ok(echo(&pending.request))).collect();
        let marks = Marks::at(batch.start(), Instant::now());
        batch.complete(replies, &marks);
    }

    fn execute_with_more(&mut self, batch: Batch, more: &mut dyn FnMut() -> Option<Batch>) {
        self.execute(batch);
        let mut count = 1;
        while self.script == "several"
            && count < 4
            && let Some(batch) = more()
        {
            self.execute(batch);
            count += 1;
        }
        self.probe.at_once.lock().push(count);
    }

    fn runs_on_any_thread(&self) -> bool {
        self.script == "any_thread" || self.script == "slow_at_times"
    }

    fn execute_inline(&mut self, batch: Batch) -> Option<Rest> {
        if self.script != "slow_at_times" {
            self.execute(batch);
            return None;
        }
        self.probe.threads.lock().push(thread::current().id());
        let probe = self.probe.clone();
        Some(Box::new(move || {
            probe.pass();
            let replies = batch.pending().iter().map(|pending| Ok(echo(&pending.request))).collect();
            let marks = Marks::at(batch.start(), Instant::now());
            batch.complete(replies, &marks);
        }))
    }
}

impl ScriptedInstance {
    /// Answers the first request at once, the others from another thread once the gate is open.
    fn answer_late(&self, batch: Batch) {
        let (mut pending, execution) = batch.into_pending();
        let marks = Marks::at(execution.start(), Instant::now());
        let later = pending.split_off(usize::from(pending.len() > 1));
        execution.ended(&marks);
        for pending in pending {
            let outputs = echo(&pending.request);
            pending.respond(outputs, &marks);
        }
        self.probe.held.fetch_add(later.len(), Ordering::SeqCst);
        let probe = self.probe.clone();
        thread::spawn(move || {
            probe.pass();
            for pending in later {
                let outputs = echo(&pending.request);
                probe.held.fetch_sub(1, Ordering::SeqCst);
                pending.respond(outputs, &marks);
            }
        });
    }

    /// Has another model answer.
    fn ask_another(&self, batch: Batch, model: &str) {
        let ask = |pending: &Pending| {
            let host = self.host.upgrade().ok_or_else(|| Error::unavailable("the server is gone"))?;
            let mut responses = host.infer(InferRequest {
                model_name: model.into(),
                model_version: VersionChoice::Latest,
                ..pending.request.clone()
            })?;
            let response = wait_for(&mut *responses).ok_or_else(|| Error::internal("no response"))??;
            Ok(Outputs { tensors: response.outputs, parameters: Default::default() })
        };
        let replies = batch.pending().iter().map(ask).collect();
        let marks = Marks::at(batch.start(), Instant::now());
        batch.complete(replies, &marks);
    }
}

pub(super) fn echo(request: &InferRequest) -> Outputs {
    let mut tensors = request.inputs.clone();
    for tensor in &mut tensors {
        tensor.name = tensor.name.replace("INPUT", "OUTPUT").into();
    }
    Outputs { tensors, parameters: Default::default() }
}

/// Unreported, the ends of the requests are counted apart from the answers.
fn answer_often(batch: Batch, times: usize, is_unreported: bool) {
    let (pending, execution) = batch.into_pending();
    let marks = Marks::at(execution.start(), Instant::now());
    execution.ended(&marks);
    for mut pending in pending {
        let one = ResponseMarks { start: marks.start, output_start: marks.end, end: marks.end };
        for _ in 0..times {
            let outputs = Ok(echo(&pending.request));
            let sent = if is_unreported {
                pending.completion.send_unreported(outputs)
            } else {
                pending.completion.send(outputs, &one, Duration::from_secs(10))
            };
            if sent.is_err() {
                break;
            }
        }
        if is_unreported {
            pending.completion.reporter().ended(Ok(()), &marks);
            pending.completion.finish_unreported(None, &marks);
        } else {
            pending.finish(None, &marks);
        }
    }
}

/// Puts each request back so many times, counted in its parameters, and then answers it.
fn take_turns(batch: Batch, turns: usize) {
    let (pending, execution) = batch.into_pending();
    let marks = Marks::at(execution.start(), Instant::now());
    for mut pending in pending {
        if pending.request.parameters.len() < turns {
            let turn = server_core::request::Parameter::Bool(true);
            pending.request.parameters.push(("turn".into(), turn));
            pending.reschedule(Some(&marks));
        } else {
            let outputs = echo(&pending.request);
            pending.respond(outputs, &marks);
        }
    }
    execution.ended(&marks);
}

pub(super) fn wait_for(responses: &mut dyn Responses) -> Option<Result<server_core::response::InferResponse>> {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match responses.poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(response) => return response,
            Poll::Pending => thread::park_timeout(Duration::from_secs(1)),
        }
    }
}
