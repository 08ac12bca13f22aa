//! One loaded model version: its file, its checked options, and the making of instances. Instances have a session each, or share
//! some of them.

use std::{
    collections::BTreeMap,
    ffi::CString,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, Health, Instance, Model, ModelSource, Placement, Settings},
    config::ModelConfig,
    error::{Error, Result},
};

use super::{
    graph_def,
    interface::Interface,
    library::{Runtime, terminated},
    options::{Chosen, SessionOptions},
    raw::Session,
    runner::SessionRunner,
    saved_model, types,
};
use crate::native::{BatchInstance, Tensors, loading, verify};

const GRAPH_FILE: &str = "model.graphdef";
const GRAPH_PLATFORM: &str = "tensorflow_graphdef";

/// Whether a configuration is one of a GraphDef, not of a SavedModel.
pub(super) fn is_graph(config: &ModelConfig) -> bool {
    config.platform == GRAPH_PLATFORM
}

/// What a SavedModel takes and gives by the signature that its configuration asks for. One whose file only TensorFlow can read is
/// loaded for that.
///
/// Errors: it is not there, damaged, or has not what is asked for.
pub(super) fn inspect(
    runtime: &Runtime,
    config: &ModelConfig,
    settings: &Settings,
    source: &ModelSource,
) -> Result<Interface> {
    let folder = saved_model::folder(source, config, loading::first_device(config))?;
    let chosen = Chosen::read(config);
    let model = match saved_model::read(&folder)? {
        Some(model) => model,
        None => {
            let options = SessionOptions::read(config, settings, source)?;
            runtime.load_operations(&options.operation_libraries)?;
            let session_config = options.session_config(Device::Cpu);
            let (_, description) =
                Session::of_saved_model(runtime.functions, &session_config, &terminated(&folder)?, &tag(&chosen)?)?;
            saved_model::described(&description)?
        }
    };
    saved_model::choose(model, &chosen, &config.name)
}

fn tag(chosen: &Chosen) -> Result<CString> {
    CString::new(chosen.tag()).map_err(|_| Error::invalid_argument("'TF_GRAPH_TAG' contains a zero byte"))
}

/// One opened model version.
pub(super) struct TensorFlowModel {
    runtime: &'static Runtime,
    settings: Settings,
    source: ModelSource,
    of_any_shape: Vec<String>,
    configured: Option<Configured>,
    /// Sessions that instances may share, and where they run.
    sessions: Mutex<Vec<(Device, Weak<Session>)>>,
}

/// What sessions are made from.
struct Configured {
    config: Arc<ModelConfig>,
    options: SessionOptions,
    kind: Kind,
}

/// The two kinds of model.
enum Kind {
    SavedModel { tag: CString, interface: Interface },
    GraphDef,
}

impl TensorFlowModel {
    /// `of_any_shape`: inputs whose shape neither file nor configuration says.
    pub(super) fn new(
        runtime: &'static Runtime,
        settings: &Settings,
        source: &ModelSource,
        of_any_shape: Vec<String>,
    ) -> Self {
        let (settings, source) = (settings.clone(), source.clone());
        Self { runtime, settings, source, of_any_shape, configured: None, sessions: Mutex::default() }
    }

    fn configured(&self) -> Result<&Configured> {
        let missing =
            || Error::internal(format!("model '{}' was not configured before its instances", self.source.name));
        self.configured.as_ref().ok_or_else(missing)
    }

    /// A session for one more instance: one that has not its share of them yet, or a new one.
    fn session(&self, placement: &Placement) -> Result<Arc<Session>> {
        let configured = self.configured()?;
        let most = configured.options.most_sharing;
        if most == 1 {
            return Ok(Arc::new(self.load(configured, placement)?));
        }
        let mut sessions = self.sessions.lock();
        sessions.retain(|(_, session)| session.strong_count() > 0);
        let has_room =
            |(device, session): &&(Device, Weak<Session>)| *device == placement.device && session.strong_count() < most;
        if let Some(session) = sessions.iter().find(has_room).and_then(|(_, session)| session.upgrade()) {
            return Ok(session);
        }
        let session = Arc::new(self.load(configured, placement)?);
        sessions.push((placement.device, Arc::downgrade(&session)));
        Ok(session)
    }

