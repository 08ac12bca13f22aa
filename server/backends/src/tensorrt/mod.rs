//! The `tensorrt` backend: TensorRT plans on NVIDIA GPUs. The library is opened when the first model needs it, and nothing of it is needed to
//! build this.
//!
//! ```text
//! load   [`header`] of the file -> [`plan`] makes an engine -> [`description`], plain data -> [`complete`], [`verify`]
//!        [`settings`] of the model -> [`setup`]: contexts, memory, and the graphs that [`graphs`] asks for
//! batch  [`runner`]: [`profiles`] chooses a context, [`graphs`] a captured run, [`buffers`] says sizes; [`lane`]s keep two batches under way
//! ```
//!
//! [`raw`] calls TensorRT, [`crate::cuda`] the driver; decisions are made in the other modules, from data. [`builder`] makes plans.

mod buffers;
mod builder;
mod complete;
mod description;
mod graphs;
mod header;
mod lane;
mod library;
mod model;
mod place;
mod plan;
mod profiles;
mod raw;
mod runner;
mod settings;
mod setup;
mod verify;

use std::sync::{Arc, Weak};

use server_core::{
    backend::{Backend, Host, Model, ModelSource, Settings},
    config::{Machine, ModelConfig, normalize},
    error::Result,
};

pub use builder::{PlanOptions, PlanProfile, build_plan, read_shapes, write_plan};

use crate::native::loading::guarded;
use model::TensorRtModel;
use settings::Policy;

/// The backend with its settings: `library`, `plugins`, `version-compatible`, `execution-policy`, `coalesce-request-input`.
pub(crate) fn backend(settings: Settings) -> Arc<dyn Backend> {
    Arc::new(TensorRt { settings })
}

struct TensorRt {
    settings: Settings,
}

impl Backend for TensorRt {
    fn name(&self) -> &str {
        "tensorrt"
    }

    fn supported_fields(&self) -> &[&str] {
        &[
            "batch_input",
            "batch_output",
            "sequence_batching.state",
            "cc_model_filenames",
            "instance_group.secondary_devices",
            "optimization.cuda",
            "optimization.priority",
        ]
    }

    /// Instances are on GPUs where there are some: completing a configuration takes the engine on the first of them.
    fn prepare(&self, config: &mut ModelConfig, machine: &Machine) {
        normalize(config, machine);
    }

    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        _host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        let policy = Policy::of(&self.settings)?;
        let api = library::api(&self.settings)?;
        let open = || TensorRtModel::open(api, policy, source, config, may_complete);
        Ok(Box::new(guarded("tensorrt", &source.name, open)?))
    }
}
