//! A backend library as the engine sees it: a [`Backend`] whose models and instances are those of the library.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, RwLock};
use server_core::{
    backend::{Backend, Device, Health, Host, Instance, MemoryUse, Model, ModelSource, Placement, Readiness, Settings},
    batch::{Batch, Pending},
    batching::strategy::BatchStrategy,
    caller::Caller,
    config::{self, InstanceKind, Machine, ModelConfig, ModelInstanceGroup},
    error::{Error, Result},
};
use smallvec::SmallVec;

use super::{
    answering::Answering,
    attributes::{Attributes, PreferredGroup, Said},
    instance::Instance as InstanceObject,
    library::Library,
    model::Model as ModelObject,
    object::Backend as BackendObject,
    readiness::Asked,
    request::Request,
    strategy::Strategy,
};
use crate::{
    abi::{Handle, numbers::InstanceGroupKind},
    server::{Server, asking},
};

/// A backend library that is open and initialised.
pub(crate) struct LibraryBackend {
    shared: Arc<Shared>,
    name: String,
    path: PathBuf,
}

/// What a backend and its models share. The library is finalised when the last of them is gone.
struct Shared {
    library: Library,
    object: Handle<BackendObject>,
    said: Said,
    blocks_device: bool,
    /// Threads that bring requests may run it, where the user says that it is quick and keeps nothing for a thread.
    runs_inline: bool,
    /// Where the library lies.
    folder: PathBuf,
}

impl LibraryBackend {
    /// Opens the library in that file as the backend of that name.
    ///
    /// Errors: it cannot be opened, or what it says of its own start.
    pub(crate) fn open(name: &str, path: &Path, settings: &Settings) -> Result<Self> {
        let runs_inline = runs_inline(name, settings)?;
        let library = Library::open(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let object = Arc::new(BackendObject::new(name, folder, settings));
        let handle = Handle::of(object.clone());
        let attributes = Arc::new(Attributes::default());
        let of_attributes = Handle::of(attributes.clone());
        let started = library.initialize(handle).and_then(|()| library.attributes(handle, of_attributes));
        let _ = of_attributes.take(); // the library deleted it, which is not its to do
        let (said, blocks_device) = (attributes.said(), object.blocks_device());
        let shared = Shared { library, object: handle, said, blocks_device, runs_inline, folder: folder.into() };
        started?; // `shared` finalises it
        Ok(Self { shared: Arc::new(shared), name: name.into(), path: path.into() })
    }
}

/// The setting by which threads that bring requests run a library's quick models.
fn runs_inline(name: &str, settings: &Settings) -> Result<bool> {
    match settings.get("run-inline").map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Error::invalid_argument(format!(
            "the setting 'run-inline' of backend '{name}' must be 'true' or 'false', and is '{other}'"
        ))),
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        log_error("TRITONBACKEND_Finalize", self.library.finalize(self.object));
        let _ = self.object.take();
    }
}

impl Backend for LibraryBackend {
    fn name(&self) -> &str {
        &self.name
    }

    fn library(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn supported_fields(&self) -> &[&str] {
        // the library sees the whole configuration: what it does with it is its own matter
        &[
            "batch_input",
            "batch_output",
            "cc_model_filenames",
            "instance_group.secondary_devices",
            "model_operations",
            "optimization.cuda",
            "optimization.priority",
            "sequence_batching.state",
        ]
    }

    fn prepare(&self, config: &mut ModelConfig, machine: &Machine) {
        prefer_groups(config, &self.shared.said.preferred_groups, machine);
        config::normalize(config, machine);
    }

    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        let server = Handle::new(Server::new(host.clone(), &source.name));
        let object = ModelObject::new(source, config.clone(), may_complete, self.shared.object, server);
        let object = Arc::new(object);
        let model = LibraryModel {
            shared: self.shared.clone(),
            handle: Handle::of(object.clone()),
            object,
            server,
            loading: Mutex::new(()),
            devices: Mutex::default(),
            instances: Arc::default(),
            source: source.clone(),
            strategy: None,
        };
        self.shared.library.model_initialize(model.handle)?; // dropped, `model` is finalised
        *config = ModelConfig::clone(&model.object.config());
        Ok(Box::new(model))
    }
}

