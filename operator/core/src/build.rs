//! Step 3 of a reconcile: everything the cluster shall hold for a server. It cannot fail, asks nobody and gives the same
//! bytes for the same input. One file per object; here is the list of them and the states they pass through.

mod config_map;
mod deployment;
mod disruption_budget;
mod endpoint_slice;
mod horizontal_pod_autoscaler;
mod ingress;
mod monitor;
mod network_policy;
mod parts;
mod placement;
pub(crate) mod pod_template;
mod probes;
mod prometheus_rule;
mod route;
mod scaled_object;
mod service;
mod service_account;
mod volumes;

use std::marker::PhantomData;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use self::config_map::manifest_of;
use crate::{canonical, kind::Kind, labels::UPGRADE, text::joined, validated::Validated};

/// Annotation of everything built: hash of what was applied. While it stands and no owned field was changed, there is
/// nothing to write.
pub const APPLIED_HASH: &str = "triton-operator.dev/applied-hash";

/// Built, and not yet in the cluster.
#[derive(Clone, Copy, Debug)]
pub enum Prepared {}
/// In the cluster, as built.
#[derive(Clone, Copy, Debug)]
pub enum Applied {}

/// Everything made for one server.
#[derive(Clone, Debug)]
pub struct Resources<State> {
    /// Identity of the pods, unless the user names one.
    pub service_account: Option<ServiceAccount>,
    /// The manifest of models.
    pub config_map: ConfigMap,
    /// The pods. Once applied: as the cluster has it, its status included.
    pub deployment: Deployment,
    /// How the pods are reached.
    pub service: Service,
    /// How each pod is reached.
    pub headless_service: Option<Service>,
    /// How the activators are reached while no pod is.
    pub endpoint_slice: Option<EndpointSlice>,
    /// How many pods a drain may take.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// How many pods the load asks for. Plain JSON, for parts of it are passed on as users wrote them.
    pub pod_autoscaler: Option<Value>,
    /// Who may reach the pods.
    pub network_policy: Option<NetworkPolicy>,
    /// How an ingress controller leads to the pods.
    pub ingress: Option<Ingress>,
    /// Objects of optional kinds: plain JSON, so that no crate follows the versions of other projects.
    pub optional: Vec<(Kind, Value)>,
    /// What is not quite as asked for, in sentences.
    pub remarks: Vec<String>,
    /// Once applied: what the API server would not take, of objects beside manifest and pods.
    pub refusal: Option<Refusal>,
    state: PhantomData<State>,
}

/// Why the API server would not take an object, or must not be asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word.
    pub reason: &'static str,
    /// In the words of the API server.
    pub message: String,
    /// Only a change of the spec can help.
    pub is_final: bool,
}

impl Refusal {
    /// This one and another one: the reason is that of the first.
    pub fn and(self, other: Self) -> Self {
        let is_final = self.is_final || other.is_final;
        Self { reason: self.reason, message: joined([self.message, other.message]), is_final }
    }
}

/// One object as it is sent to the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Which kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All of it that is ours, [`APPLIED_HASH`] included.
    pub value: Value,
}

/// Builds everything for a server.
pub fn build(server: &Validated<'_>) -> Resources<Prepared> {
    Resources {
        service_account: service_account::build(server),
        config_map: config_map::build(server),
        deployment: deployment::build(server),
        service: service::build(server),
        headless_service: service::build_headless(server),
        endpoint_slice: endpoint_slice::build(server),
        disruption_budget: disruption_budget::build(server),
        pod_autoscaler: horizontal_pod_autoscaler::build(server),
        network_policy: network_policy::build(server),
        ingress: ingress::build(server),
        optional: optional(server),
        remarks: server.remarks.iter().cloned().chain(outdated_template(server)).collect(),
        refusal: None,
        state: PhantomData,
    }
}

/// The objects of optional kinds that are made: one line for each kind.
fn optional(server: &Validated<'_>) -> Vec<(Kind, Value)> {
    type Build = fn(&Validated<'_>) -> Value;
    let build: [(Kind, Build); 6] = [
        (Kind::ServiceMonitor, monitor::of_service),
        (Kind::PodMonitor, monitor::of_pods),
        (Kind::PrometheusRule, prometheus_rule::build),
        (Kind::HttpRoute, route::http),
        (Kind::GrpcRoute, route::grpc),
        (Kind::ScaledObject, scaled_object::build),
    ];
    let made = build.into_iter().filter(|(kind, _)| server.optional.makes(*kind));
    made.map(|(kind, build)| (kind, build(server))).collect()
}

/// What to say of pods that keep a template which would be built otherwise now.
fn outdated_template(server: &Validated<'_>) -> Option<String> {
    let kept = &server.kept.as_ref()?.template;
    (*kept != pod_template::build(server)).then(|| {
        format!("its pods are as an earlier operator built them (annotation {UPGRADE}: \"true\" replaces them)")
    })
}

impl Resources<Prepared> {
    /// The objects in the order of applying.
    pub fn objects(&self) -> Vec<Object> {
        let mut objects = vec![];
        objects.extend(self.service_account.as_ref().map(|it| object(Kind::ServiceAccount, it)));
        objects.push(object(Kind::ConfigMap, &self.config_map));
        objects.push(object(Kind::Deployment, &self.deployment));
        objects.push(object(Kind::Service, &self.service));
        objects.extend(self.headless_service.as_ref().map(|it| object(Kind::Service, it)));
        objects.extend(self.endpoint_slice.as_ref().map(|it| object(Kind::EndpointSlice, it)));
        objects.extend(self.disruption_budget.as_ref().map(|it| object(Kind::PodDisruptionBudget, it)));
        objects.extend(self.pod_autoscaler.as_ref().map(|it| object(Kind::HorizontalPodAutoscaler, it)));
        objects.extend(self.network_policy.as_ref().map(|it| object(Kind::NetworkPolicy, it)));
        objects.extend(self.ingress.as_ref().map(|it| object(Kind::Ingress, it)));
        objects.extend(self.optional.iter().map(|(kind, it)| object(*kind, it)));
        objects
    }

    /// The same, now that all of it is in the cluster but what was refused; `deployment` is what the cluster made of ours.
    pub fn applied(self, deployment: Deployment, refusal: Option<Refusal>) -> Resources<Applied> {
        let Self {
            service_account,
            config_map,
            service,
            headless_service,
            endpoint_slice,
            disruption_budget,
            pod_autoscaler,
            network_policy,
            ingress,
            optional,
            remarks,
            ..
        } = self;
        Resources {
            service_account,
            config_map,
            deployment,
            service,
            headless_service,
            endpoint_slice,
            disruption_budget,
            pod_autoscaler,
            network_policy,
            ingress,
            optional,
            remarks,
            refusal,
            state: PhantomData,
        }
    }
}

fn object(kind: Kind, built: &impl Serialize) -> Object {
    let mut value = serde_json::to_value(built).expect("what is built is plain data");
    let hash = hex::encode(Sha256::digest(canonical::to_string(&value)));
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    value["metadata"]["annotations"][APPLIED_HASH] = json!(hash);
    Object { kind, name, value }
}
