//! Which requests are traced: the settings of the server and of models, and the counts behind them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, RwLock};

use super::{
    Record, Trace,
    context::Remote,
    ids::Ids,
    settings::{Text, Update, Values},
    stream::{Finished, Mode, Stream, TraceSink},
};
use crate::{
    custom_counter::CustomCounter,
    error::{Error, Result},
};

/// Decides which requests are traced. One for the server; shared by front ends.
pub struct Tracer {
    mode: Mode,
    /// What the settings show besides, and nobody changes: names and values.
    fixed: Vec<(Text, String)>,
    defaults: Values,
    ids: Arc<Ids>,
    sink: Arc<dyn TraceSink>,
    /// Some setting asks for traces.
    is_on: AtomicBool,
    next_stream: Mutex<u64>,
    state: RwLock<State>,
}

struct State {
    global: Arc<Stream>,
    /// A change has set the server's count; it is the first one otherwise, after every change anew.
    has_own_count: bool,
    models: HashMap<String, ModelSetting>,
}

struct ModelSetting {
    given: Given,
    stream: Arc<Stream>,
}

/// The fields that a model has values of its own for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Given {
    levels: Option<(bool, bool)>,
    rate: Option<u32>,
    count: Option<i32>,
    log_frequency: Option<u32>,
}

impl Given {
    fn change(&mut self, update: &Update) {
        let Update { levels, rate, count, log_frequency } = *update;
        self.levels = levels.unwrap_or(self.levels);
        self.rate = rate.unwrap_or(self.rate);
        self.count = count.unwrap_or(self.count);
        self.log_frequency = log_frequency.unwrap_or(self.log_frequency);
    }