/// Gives a model that leaves open where it runs the instances that its backend would like most, of those that can be had.
fn prefer_groups(config: &mut ModelConfig, preferred: &[PreferredGroup], machine: &Machine) {
    let kinds = preferred.iter().filter_map(|group| match group.kind {
        InstanceGroupKind::CPU => Some((group, InstanceKind::Cpu)),
        InstanceGroupKind::GPU if machine.gpus > 0 => Some((group, InstanceKind::Gpu)),
        InstanceGroupKind::MODEL => Some((group, InstanceKind::Model)),
        _ => None,
    });
    let Some((wanted, kind)) = kinds.into_iter().next() else { return };
    if config.instance_group.is_empty() {
        let name = config.name.clone(); // without a number, as of a model that says nothing at all
        config.instance_group.push(ModelInstanceGroup { name, ..Default::default() });
    }
    for group in config.instance_group.iter_mut().filter(|group| group.kind() == InstanceKind::Auto) {
        if kind != InstanceKind::Gpu && !group.gpus.is_empty() {
            continue; // it asks for GPUs
        }
        group.set_kind(kind);
        if group.count == 0 {
            group.count = i32::try_from(wanted.count).unwrap_or(i32::MAX);
        }
        if kind == InstanceKind::Gpu && group.gpus.is_empty() {
            group.gpus = wanted.devices.iter().filter_map(|&device| i32::try_from(device).ok()).collect();
        }
    }
}

/// One version of a model of a library.
struct LibraryModel {
    shared: Arc<Shared>,
    object: Arc<ModelObject>,
    handle: Handle<ModelObject>,
    server: Handle<Server>,
    /// Held while an instance is made, where the library makes one at a time.
    loading: Mutex<()>,
    /// For libraries that run one instance of a device at a time: who holds the lock of the device runs.
    devices: Mutex<HashMap<Device, Arc<Mutex<()>>>>,
    instances: Arc<Mutex<Vec<Weak<Made>>>>,
    source: ModelSource,
    strategy: Option<Arc<Strategy>>,
}

/// An instance that is there.
struct Made {
    shared: Arc<Shared>,
    object: Arc<InstanceObject>,
    handle: Handle<InstanceObject>,
    /// It is finalised. Held while its library is asked for it beside its own thread.
    has_ended: RwLock<bool>,
}

impl Made {
    /// The library's last call of the instance.
    fn finalize(&self) {
        let mut has_ended = self.has_ended.write();
        if !std::mem::replace(&mut *has_ended, true) {
            log_error("TRITONBACKEND_ModelInstanceFinalize", self.shared.library.instance_finalize(self.handle));
            let _ = self.handle.take();
        }
    }

    /// Whether the library says that it is ready; one that has ended is asked no more.
    fn is_ready(&self) -> bool {
        let has_ended = self.has_ended.read();
        if *has_ended {
            return true;
        }
        let ready = self.shared.library.instance_ready(self.handle);
        ready.inspect_err(|error| tracing::warn!("an instance is not ready: {error}")).is_ok()
    }
}