    fn load(&self, configured: &Configured, placement: &Placement) -> Result<Session> {
        let Configured { config, options, kind } = configured;
        let (functions, session_config) = (self.runtime.functions, options.session_config(placement.device));
        let session = match kind {
            Kind::SavedModel { tag, .. } => {
                if let Device::Gpu(id) = placement.device
                    && id > 0
                {
                    return Err(without_gpu(
                        placement,
                        "TensorFlow runs SavedModels on the first GPU that CUDA_VISIBLE_DEVICES shows it",
                    ));
                }
                let folder = terminated(&saved_model::folder(&self.source, config, placement.device)?)?;
                Session::of_saved_model(functions, &session_config, &folder, tag)?.0
            }
            Kind::GraphDef => {
                let path = loading::file(&self.source, config, GRAPH_FILE, placement.device)?;
                let device = match placement.device {
                    Device::Gpu(id) => CString::new(format!("/gpu:{id}")).ok(),
                    Device::Cpu | Device::Model => None,
                };
                Session::of_graph(functions, &session_config, &graph_def::read(&path)?, device.as_deref())?
            }
        };
        if matches!(placement.device, Device::Gpu(_)) && !session.has_gpu() {
            return Err(without_gpu(placement, "this TensorFlow library has no GPU"));
        }
        options.initial_operations.iter().try_for_each(|name| session.run_operation(name))?;
        Ok(session)
    }
}

fn without_gpu(placement: &Placement, reason: &str) -> Error {
    let Placement { instance_name, device, .. } = placement;
    Error::invalid_argument(format!("unable to place instance '{instance_name}' on {device:?}: {reason}"))
}

impl Model for TensorFlowModel {
    /// Checks everything that can be checked without a session.
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        let options = SessionOptions::read(config, &self.settings, &self.source)?;
        self.runtime.load_operations(&options.operation_libraries)?;
        let kind = if is_graph(config) {
            loading::file(&self.source, config, GRAPH_FILE, loading::first_device(config))?;
            Kind::GraphDef
        } else {
            let interface = inspect(self.runtime, config, &self.settings, &self.source)?;
            verify(config, &interface.signature, types::config_name)?;
            Kind::SavedModel { tag: tag(&Chosen::read(config))?, interface }
        };
        self.configured = Some(Configured { config: config.clone(), options, kind });
        Ok(())
    }

    fn inputs_of_any_shape(&self) -> &[String] {
        &self.of_any_shape
    }

    fn instance(&self, placement: &Placement, _health: &Health) -> Result<Box<dyn Instance>> {
        let Configured { config, kind, .. } = self.configured()?;
        loading::guarded("tensorflow", &config.name, || {
            let session = self.session(placement).map_err(|error| unable(config, error))?;
            let of_graph;
            let interface = match kind {
                Kind::SavedModel { interface, .. } => interface,
                Kind::GraphDef => {
                    of_graph = graph_def::interface(config, &session)?;
                    verify(config, &of_graph.signature, types::config_name)?;
                    &of_graph
                }
            };
            let tensors = Tensors::of(config, &interface.signature)?;
            let endpoint = |names: &BTreeMap<String, String>, name: &str| {
                let in_graph = names.get(name).map_or(name, String::as_str);
                let missing = || {
                    let model = &config.name;
                    Error::internal(format!(
                        "the graph of model '{model}' has no tensor '{in_graph}', which '{name}' is"
                    ))
                };
                session.endpoint(in_graph).map(|(endpoint, _)| endpoint).ok_or_else(missing)
            };
            let inputs = tensors.input_names().map(|name| endpoint(&interface.inputs, name)).collect::<Result<_>>()?;
            let outputs =
                tensors.output_names().map(|name| endpoint(&interface.outputs, name)).collect::<Result<_>>()?;
            let runner = SessionRunner::new(self.runtime.functions, session, inputs, outputs);
            let (name, has_rows) = (placement.instance_name.clone(), config.max_batch_size > 0);
            Ok(Box::new(BatchInstance::new(name, runner, tensors, has_rows)) as Box<dyn Instance>)
        })
    }
}

/// Says which model TensorFlow's words are about.
fn unable(config: &ModelConfig, error: Error) -> Error {
    if error.message.starts_with("unable to ") {
        return error; // ours
    }
    Error::new(error.code, format!("unable to load model '{}': {}", config.name, error.message))
}