    fn over(self, global: Values) -> Values {
        let (has_times, has_tensors) = self.levels.unwrap_or((global.has_times, global.has_tensors));
        Values {
            has_times,
            has_tensors,
            rate: self.rate.unwrap_or(global.rate),
            count: self.count.unwrap_or(global.count),
            log_frequency: self.log_frequency.unwrap_or(global.log_frequency),
        }
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Forgets what was recorded.
struct Nowhere;

impl TraceSink for Nowhere {
    fn finished(&self, _trace: Finished) {}

    fn retired(&self, _stream: u64) {}
}

/// A tracer whose traces go nowhere.
impl Default for Tracer {
    fn default() -> Self {
        Self::new(Mode::Triton, Values::default(), Vec::new(), Arc::new(Ids::new([0; 32])), Arc::new(Nowhere))
    }
}

impl Tracer {
    /// A tracer with those values until they are changed. `fixed` is shown with the settings, behind the mode.
    pub fn new(
        mode: Mode,
        defaults: Values,
        fixed: Vec<(Text, String)>,
        ids: Arc<Ids>,
        sink: Arc<dyn TraceSink>,
    ) -> Self {
        let global = Stream::new(0, mode, defaults, &sink);
        Self {
            mode,
            fixed,
            defaults,
            ids,
            sink,
            is_on: AtomicBool::new(defaults.is_on()),
            next_stream: Mutex::new(1),
            state: RwLock::new(State { global, has_own_count: false, models: HashMap::new() }),
        }
    }

    /// Whether any request may be traced: the one look that a request pays for while nothing is.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// The trace of a request to that model, if it is to be traced. `remote` looks for the span of its
    /// caller, and is asked only where that counts.
    pub fn sample(&self, model: &str, remote: impl FnOnce() -> Option<Remote>) -> Option<Arc<Trace>> {
        if !self.is_on() {
            return None;
        }
        let stream = self.stream_of(model);
        let remote = match self.mode {
            Mode::Triton => None,
            Mode::OpenTelemetry => remote(),
        };
        stream.samples(remote.is_some()).then(|| self.begin(stream, remote))
    }

    fn begin(&self, stream: Arc<Stream>, remote: Option<Remote>) -> Arc<Trace> {
        let ids = &self.ids;
        let (id, span) = (ids.next_number(), ids.span());
        let record = Record {
            id,
            trace_id: remote.as_ref().map_or_else(|| ids.trace(), |remote| remote.trace_id),
            span,
            remote,
            has_times: stream.values.has_times,
            has_tensors: stream.values.has_tensors && self.mode == Mode::Triton,
            kept: Mutex::default(),
            ids: ids.clone(),
            stream,
            sink: self.sink.clone(),
        };
        Arc::new(Trace { id, parent_id: 0, span: ids.span(), parent_span: span, record: Arc::new(record) })
    }

    fn stream_of(&self, model: &str) -> Arc<Stream> {
        let state = self.state.read();
        state.models.get(model).map_or(&state.global, |setting| &setting.stream).clone()
    }

    /// What became of traces, for the metrics page.
    pub fn metrics(&self) -> Vec<CustomCounter> {
        self.sink.metrics()
    }

    /// The settings of the server, or of a model: names and values, in Triton's order.
    pub fn settings(&self, model: Option<&str>) -> Vec<(Text, Vec<Text>)> {
        let values = match model {
            None => self.state.read().global.current(),
            Some(model) => self.stream_of(model).current(),
        };
        let mut shown: Vec<(Text, Vec<Text>)> = vec![
            ("trace_level".into(), values.levels()),
            ("trace_rate".into(), vec![values.rate.to_string().into()]),
            ("trace_count".into(), vec![values.count.to_string().into()]),
        ];
        if self.mode == Mode::Triton {
            shown.push(("log_frequency".into(), vec![values.log_frequency.to_string().into()]));
        }
        shown.extend(self.fixed.iter().map(|(name, value)| (name.clone(), vec![value.clone().into()])));
        shown
    }

    /// Changes the settings of the server, or of a model. Those of models follow the server's where they have no values of
    /// their own.
    ///
    /// Errors: `InvalidArgument` for one that would trace and cannot. Nothing is changed then.
    pub fn update(&self, model: Option<&str>, update: &Update) -> Result<()> {
        let mut state = self.state.write();
        match model {
            None => {
                let has_own_count = update.count.map_or(state.has_own_count, |count| count.is_some());
                let mut values = update.apply(state.global.current(), self.defaults);
                if !has_own_count {
                    values.count = self.defaults.count;
                }
                self.check(values)?;
                for setting in state.models.values() {
                    let own = setting.given.over(values);
                    if own != setting.stream.values {
                        self.check(own)?;
                    }
                }
                state.has_own_count = has_own_count;
                state.global = self.stream(values);
                for setting in state.models.values_mut() {
                    let values = setting.given.over(values);
                    if values != setting.stream.values {
                        setting.stream = self.stream(values);
                    }
                }
            }
            Some(model) => {
                let mut given = state.models.get(model).map(|setting| setting.given).unwrap_or_default();
                given.change(update);
                if given == Given::default() {
                    state.models.remove(model);
                } else {
                    let mut values = given.over(state.global.current());
                    if let Some(before) = state.models.get(model).filter(|_| update.count.is_none()) {
                        values.count = before.stream.current().count;
                    }
                    self.check(values)?;
                    let setting = ModelSetting { given, stream: self.stream(values) };
                    state.models.insert(model.to_owned(), setting);
                }
            }
        }
        let is_on = state.global.values.is_on() || state.models.values().any(|setting| setting.stream.values.is_on());
        self.is_on.store(is_on, Relaxed);
        Ok(())
    }

    /// Errors: the values ask for traces, and there will be none.
    fn check(&self, values: Values) -> Result<()> {
        let reason = match values {
            _ if !values.is_on() => return Ok(()),
            Values { rate: 0, .. } => "sample rate must be non-zero",
            _ if self.lacks_file() => "trace file name is not given",
            Values { count: 0, .. } => "", // Triton has no words for it
            _ => return Ok(()),
        };
        Err(Error::invalid_argument(format!("Attempting to set invalid trace setting :{reason}")))
    }

    /// Whether traces go into files and no file was named.
    fn lacks_file(&self) -> bool {
        let file = self.fixed.iter().find(|(name, _)| name == "trace_file");
        self.mode == Mode::Triton && file.is_some_and(|(_, file)| file.is_empty())
    }

    fn stream(&self, values: Values) -> Arc<Stream> {
        let mut next = self.next_stream.lock();
        let number = *next;
        *next += 1;
        Stream::new(number, self.mode, values, &self.sink)
    }
}
