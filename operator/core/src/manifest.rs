//! What the pods of a server are to serve: every model with its source, its configuration and its retry policy.
//! It is the sole input of the agent and says the same in the same bytes, whoever wrote it: keys sorted, no time, no chance.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use crds::parts::{
    ByteCount, Duration,
    load::{LoadOrder, Readiness},
    source::{Layout, ModelFormat},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::source::{Keys, ManifestSource};
use crate::{canonical, source_rules::SourceRules};

/// The form of manifests this version writes. A reader refuses higher numbers and ignores fields it does not know.
pub const FORMAT: u32 = 1;

/// Everything one server shall serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Form of the manifest: [`FORMAT`].
    pub format: u32,
    /// Namespace of the TritonServer.
    pub namespace: String,
    /// Name of the TritonServer.
    pub server: String,
    /// The models, sorted by name, each name once.
    pub models: Vec<ManifestModel>,
    /// What their sources may use. Left out where nothing is ruled.
    #[serde(default, skip_serializing_if = "SourceRules::is_empty")]
    pub sources: SourceRules,
    /// Where spans of what is done for it go. Left out where nobody collects any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<ManifestTrace>,
    /// SHA-256 of the canonical JSON of all the above, in hexadecimal.
    pub hash: String,
}

/// The trace of the resources that a manifest was made of: agents add their fetches and loads to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestTrace {
    /// Address of the collector, OTLP over HTTP.
    pub collector: String,
    /// Identity of the trace, 32 hexadecimal digits.
    pub id: String,
}

/// One model to serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestModel {
    /// Name by which clients know the model; also the name of its folder.
    pub name: String,
    /// Name of the TritonModel that asked for it.
    pub resource: String,
    /// Where its files come from.
    pub source: ManifestSource,
    /// SHA-256 the fetched files must have, in lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// How the fetched files are arranged.
    pub layout: Layout,
    /// Kind of model; decides the name a bare file gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ModelFormat>,
    /// Its configuration, verified as far as the resource knows it.
    pub config: ManifestConfig,
    /// Whether a replica that starts waits for it.
    pub readiness: Readiness,
    /// Patience with a fetch or load.
    pub load: ManifestLoad,
    /// GPU memory it claims on each replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory: Option<ByteCount>,
    /// What the user wrote into the annotation [`crate::labels::RETRY`] of the TritonModel. Part of the content: a new text
    /// makes a new content, which is tried although the same files have failed before: their attempts are counted anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// How far this content has come; absent once every replica may serve it: it is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<ModelRollout>,
}

/// How far a content that is not proven has come. A pod whose annotation [`crate::labels::ADOPT`] names it serves it; another
/// pod serves `former`, or nothing. This is the only memory of proven and quarantined contents and of crashes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRollout {
    /// Where it stands.
    pub phase: RolloutPhase,
    /// The entry as it was proven last, itself without a rollout; none if nothing was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Box<ManifestModel>>,
    /// Server processes whose ends are held against this content, by the pod in which they ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub crashes: BTreeMap<String, u32>,
    /// Why it does not go on, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RolloutFailure>,
}

/// Where a content that is not proven stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutPhase {
    /// One pod tries it first.
    Trial,
    /// It has settled on a pod; the others adopt it. A pod that never served the former one adopts it without being named.
    Spreading,
    /// A pod failed with it: no further pod gets it until that pod succeeds.
    Stopped,
    /// It crashed servers: no pod may serve it until it changes.
    Quarantined,
}

/// What stands against a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutFailure {
    /// One word, mostly a [`crate::Reason`]; text, so that older agents read manifests with newer words.
    pub reason: String,
    /// The words of the server or the agent, up to [`RolloutFailure::MESSAGE_MAX`] bytes.
    pub message: String,
    /// Name of the pod that failed.
    pub pod: String,
    /// Restarts of its server's container that the kubelet had reported, where the container has ended again and the kubelet has not yet
    /// reported why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_restarts: Option<i32>,
}

