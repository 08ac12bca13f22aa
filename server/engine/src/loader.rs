//! One version from its folder to running instances: complete, open, normalise, verify, configure, start. Blocks its
//! thread.

use std::{
    io,
    path::Path,
    sync::{Arc, Weak},
    time::Instant,
};

use bytes::Bytes;
use server_core::{
    backend::{Backend, Backends, Device, Host, ModelSource},
    config::{self, ModelConfig},
    ensemble::Graph,
    error::{Error, Result},
    host_policy::{self, HostPolicies},
    interface::{Interface, Labels},
    latency::LatencySettings,
};
use server_scheduler::RateLimiter;

use crate::{
    ResponseCache,
    cache::{self, Caching, Content},
    ensemble::{self, Ensemble},
    instance_plan::{InstancePlan, instance_plans},
    machine::Machine,
    model::{LoadedModel, Parts, counters},
    model_files::inside,
    registry::Registry,
    repository,
    runner::Runner,
    scheduling::Scheduling,
    version_to_load::VersionToLoad,
    warm_up::WarmUp,
};

/// What a load works with.
pub(crate) struct Loader {
    pub(crate) backends: Arc<dyn Backends>,
    pub(crate) host: Weak<dyn Host>,
    pub(crate) machine: Arc<Machine>,
    /// Where ensembles find the models that they are made of.
    pub(crate) registry: Arc<Registry>,
    pub(crate) auto_complete: bool,
    pub(crate) gpu_fallback: bool,
    /// Shared by all models, if anything limits them.
    pub(crate) rate_limiter: Option<Arc<RateLimiter>>,
    /// Where instances run.
    pub(crate) host_policies: HostPolicies,
    /// Shared by all models, if the server has one.
    pub(crate) response_cache: Option<ResponseCache>,
    pub(crate) latency: LatencySettings,
}

impl Loader {
    /// Checks what a configuration says by itself, before any version is looked at: what only its model knows may be
    /// missing. `newest` are the names of the files of the newest version.
    ///
    /// Errors: all problems at once.
    pub(crate) fn check(&self, name: &str, newest: &[String], written: &ModelConfig) -> Result<()> {
        let mut config = written.clone();
        config::remove_repeated_outputs(&mut config);
        config::complete(&mut config, name, newest)?;
        let machine = self.machine.for_config();
        config::normalize(&mut config, &machine);
        if config::verify_before_opening(&config, name).is_empty() {
            return Ok(());
        }
        // It is refused in any case: all that is wrong with what is written is said at once.
        Err(config::problems_error(name, &config::verify(&config, name, &machine)))
    }

    /// Loads one version and starts its instances.
    ///
    /// Errors: all problems of the configuration at once, or what the backend says.
    pub(crate) fn load(&self, target: &VersionToLoad<'_>) -> Result<LoadedModel> {
        let began = Instant::now();
        let version_dir = target.model_dir.join(target.version.to_string());
        let source = ModelSource {
            model_dir: target.model_dir.to_owned(),
            version_dir: version_dir.clone(),
            name: target.name.to_owned(),
            version: target.version,
        };
        let mut config = completed(target, &file_names(&version_dir))?;
        let content = self.content(target);
        let backend = self.backends.find(config::backend_name(&config), &config.runtime, &source)?;
        check_runtime(&config, &*backend, &source)?;
        backend.prepare(&mut config, &self.machine.for_config());
        let mut model = backend.open(&source, &mut config, self.auto_complete, &self.host)?;
        self.finish(target.name, &mut config)?;
        warn_of_unsupported(&config, backend.supported_fields());
        let interface = Interface::new(&config, target.version, labels(&config, target.model_dir)?)?;
        let interface = Arc::new(interface.with_any_shape(model.inputs_of_any_shape()));
        let config = Arc::new(config);
        model.configure(&config)?;
        let plans = self.plans(&config)?;
        let gpu_uuid = plans.iter().find_map(|plan| match plan.placement.device {
            Device::Gpu(gpu) => self.machine.gpu_uuid(gpu).map(str::to_owned),
            Device::Cpu | Device::Model => None,
        });
        let parts = Parts {
            namespace: target.namespace(),
            warm_up: WarmUp::of(&config, &interface, target.model_dir),
            scheduling: Scheduling::of(&config, target.model_dir, model.batch_strategy())?,
            model: model.into(),
            gpu_uuid,
            rate_limiter: self.rate_limiter.clone(),
            latency: self.latency.clone(),
        };
        let caching = self.caching(target, content.as_ref(), &interface, &config);
        LoadedModel::start(target.description(interface, config, caching), parts, &plans, began)
    }

