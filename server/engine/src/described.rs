//! What models may read about the server and other models: the JSON that clients read.

mod statistics;

use serde_json::{Value, json};
use server_core::{
    error::Result,
    interface::{EXTENSIONS, ModelId, TensorMetadata},
};

use crate::{Engine, registry::VersionState};

impl Engine {
    pub(crate) fn describe_server(&self) -> Result<String> {
        self.is_live()?;
        Ok(json!({ "name": self.id(), "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS }).to_string())
    }

    pub(crate) fn describe_model(&self, model: ModelId<'_>) -> Result<String> {
        let metadata = self.metadata(model)?;
        let tensors = |tensors: &[TensorMetadata]| tensors.iter().map(tensor).collect::<Vec<_>>();
        Ok(json!({
            "name": &*metadata.name,
            "versions": metadata.versions.iter().map(u64::to_string).collect::<Vec<_>>(),
            "platform": metadata.platform,
            "inputs": tensors(&metadata.inputs),
            "outputs": tensors(&metadata.outputs),
        })
        .to_string())
    }

    /// Counters as JSON, in the members of Triton's statistics extension: of all ready versions, of one model's, or of one version.
    ///
    /// Errors: as those of [`Engine::statistics`].
    pub fn statistics_text(&self, model: Option<ModelId<'_>>) -> Result<String> {
        statistics::text(self.statistics(model)?)
    }

    /// Repositories on object stores are as they were seen last.
    pub(crate) fn describe_index(&self, ready_only: bool) -> Result<String> {
        let lines = self.index(ready_only)?.into_iter().map(|entry| {
            let mut line = json!({ "name": entry.name });
            if let Some(version) = entry.version {
                line["version"] = version.to_string().into();
            }
            if let Some(state) = entry.state.map(VersionState::text) {
                line["state"] = state.into();
            }
            if !entry.reason.is_empty() {
                line["reason"] = entry.reason.into();
            }
            line
        });
        Ok(Value::Array(lines.collect()).to_string())
    }
}

fn tensor(metadata: &TensorMetadata) -> Value {
    json!({ "name": &*metadata.name, "datatype": metadata.data_type.wire_name(), "shape": metadata.shape.as_slice() })
}