impl RolloutFailure {
    /// Most bytes of a message.
    pub const MESSAGE_MAX: usize = 512;
}

impl ModelRollout {
    /// Server processes whose ends are held against this content, on any pod, ever.
    pub fn crash_count(&self) -> u32 {
        self.crashes.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// The configuration of a model as the resource has it. What is served is made of it and of a `config.pbtxt` in the
/// source by [`crate::render::effective`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestConfig {
    /// Text of a `config.pbtxt`; always with the model's name.
    pub text: String,
    /// How it stands to a `config.pbtxt` in the source.
    pub precedence: Precedence,
    /// Top-level fields of the text, by their names in `config.pbtxt`, that win over those in the source, even where the
    /// text says what would be the default anyway; and parameters by their paths, e.g. `parameters["version_weights"]`. Empty under [`Precedence::Whole`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Backend used where neither the text nor the source names a backend or platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Platform used where neither the text nor the source names a backend or platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// How the resource's configuration stands to a `config.pbtxt` in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precedence {
    /// It is the whole configuration; a file in the source is not read.
    Whole,
    /// Its top-level fields win, the others come from the file in the source.
    Fields,
}

/// Patience with one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestLoad {
    /// How long one load may take before it counts as failed.
    pub timeout: Duration,
    /// How many times a failed fetch or load is tried again.
    pub retries: u32,
    /// Pause before the first new attempt; it doubles each time, up to five minutes.
    pub backoff: Duration,
    /// How long one fetch may take before it counts as failed, where the user has set a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_timeout: Option<Duration>,
    /// Whether new content is loaded before the old one leaves or after.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub order: LoadOrder,
    /// How long a server has to live on with new content before that counts as proven, where the user has said so; see
    /// [`ManifestLoad::settle_time`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_time: Option<Duration>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_usual(order: &LoadOrder) -> bool {
    *order == LoadOrder::default()
}

impl ManifestLoad {
    /// The settle time of contents for which the user has said nothing.
    pub const SETTLE_TIME: std::time::Duration = std::time::Duration::from_secs(10);

    /// How long a server has to live on with new content before that counts as proven.
    pub fn settle_time(&self) -> std::time::Duration {
        self.settle_time.map_or(Self::SETTLE_TIME, Duration::get)
    }
}

/// A text that is no manifest this version can follow.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON of a manifest.
    #[error("the manifest cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Written by a newer version.
    #[error("the manifest has form {found}, this version follows up to {FORMAT}: update the server's image")]
    TooNew {
        /// The form found.
        found: u32,
    },
    /// Cut off or changed on the way.
    #[error("the manifest does not have the content its hash speaks of: it was cut off or changed by hand")]
    Damaged,
}

impl Manifest {
    /// The manifest of `models`: sorted by name and hashed.
    pub fn new(namespace: impl Into<String>, server: impl Into<String>, mut models: Vec<ManifestModel>) -> Self {
        models.sort_by(|a, b| a.name.cmp(&b.name));
        let (namespace, server, sources) = (namespace.into(), server.into(), SourceRules::default());
        let mut manifest =
            Self { format: FORMAT, namespace, server, models, sources, trace: None, hash: String::new() };
        manifest.hash = manifest.content_hash();
        manifest
    }

    /// The same manifest with these rules for sources, hashed anew.
    #[must_use]
    pub fn with_sources(mut self, sources: SourceRules) -> Self {
        self.sources = sources;
        self.hash = self.content_hash();
        self
    }

    /// The same manifest with this trace or none, hashed anew.
    #[must_use]
    pub fn with_trace(mut self, trace: Option<ManifestTrace>) -> Self {
        self.trace = trace;
        self.hash = self.content_hash();
        self
    }

