//! `TRITONBACKEND_Model`: one version of a model, as its backend library sees it.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, MemoryUse, ModelSource},
    config::{self, Machine, ModelConfig, SchedulingChoice, from_json, to_json},
    error::{Error, Result},
    tensor::Name,
};

use super::object::Backend;
use crate::{
    abi::{
        Array, Handle, Out, Text,
        export::exports,
        handle::objects,
        numbers::{ArtifactType, MemoryType},
        objects::{BufferAttributes, Message, text},
    },
    server::Server,
};

objects! { 6: Model => "TRITONBACKEND_Model" }

/// The one version of the form of configurations.
const CONFIG_VERSION: u32 = 1;

/// One version of a model.
pub(crate) struct Model {
    /// Its name.
    pub(crate) name: CString,
    /// Its version.
    pub(crate) version: u64,
    folder: CString,
    config: Mutex<Config>,
    /// What requests read, without a lock: there once the model is served.
    served: OnceLock<Served>,
    may_complete: bool,
    backend: Handle<Backend>,
    server: Handle<Server>,
    state: AtomicPtr<c_void>,
    memory: Mutex<Vec<MemoryUse>>,
    /// Names that are not in the configuration as it is served.
    names: Mutex<HashMap<Box<str>, CString>>,
}

/// The configuration as it is served, and the names of the tensors in it, sorted.
struct Served {
    config: Arc<ModelConfig>,
    names: Box<[TensorName]>,
}

/// The name of a tensor, for both sides.
struct TensorName {
    name: Name,
    text: CString,
}

impl Served {
    fn of(config: Arc<ModelConfig>) -> Self {
        let names = config.input.iter().map(|input| &input.name).chain(config.output.iter().map(|output| &output.name));
        let mut names: Vec<_> = names.map(|name| TensorName { name: name.as_str().into(), text: text(name) }).collect();
        names.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        names.dedup_by(|one, other| one.name == other.name);
        Self { config, names: names.into() }
    }

    fn find(&self, name: &str) -> Option<&TensorName> {
        let at = self.names.binary_search_by(|known| (*known.name).cmp(name)).ok()?;
        self.names.get(at)
    }
}

/// Its configuration at the moment.
struct Config {
    current: Arc<ModelConfig>,
    json: Arc<str>,
    /// The library may complete it.
    is_open: bool,
}

impl Config {
    fn of(config: ModelConfig, is_open: bool) -> Self {
        let json = to_json(&config).to_string().into();
        Self { current: Arc::new(config), json, is_open }
    }
}

impl Model {
    /// The version that lies there, before its library has seen it.
    pub(crate) fn new(
        source: &ModelSource,
        config: ModelConfig,
        may_complete: bool,
        backend: Handle<Backend>,
        server: Handle<Server>,
    ) -> Self {
        Self {
            name: text(&source.name),
            version: source.version,
            folder: text(&source.model_dir.to_string_lossy()),
            config: Mutex::new(Config::of(config, true)),
            served: OnceLock::new(),
            may_complete,
            backend,
            server,
            state: AtomicPtr::new(ptr::null_mut()),
            memory: Mutex::default(),
            names: Mutex::default(),
        }
    }

    /// The configuration at the moment.
    pub(crate) fn config(&self) -> Arc<ModelConfig> {
        self.config.lock().current.clone()
    }

    /// Reads the configuration at the moment; without a lock where the model is served.
    pub(crate) fn with_config<T>(&self, read: impl FnOnce(&ModelConfig) -> T) -> T {
        match self.served.get() {
            Some(served) => read(&served.config),
            None => read(&self.config()),
        }
    }

    /// Takes the configuration as it is served: the library completes nothing any more.
    pub(crate) fn set_config(&self, config: &Arc<ModelConfig>) {
        *self.config.lock() = Config::of(ModelConfig::clone(config), false);
        let _ = self.served.set(Served::of(config.clone())); // a model is served with one
    }

    /// What the library says that it holds.
    pub(crate) fn memory(&self) -> Vec<MemoryUse> {
        self.memory.lock().clone()
    }

    /// A name of a tensor for C, which lives as long as the model. Names are those of the configuration, so they are few.
    pub(crate) fn name_of(&self, name: &str) -> Text {
        if let Some(known) = self.served.get().and_then(|served| served.find(name)) {
            return Text::of(&known.text);
        }
        let mut names = self.names.lock();
        if let Some(known) = names.get(name) {
            return Text::of(known); // its bytes stay where they are, wherever the table puts it
        }
        Text::of(names.entry(name.into()).or_insert_with(|| text(name)))
    }

    /// The same name for the server: that of the configuration where it is in it, and else a new one.
    pub(crate) fn shared_name(&self, name: &str) -> Name {
        let known = self.served.get().and_then(|served| served.find(name));
        known.map_or_else(|| name.into(), |known| known.name.clone())
    }

