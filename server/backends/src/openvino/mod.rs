//! The `openvino` backend: models of OpenVINO and what its library reads besides, on the CPU. The library is opened when the first
//! model needs it.
//!
//! [`library`] opens it, [`element`] knows its types, [`settings`] reads the parameters of a model, [`prepare`] fits the model that
//! was read to its configuration, [`model`] compiles it and makes instances, [`runner`] runs one, and [`raw`] has the calls that
//! are not safe by themselves. What lies between a run and its requests is in [`crate::native`].

mod element;
mod library;
mod model;
mod prepare;
mod raw;
mod runner;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::{Machine, ModelConfig},
    error::Result,
};
use server_proto::inference::{ModelInstanceGroup, model_instance_group::Kind};

use crate::native::{complete, settings::number};
use model::OpenVinoModel;

/// `--backend-config=openvino,default-max-batch-size=` if it is not given.
const DEFAULT_MAX_BATCH_SIZE: usize = 4;

/// The backend with its settings: `library`, `default-max-batch-size`.
pub(crate) fn backend(settings: Settings) -> Arc<dyn Backend> {
    Arc::new(OpenVino { settings })
}

struct OpenVino {
    settings: Settings,
}

impl Backend for OpenVino {
    fn name(&self) -> &str {
        "openvino"
    }

    fn supported_fields(&self) -> &[&str] {
        &["batch_input", "batch_output", "sequence_batching.state"]
    }

    /// Instances run on the CPU where the configuration does not say where.
    fn prepare(&self, config: &mut ModelConfig, _machine: &Machine) {
        if config.instance_group.is_empty() {
            config.instance_group.push(ModelInstanceGroup::default());
        }
        for group in config.instance_group.iter_mut().filter(|group| group.kind() == Kind::Auto) {
            group.set_kind(Kind::Cpu);
            group.gpus.clear();
        }
    }

    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        let runtime = library::runtime(&self.settings)?;
        let mut model = OpenVinoModel::new(runtime, source);
        if may_complete && !complete::is_complete(config) {
            let default = number(&self.settings, "default-max-batch-size")?.unwrap_or(DEFAULT_MAX_BATCH_SIZE);
            let signature = model::guarded(&source.name, || model.read(config))?;
            // An input of any rank has that of the configuration from then on.
            complete::complete(config, &signature, i32::try_from(default).unwrap_or(i32::MAX))?;
        }
        Ok(Box::new(model))
    }
}