    /// Loads one version of an ensemble, whose models serve already. `serving` is the version that serves now: `None` comes
    /// back if nothing is different from that, and what can be kept of it is.
    ///
    /// Errors: the configuration's problems, or a model that the ensemble is made of is not there or does not fit.
    pub(crate) fn load_ensemble(
        &self,
        target: &VersionToLoad<'_>,
        serving: Option<&LoadedModel>,
    ) -> Result<Option<LoadedModel>> {
        let began = Instant::now();
        let mut config = completed(target, &[])?;
        self.finish(target.name, &mut config)?;
        let mut interface = Interface::new(&config, target.version, labels(&config, target.model_dir)?)?;
        let members = ensemble::members(&self.registry, &config);
        let graph = Graph::compile(&mut config, &mut interface, &members)?;
        if cache::is_enabled(&config) && interface.is_decoupled {
            return Err(Error::invalid_argument(format!(
                "Response Cache does not currently support model {} with 'decoupled' transaction policy. Please disable the \
                 response cache.",
                target.name
            )));
        }
        let is_same = |serving: &&LoadedModel| matches!(serving.runner(), Runner::Ensemble(it) if *it.graph() == graph);
        let before = serving.filter(is_same);
        let runner = match before {
            Some(serving)
                if *serving.config == config
                    && *serving.interface == interface
                    && serving.fingerprint.given() == target.fingerprint.given() =>
            {
                return Ok(None);
            }
            Some(serving)
                if serving.config.metric_tags == config.metric_tags
                    && serving.config.response_cache == config.response_cache =>
            {
                return serving.refresh(interface, Arc::new(config), &[], target.fingerprint.clone()).map(Some);
            }
            _ => {
                warn_of_unsupported(&config, &[]);
                let counters = counters(&interface, &config, None, target.namespace(), &self.latency);
                let ensemble = Ensemble::new(graph, Arc::downgrade(&self.registry), counters);
                Runner::Ensemble(Arc::new(ensemble))
            }
        };
        runner.loaded(began.elapsed());
        let content = self.content(target);
        let caching = self.caching(target, content.as_ref(), &interface, &config);
        let description = target.description(Arc::new(interface), Arc::new(config), caching);
        Ok(Some(LoadedModel::new(description, runner)))
    }

    /// Brings a serving version up to date with a configuration that differs in nothing its model would have to be
    /// opened for again.
    ///
    /// Errors: the configuration's problems, or a new instance cannot be made; `serving` is as it was.
    pub(crate) fn refresh(&self, target: &VersionToLoad<'_>, serving: &LoadedModel) -> Result<LoadedModel> {
        let mut config = config::with_settings_of(&serving.config, target.config);
        self.finish(target.name, &mut config)?;
        let of_any_shape = serving.interface.inputs.iter().filter(|input| input.takes_any_shape);
        let of_any_shape: Vec<String> = of_any_shape.map(|input| input.name.to_string()).collect();
        let interface = Interface::new(&config, target.version, labels(&config, target.model_dir)?)?;
        let interface = interface.with_any_shape(&of_any_shape);
        let plans = self.plans(&config)?;
        serving.refresh(interface, Arc::new(config), &plans, target.fingerprint.clone())
    }

    /// The instances that a verified configuration asks for.
    ///
    /// Errors: one of their host policies says what it cannot say, or names a part that this machine does not have.
    fn plans(&self, config: &ModelConfig) -> Result<Vec<InstancePlan>> {
        instance_plans(config, |group, device| {
            let policy = self.host_policies.policy(&host_policy::policy_name(group, device))?;
            let of_node = policy.numa_node.map(Machine::node_processors).transpose()?;
            Ok(policy.cpu_cores.or(of_node))
        })
    }

    /// What a version is made from, for the response cache.
    fn content(&self, target: &VersionToLoad<'_>) -> Option<Content> {
        Content::of(self.response_cache.as_ref()?, target)
    }

    /// The share in the response cache of a version that was loaded from `content`.
    fn caching(
        &self,
        target: &VersionToLoad<'_>,
        content: Option<&Content>,
        interface: &Interface,
        config: &ModelConfig,
    ) -> Option<Caching> {
        let Some(cache) = &self.response_cache else {
            if cache::is_enabled(config) {
                tracing::warn!(
                    "model '{}' asks for the response cache, and the server has none: give it one with --cache-config",
                    target.name
                );
            }
            return None;
        };
        let content = content?;
        if !content.is_as_it_was(target) {
            let name = target.name;
            tracing::warn!("responses of model '{name}' are not cached, for its files changed while it was loaded");
            return None;
        }
        Some(Caching::new(cache, interface, config, content))
    }

