//! What statuses are made of: what became of the steps before, and what is known of the pods.

use std::collections::BTreeMap;

use crds::{TritonModel, TritonModelStatus, TritonServer, TritonServerStatus};
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::Value;

use super::conditions::Claim;
use crate::{
    Compiled, Manifest, Problem,
    build::{Applied, Resources},
    compile::GpuMemory,
    manifest::ModelRollout,
    replica::Replica,
};

/// What became of the steps before.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Manifest and pods are in the cluster, and all else but what was refused.
    Applied(&'a Resources<Applied>),
    /// The spec is wrong: nothing was built, what runs was left alone.
    Refused(&'a [Problem]),
    /// The cluster would not take it.
    Failed {
        /// One word.
        reason: &'a str,
        /// In the words of the API server.
        message: &'a str,
        /// Only a change of the spec can help.
        is_final: bool,
    },
}

/// Everything a status is made of.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The server.
    pub server: &'a TritonServer,
    /// Its models, each with its status so far.
    pub models: &'a [(&'a TritonModel, TritonModelStatus)],
    /// The server's status so far.
    pub before: &'a TritonServerStatus,
    /// What the compile step made of them.
    pub compiled: &'a Compiled,
    /// What became of the steps after it.
    pub outcome: Outcome<'a>,
    /// The manifest published before; it stands where the steps did not come to the next one.
    pub manifest_before: Option<&'a Manifest>,
    /// The Deployment as it was before the steps: for where they did not come to it, and to know what they changed.
    pub deployment_before: Option<&'a Deployment>,
    /// The HorizontalPodAutoscaler or ScaledObject of the server, as the cluster has it.
    pub autoscaler: Option<&'a Value>,
    /// The pods, sorted by name.
    pub replicas: &'a [Replica],
    /// The time, in whole seconds.
    pub now: &'a Time,
}

/// What the statuses of a server and of its models are made from.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    pub(super) host: String,
    /// How addresses of its HTTP ports begin.
    pub(super) scheme: &'static str,
    pub(super) desired: i32,
    pub(super) manifest: &'a Manifest,
    /// The contents of the manifest, by the name of their model.
    pub(super) contents: BTreeMap<&'a str, Content<'a>>,
    /// The manifest is in the cluster.
    pub(super) published: bool,
    pub(super) deployment: Option<&'a Deployment>,
    pub(super) replicas: &'a [Replica],
    pub(super) gpu_memory: Option<GpuMemory>,
    pub(super) readiness: Claim,
    /// Why the steps did not come to the pods.
    pub(super) refusal: Option<String>,
    pub(super) now: &'a Time,
}

/// A content of the manifest.
pub(super) struct Content<'a> {
    pub(super) hash: String,
    /// [`crate::ManifestModel::adopt_word`] of it.
    pub(super) word: String,
    /// It is what the model asks for now. Where the next manifest could not be published, it may be what the model asked for before.
    pub(super) is_wanted: bool,
    /// How far it has come, until it is proven.
    pub(super) rollout: Option<&'a ModelRollout>,
}
