//! What the kubelet asks a pod. Paths and ports are fixed; only rhythms are the user's.

use crds::{TritonServerSpec, parts::probes::Probe as Rhythm};
use k8s_openapi::{
    api::core::v1::{HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::pod;

/// Until the start-up set is loaded: up to half an hour. Asked often, for until it is there the pod gets no requests.
pub(super) fn startup(spec: &TritonServerSpec) -> Probe {
    let rhythm = spec.probes.as_ref().and_then(|probes| probes.startup.as_ref());
    probe(pod::READY_PATH, "http", rhythm, [2, 5, 900])
}

/// Whether the pod gets requests.
pub(super) fn readiness(spec: &TritonServerSpec) -> Probe {
    let rhythm = spec.probes.as_ref().and_then(|probes| probes.readiness.as_ref());
    probe(pod::READY_PATH, "http", rhythm, [5, 5, 3])
}

/// Whether the server is started anew.
pub(super) fn liveness(spec: &TritonServerSpec) -> Probe {
    let rhythm = spec.probes.as_ref().and_then(|probes| probes.liveness.as_ref());
    probe(pod::LIVE_PATH, "http", rhythm, [10, 5, 3])
}

/// Whether the agent has brought the start-up set. A download of a day is no reason to begin it again.
pub(super) fn staged() -> Probe {
    probe(pod::STAGED_PATH, "agent", None, [1, 5, 24 * 60 * 60])
}

/// Whether the agent is started anew.
pub(super) fn agent_lives() -> Probe {
    probe(pod::AGENT_LIVE_PATH, "agent", None, [10, 5, 3])
}

/// Period and timeout in seconds, then failures in a row.
fn probe(path: &str, port: &str, rhythm: Option<&Rhythm>, [period, timeout, failures]: [i32; 3]) -> Probe {
    let rhythm = rhythm.cloned().unwrap_or_default();
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(port.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(rhythm.period_seconds.unwrap_or(period)),
        timeout_seconds: Some(rhythm.timeout_seconds.unwrap_or(timeout)),
        failure_threshold: Some(rhythm.failure_threshold.unwrap_or(failures)),
        ..Probe::default()
    }
}