    /// Normalises and verifies.
    fn finish(&self, name: &str, config: &mut ModelConfig) -> Result<()> {
        let machine = self.machine.for_config();
        if self.gpu_fallback {
            let groups = config::run_gpu_groups_on_cpu(config, &machine);
            if !groups.is_empty() {
                let verb = if groups.len() == 1 { "runs" } else { "run" };
                tracing::warn!(
                    "model '{name}' is configured for GPUs and this machine has none: {} {verb} on the CPU \
                     (--gpu-fallback=cpu)",
                    groups.join(", ")
                );
            }
        }
        config::normalize(config, &machine);
        let problems = config::verify(config, name, &machine);
        if problems.is_empty() { Ok(()) } else { Err(config::problems_error(name, &problems)) }
    }
}

/// The configuration with what follows from the folder alone.
fn completed(target: &VersionToLoad<'_>, version_files: &[String]) -> Result<ModelConfig> {
    let mut config = target.config.clone();
    for output in config::remove_repeated_outputs(&mut config) {
        tracing::warn!("model '{}' specifies output '{output}' more than once: the first one counts", target.name);
    }
    config::complete(&mut config, target.name, version_files)?;
    Ok(config)
}

/// Whether the model can have the library that it asks for: backends are part of the server.
fn check_runtime(config: &ModelConfig, backend: &dyn Backend, source: &ModelSource) -> Result<()> {
    let (runtime, library) = (&config.runtime, backend.library());
    if runtime.is_empty() || *runtime == library {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "unable to find backend library '{runtime}' for model '{}', searched: '{}' '{}' . The backend '{}' of this server is \
         '{library}': set 'runtime' to that, or leave it out.",
        source.name,
        source.version_dir.display(),
        source.model_dir.display(),
        backend.name()
    )))
}

fn warn_of_unsupported(config: &ModelConfig, by_backend: &[&str]) {
    let unsupported = config::unsupported_fields(config, by_backend);
    if !unsupported.is_empty() {
        let fields = unsupported.join(", ");
        tracing::warn!("model '{}' sets fields that have no effect: {fields}", config.name);
    }
    for family in config::fixed_families(config) {
        tracing::warn!(
            "Metric family '{family}' in 'metric_identifier' is not a customizable metric in Triton core. Model '{}'",
            config.name
        );
    }
}

fn file_names(version_dir: &Path) -> Vec<String> {
    // A version without a folder has no files; the backend says what it misses.
    repository::names(version_dir).unwrap_or_default()
}

/// Class names of the outputs that have a label file.
fn labels(config: &ModelConfig, model_dir: &Path) -> Result<Labels> {
    let with_file = config.output.iter().filter(|output| !output.label_filename.is_empty());
    with_file.map(|output| Ok((output.name.clone(), repository::labels(model_dir, &output.label_filename)?))).collect()
}

/// Writes files given with a load request into a folder of their own.
///
/// Errors: a path leaves the folder, or names a folder that another path needs as one.
pub(crate) fn write_files(files: &[(String, Bytes)]) -> Result<tempfile::TempDir> {
    let internal =
        |error: std::io::Error| Error::internal(format!("cannot keep the files of the load request: {error}"));
    let folder = tempfile::Builder::new().prefix("tritonserver-model-").tempdir().map_err(internal)?;
    for (name, content) in files {
        let path = folder.path().join(inside(name)?);
        if path.is_dir() {
            return Err(made_as_a_file(name));
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| match error.kind() {
                // another file lies where this one needs a folder
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => made_as_a_file(name),
                _ => internal(error),
            })?;
        }
        std::fs::write(&path, content).map_err(internal)?;
    }
    Ok(folder)
}

fn made_as_a_file(name: &str) -> Error {
    Error::invalid_argument(format!("Invalid file parameter '{name}', directory has been created as a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_parameter_cannot_be_a_folder_of_another() {
        for names in [["1", "1/model.onnx"], ["1/model.onnx", "1"]] {
            let files = names.map(|name| (name.to_owned(), Bytes::new()));
            let error = write_files(&files).unwrap_err();
            let expected = format!("Invalid file parameter '{}', directory has been created as a file", names[1]);
            assert_eq!(error.message, expected);
        }
    }
}