    /// `last`, if this one tells nothing but another trace: agents would read it for nothing, and nothing is done for it that
    /// belonged into that trace.
    #[must_use]
    pub fn or_unchanged(self, last: Option<&Self>) -> Self {
        let has_other_id = |last: &&Self| match (&self.trace, &last.trace) {
            (Some(own), Some(former)) => own.collector == former.collector && own.id != former.id,
            _ => false,
        };
        let unchanged = last.filter(has_other_id).filter(|last| **last == self.clone().with_trace(last.trace.clone()));
        unchanged.cloned().unwrap_or(self)
    }

    /// The manifest as canonical JSON, hash included.
    pub fn to_json(&self) -> String {
        canonical::to_string(self)
    }

    /// Reads a manifest and proves its hash.
    ///
    /// Errors: not a manifest; a newer form; a content that its hash does not speak of.
    pub fn from_json(text: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let Form { format } = serde_json::from_str(text)?;
        if format > FORMAT {
            return Err(ManifestError::TooNew { found: format });
        }
        // The hash is that of what was written, which may hold fields this version does not know.
        let mut written: serde_json::Value = serde_json::from_str(text)?;
        let hash = written.as_object_mut().and_then(|fields| fields.remove("hash"));
        if hash.as_ref().and_then(|hash| hash.as_str()) != Some(hash_of(&written).as_str()) {
            return Err(ManifestError::Damaged);
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The model clients know by `name`.
    pub fn model(&self, name: &str) -> Option<&ManifestModel> {
        self.models.binary_search_by(|model| model.name.as_str().cmp(name)).ok().map(|at| &self.models[at])
    }

    /// Every source that a pod may take files from: those of the entries, and of the contents proven before them.
    pub fn sources(&self) -> impl Iterator<Item = &ManifestSource> {
        self.models.iter().flat_map(|model| {
            let former = model.rollout.as_ref().and_then(|rollout| rollout.former.as_deref());
            [Some(&model.source), former.map(|former| &former.source)].into_iter().flatten()
        })
    }

    /// Names of the models a replica that starts waits for.
    pub fn required(&self) -> BTreeSet<String> {
        let required = self.models.iter().filter(|model| model.readiness == Readiness::Required);
        required.map(|model| model.name.clone()).collect()
    }

    fn content_hash(&self) -> String {
        #[derive(Serialize)]
        struct Content<'a> {
            format: u32,
            namespace: &'a str,
            server: &'a str,
            models: &'a [ManifestModel],
            #[serde(skip_serializing_if = "SourceRules::is_empty")]
            sources: &'a SourceRules,
            #[serde(skip_serializing_if = "Option::is_none")]
            trace: &'a Option<ManifestTrace>,
        }
        hash_of(&Content {
            format: self.format,
            namespace: &self.namespace,
            server: &self.server,
            models: &self.models,
            sources: &self.sources,
            trace: &self.trace,
        })
    }
}

impl ManifestModel {
    /// SHA-256 of what makes the model what it is (source, checksum, layout, format, configuration, attempt asked for), in
    /// hexadecimal. While it stays the same, the model need not be fetched or loaded anew.
    pub fn content_hash(&self) -> String {
        #[derive(Serialize)]
        struct Content<'a> {
            name: &'a str,
            source: &'a ManifestSource,
            checksum: &'a Option<String>,
            layout: Layout,
            format: Option<ModelFormat>,
            config: &'a ManifestConfig,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry: &'a Option<String>,
        }
        hash_of(&Content {
            name: &self.name,
            source: &self.source,
            checksum: &self.checksum,
            layout: self.layout,
            format: self.format,
            config: &self.config,
            retry: &self.retry,
        })
    }

    /// Length of [`ManifestModel::adopt_word`].
    pub const ADOPT_WORD: usize = 16;

    /// The first 16 digits of [`ManifestModel::content_hash`]: how the annotation [`crate::labels::ADOPT`] names a content.
    pub fn adopt_word(&self) -> String {
        let mut hash = self.content_hash();
        hash.truncate(Self::ADOPT_WORD);
        hash
    }

    /// SHA-256 of what its files come from and how they are laid out (source, checksum, layout, format), in hexadecimal.
    pub fn files_hash(&self) -> String {
        hash_of(&(&self.source, &self.checksum, self.layout, self.format))
    }
}

