//! The kinds of objects made for a server: how the API server names each, who brings it to a cluster, and what it is nothing without.

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
};
use kube_core::{ApiResource, GroupVersionKind};

/// The kinds of objects made for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Identity of the pods.
    ServiceAccount,
    /// The manifest of models.
    ConfigMap,
    /// The pods.
    Deployment,
    /// How the pods are reached.
    Service,
    /// How the activators are reached while no pod is.
    EndpointSlice,
    /// How many pods a drain may take.
    PodDisruptionBudget,
    /// How many pods the load asks for.
    HorizontalPodAutoscaler,
    /// Who may reach the pods.
    NetworkPolicy,
    /// How an ingress controller leads to the pods.
    Ingress,
    /// How Prometheus finds the pods, through their Service.
    ServiceMonitor,
    /// How Prometheus finds the pods, by their labels.
    PodMonitor,
    /// What Prometheus computes of them.
    PrometheusRule,
    /// How a Gateway leads to their HTTP port.
    HttpRoute,
    /// How a Gateway leads to their gRPC port.
    GrpcRoute,
    /// How KEDA scales the pods.
    ScaledObject,
}

impl Kind {
    /// Every kind, in the order of applying. The manifest comes before the pods that mount it.
    pub const ALL: [Self; 15] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Deployment,
        Self::Service,
        Self::EndpointSlice,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
        Self::NetworkPolicy,
        Self::Ingress,
        Self::ServiceMonitor,
        Self::PodMonitor,
        Self::PrometheusRule,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::ScaledObject,
    ];

    /// How the API server names it.
    pub fn api_resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::EndpointSlice => ApiResource::erase::<EndpointSlice>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::HorizontalPodAutoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::Ingress => ApiResource::erase::<Ingress>(&()),
            Self::ServiceMonitor => monitoring("ServiceMonitor", "servicemonitors"),
            Self::PodMonitor => monitoring("PodMonitor", "podmonitors"),
            Self::PrometheusRule => monitoring("PrometheusRule", "prometheusrules"),
            Self::HttpRoute => gateway("HTTPRoute", "httproutes"),
            Self::GrpcRoute => gateway("GRPCRoute", "grpcroutes"),
            Self::ScaledObject => keda("ScaledObject", "scaledobjects"),
        }
    }

    /// Who brings it to a cluster, if not Kubernetes itself.
    pub fn provider(self) -> Option<&'static str> {
        match self {
            Self::ServiceMonitor | Self::PodMonitor | Self::PrometheusRule => Some("the Prometheus operator"),
            Self::HttpRoute | Self::GrpcRoute => Some("the Gateway API"),
            Self::ScaledObject => Some("KEDA"),
            _ => None,
        }
    }

    /// The kinds that an object of this one is nothing without: it runs with one of that kind, changes it or leads to it. While such an
    /// object of the server is not there as it should be, or is somebody else's, this one is put back where it was changed, and neither
    /// made nor updated.
    pub fn relies_on(self) -> &'static [Self] {
        match self {
            Self::Deployment => &[Self::ServiceAccount, Self::ConfigMap],
            Self::HorizontalPodAutoscaler | Self::ScaledObject => &[Self::Deployment],
            Self::EndpointSlice | Self::Ingress | Self::HttpRoute | Self::GrpcRoute => &[Self::Service],
            _ => &[],
        }
    }

    /// Whether clusters without it are to be expected.
    pub fn is_optional(self) -> bool {
        self.provider().is_some()
    }
}

fn monitoring(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind), plural)
}

fn gateway(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind), plural)
}

fn keda(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("keda.sh", "v1alpha1", kind), plural)
}
