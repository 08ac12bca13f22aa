//! A server that can be built. [`crate::decide`] makes it, [`crate::build`] reads it.

use crds::TritonServer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::{
    Manifest, autoscaling::Autoscale, defaults::ServerSettings, mounts::Mounts, optional::Choice, pinned::Kept,
    replicas, scale_to_zero::Way, surge::RollingUpdate,
};

/// A server that can be built, every default decided.
#[derive(Clone, Debug)]
pub struct Validated<'a> {
    /// The resource itself, for what is passed on as it stands.
    pub server: &'a TritonServer,
    /// Namespace of everything built.
    pub namespace: &'a str,
    /// Name of the server.
    pub name: &'a str,
    /// Owner of everything built.
    pub owner: OwnerReference,
    /// What the pods are to serve.
    pub manifest: &'a Manifest,
    /// Image of the pods, if their template is built anew.
    pub image: String,
    /// The template the server keeps: it was built for the same.
    pub(crate) kept: Option<Kept>,
    /// Settings of the server process.
    pub settings: ServerSettings,
    /// Replicas written into the Deployment, if any.
    pub replicas: replicas::Decision,
    /// How it is scaled; `None` where the load does not decide.
    pub autoscale: Option<Autoscale>,
    /// Host and port at which KEDA asks the operator for the load of a server.
    pub scaler_address: Option<String>,
    /// Replicas there will be, as far as can be said.
    pub replicas_expected: i32,
    /// How its pods are replaced.
    pub rolling_update: RollingUpdate,
    /// What the pods mount for their models.
    pub mounts: Mounts,
    /// Namespace from which the operator asks the pods, if it is one.
    pub operator_namespace: Option<String>,
    /// Which objects are made of kinds that the cluster may not have.
    pub optional: Choice,
    /// The way to the activators, for a server that may rest.
    pub activators: Option<Way>,
    /// What is not quite as asked for, in sentences.
    pub remarks: Vec<String>,
}