fn hash_of(content: &impl Serialize) -> String {
    hex::encode(Sha256::digest(canonical::to_string(content)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{source::host_of, *};

    fn model() -> ManifestModel {
        serde_json::from_value(json!({
            "name": "a", "resource": "a", "source": { "pvc": { "claim": "models", "path": "" } }, "layout": "Auto",
            "config": { "text": "name: \"a\"", "precedence": "Fields" }, "readiness": "Required",
            "load": { "timeout": "60s", "retries": 0, "backoff": "1s" },
        }))
        .unwrap()
    }

    #[test]
    fn how_far_a_content_has_come_is_no_part_of_it() {
        let proven = model();
        let rollout = ModelRollout {
            phase: RolloutPhase::Stopped,
            former: Some(Box::new(proven.clone())),
            crashes: BTreeMap::from([("vision-x".to_owned(), 1), ("vision-y".to_owned(), u32::MAX)]),
            failure: None,
        };
        assert_eq!(rollout.crash_count(), u32::MAX);
        let tried = ManifestModel { rollout: Some(rollout), ..model() };
        assert_eq!(tried.content_hash(), proven.content_hash());
        let manifest = |model| Manifest::new("ml", "vision", vec![model]);
        assert_ne!(manifest(tried.clone()).hash, manifest(proven).hash);
        let read = Manifest::from_json(&manifest(tried.clone()).to_json()).unwrap();
        assert_eq!(read.models, [tried]);
    }

    #[test]
    fn a_trace_is_carried_and_makes_no_other_content() {
        let plain = Manifest::new("ml", "vision", vec![model()]);
        let trace = ManifestTrace { collector: "http://c:4318/v1/traces".into(), id: "0a".repeat(16) };
        let traced = plain.clone().with_trace(Some(trace.clone()));
        assert_ne!(traced.hash, plain.hash);
        let read = Manifest::from_json(&traced.to_json()).unwrap();
        assert_eq!((read.trace, &read.models), (Some(trace), &plain.models));
        assert!(!plain.to_json().contains("trace"));
    }

    #[test]
    fn another_trace_alone_is_no_other_manifest() {
        let traced = |collector: &str, id: &str, models| {
            let trace = ManifestTrace { collector: collector.into(), id: id.repeat(16) };
            Manifest::new("ml", "vision", models).with_trace(Some(trace))
        };
        let last = traced("http://c:4318", "0a", vec![model()]);
        let next = |manifest: Manifest| manifest.or_unchanged(Some(&last));
        assert_eq!(next(traced("http://c:4318", "0b", vec![model()])), last);
        for other in [
            traced("http://d:4318", "0b", vec![model()]),
            traced("http://c:4318", "0b", vec![]),
            Manifest::new("ml", "vision", vec![model()]),
        ] {
            assert_eq!(next(other.clone()), other);
        }
        assert_eq!(last.clone().or_unchanged(None), last);
    }

    #[test]
    fn another_attempt_asked_for_makes_another_content() {
        let again = ManifestModel { retry: Some("2".into()), ..model() };
        assert_ne!(again.content_hash(), model().content_hash());
        assert_eq!(again.files_hash(), model().files_hash());
        assert_eq!(again.adopt_word().len(), 16);
        assert!(again.content_hash().starts_with(&again.adopt_word()));
    }

    #[test]
    fn the_host_of_an_address_is_what_is_connected_to() {
        for (uri, host) in [
            ("https://models.example/a.zip", "models.example"),
            ("http://models.example:8080?x=@y", "models.example"),
            ("http://allowed.example@evil.example/a", "evil.example"),
            ("http://evil.example\\@allowed.example/a", "evil.example"),
            ("http://u:p@[fd00::1]:80/a@b", "[fd00::1]"),
            ("http://10.0.0.1#@x", "10.0.0.1"),
        ] {
            assert_eq!(host_of(uri), host, "{uri}");
        }
    }
}