    /// Takes what the library has completed: what only it knows, and no more.
    ///
    /// Errors: it has no right to now; or the text is no configuration.
    fn complete(&self, json: &str) -> Result<()> {
        let mut config = self.config.lock();
        if !config.is_open {
            let text = "TRITONBACKEND_ModelSetConfig can only be called from TRITONBACKEND_ModelInitialize";
            return Err(Error::invalid_argument(text));
        }
        let given = from_json(json).map_err(|error| {
            Error::invalid_argument(format!("failed to parse the configuration that the backend has set: {error}"))
        })?;
        let mut completed = ModelConfig::clone(&config.current);
        completed.max_batch_size = given.max_batch_size;
        completed.input = given.input;
        completed.output = given.output;
        completed.model_transaction_policy = given.model_transaction_policy.or(completed.model_transaction_policy);
        if completed.scheduling_choice.is_none() {
            completed.scheduling_choice = given.scheduling_choice;
        }
        config::normalize(&mut completed, &Machine::default()); // groups of instances are there already
        *config = Config::of(completed, true);
        Ok(())
    }
}

/// Reads what a library says that it holds, device by device.
pub(crate) fn memory_uses(usage: &Array<Handle<BufferAttributes>>, count: u32) -> Result<Vec<MemoryUse>> {
    let mut uses = Vec::new();
    for entry in usage.get(count.into())? {
        let attributes = *entry.get()?.0.lock();
        let device = match attributes.memory_type {
            MemoryType::GPU => Device::Gpu(u32::try_from(attributes.memory_type_id).unwrap_or(0)),
            _ => Device::Cpu,
        };
        uses.push(MemoryUse { device, bytes: attributes.byte_size as u64 });
    }
    Ok(uses)
}

/// Whether the model has states that the server keeps, of which one is renewed by that output.
///
/// Errors: Triton's words for one that it has not.
pub(crate) fn check_state(model: &Model, name: &str) -> Result<()> {
    let config = model.config();
    let states = match &config.scheduling_choice {
        Some(SchedulingChoice::SequenceBatching(batching)) => batching.state.as_slice(),
        _ => &[],
    };
    if states.is_empty() {
        return Err(Error::invalid_argument(format!(
            "unable to add state '{name}'. State configuration is missing for model '{}'.",
            config.name
        )));
    }
    if states.iter().all(|state| state.output_name != name) {
        return Err(Error::invalid_argument(format!("state '{name}' is not a valid state name.")));
    }
    Ok(())
}

exports! {
    /// Its name.
    fn TRITONBACKEND_ModelName(model: Handle<Model>, name: Out<Text>) {
        name.set(Text::of(&model.get()?.name))
    }

    /// Its version.
    fn TRITONBACKEND_ModelVersion(model: Handle<Model>, version: Out<u64>) {
        version.set(model.get()?.version)
    }

    /// The folder with its configuration and its versions.
    fn TRITONBACKEND_ModelRepository(model: Handle<Model>, kind: Out<ArtifactType>, location: Out<Text>) {
        let model = model.get()?;
        kind.set(ArtifactType::FILESYSTEM)?;
        location.set(Text::of(&model.folder))
    }

    /// Its configuration, as JSON; the caller deletes the message.
    fn TRITONBACKEND_ModelConfig(model: Handle<Model>, version: u32, config: Out<Handle<Message>>) {
        let model = model.get()?;
        check_version(version)?;
        let json = model.config.lock().json.clone();
        config.give(Message::of(&json))
    }

    /// Whether the library is to complete the configuration.
    fn TRITONBACKEND_ModelAutoCompleteConfig(model: Handle<Model>, auto_complete_config: Out<bool>) {
        auto_complete_config.set(model.get()?.may_complete)
    }

    /// Completes the configuration: inputs, outputs, batch size, responses over time, and scheduling if there is none.
    fn TRITONBACKEND_ModelSetConfig(model: Handle<Model>, version: u32, config: Handle<Message>) {
        let (model, config) = (model.get()?, config.get()?);
        check_version(version)?;
        model.complete(&config.json.to_string_lossy())
    }

    /// The server.
    fn TRITONBACKEND_ModelServer(model: Handle<Model>, server: Out<Handle<Server>>) {
        server.set(model.get()?.server)
    }

    /// Its backend.
    fn TRITONBACKEND_ModelBackend(model: Handle<Model>, backend: Out<Handle<Backend>>) {
        backend.set(model.get()?.backend)
    }

    /// What [`TRITONBACKEND_ModelSetState`] was given.
    fn TRITONBACKEND_ModelState(model: Handle<Model>, state: Out<*mut c_void>) {
        state.set(model.get()?.state.load(Ordering::Acquire))
    }

    /// Keeps an address for the library.
    fn TRITONBACKEND_ModelSetState(model: Handle<Model>, state: *mut c_void) {
        model.get()?.state.store(state, Ordering::Release);
        Ok(())
    }

    /// Says what the model holds, without its instances.
    fn TRITONBACKEND_ModelReportMemoryUsage(
        model: Handle<Model>,
        usage: Array<Handle<BufferAttributes>>,
        usage_size: u32,
    ) {
        let model = model.get()?;
        let uses = memory_uses(&usage, usage_size)?;
        *model.memory.lock() = uses;
        Ok(())
    }
}

fn check_version(version: u32) -> Result<()> {
    if version == CONFIG_VERSION {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "model configuration version {version} not supported, supported versions are: {CONFIG_VERSION}"
    )))
}