impl Model for LibraryModel {
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        self.object.set_config(config);
        let shared = &self.shared;
        self.strategy =
            Strategy::of(config, &self.source, &shared.folder, shared.library.strategy, &self.object, self.handle)?;
        Ok(())
    }

    fn batch_strategy(&self) -> Option<Arc<dyn BatchStrategy<Pending>>> {
        self.strategy.clone().map(|strategy| strategy as _)
    }

    fn memory(&self) -> Vec<MemoryUse> {
        let mut uses = self.object.memory();
        let instances = self.instances.lock();
        uses.extend(instances.iter().filter_map(Weak::upgrade).flat_map(|made| made.object.memory()));
        uses
    }

    fn logs_its_instances(&self) -> bool {
        true
    }

    fn readiness(&self) -> Option<Readiness> {
        if !self.shared.library.has_instance_ready() {
            return None;
        }
        let instances = self.instances.clone();
        Some(Box::pin(Asked::new(move || {
            let instances: Vec<_> = instances.lock().iter().filter_map(Weak::upgrade).collect();
            instances.iter().all(|made| made.is_ready())
        })))
    }

    fn instance(&self, placement: &Placement, health: &Health) -> Result<Box<dyn Instance>> {
        let config = self.object.config();
        let object = Arc::new(InstanceObject::new(self.handle, &config, placement));
        let made = Made {
            shared: self.shared.clone(),
            handle: Handle::of(object.clone()),
            object,
            has_ended: RwLock::new(false),
        };
        let one_at_a_time = (!self.shared.said.loads_in_parallel).then(|| self.loading.lock());
        self.shared.library.instance_initialize(made.handle)?; // dropped, `made` is finalised
        drop(one_at_a_time);
        let on_any_thread = self.shared.runs_inline && placement.device == Device::Cpu;
        let device = self.shared.blocks_device.then(|| {
            let mut devices = self.devices.lock();
            devices.entry(placement.device).or_default().clone()
        });
        let made = Arc::new(made);
        let mut instances = self.instances.lock();
        instances.retain(|instance| instance.strong_count() > 0);
        instances.push(Arc::downgrade(&made));
        let health = health.clone();
        Ok(Box::new(LibraryInstance { made, model: self.object.clone(), health, device, on_any_thread }))
    }
}

impl Drop for LibraryModel {
    fn drop(&mut self) {
        if let Some(strategy) = &self.strategy {
            strategy.end();
        }
        log_error("TRITONBACKEND_ModelFinalize", self.shared.library.model_finalize(self.handle));
        let _ = self.handle.take();
        let _ = self.server.take();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.finalize(); // of an instance that could not be made
    }
}

/// One instance, as the engine runs it.
struct LibraryInstance {
    made: Arc<Made>,
    model: Arc<ModelObject>,
    health: Health,
    device: Option<Arc<Mutex<()>>>,
    on_any_thread: bool,
}

impl Drop for LibraryInstance {
    fn drop(&mut self) {
        self.made.finalize(); // here: whoever asks it something may have it longer than its thread
    }
}

impl Instance for LibraryInstance {
    fn execute(&mut self, batch: Batch) {
        let rows = u64::from(batch.batch_size());
        let (pending, execution) = batch.into_pending();
        let start = execution.start();
        let mut handles = SmallVec::<[Handle<Request>; 8]>::new();
        let mut reporter = None;
        let parent = Caller::longest_of(pending.iter().map(|pending| &pending.request));
        for pending in pending {
            let is_counted = !pending.completion.is_empty_row();
            let answering = Answering::new(self.model.clone(), pending.completion, start);
            if is_counted && reporter.is_none() {
                reporter = Some(answering.reporter().clone());
            }
            handles.push(Handle::new(Request::new(pending.request, Arc::new(answering))));
        }
        let executions = &self.made.object.executions;
        executions.begin(reporter, start);
        let mut lent = handles.clone(); // helpers that come with Triton write null over those that they release
        let result = {
            let _runs_alone = self.device.as_ref().map(|device| device.lock());
            let _asks = asking::begin(&self.model, &self.health, parent);
            self.made.shared.library.execute(self.made.handle, &mut lent)
        };
        executions.end(rows);
        if let Err(error) = result {
            fail(&handles, &error);
        }
    }

    fn runs_on_any_thread(&self) -> bool {
        self.on_any_thread
    }
}

/// Answers the requests of an execution that the library has refused: they are not the library's.
fn fail(handles: &[Handle<Request>], error: &Error) {
    for handle in handles {
        if let Ok(request) = handle.take() {
            let _ = request.answering.finish(Some(Err(error.clone()))); // else the library has answered it
            request.answering.released();
        }
    }
}

fn log_error(function: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!("{function} of a backend library failed: {error}");
    }
}
