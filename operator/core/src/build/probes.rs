//! What the kubelet asks a pod. Paths and ports are fixed; only rhythms are the user's.

use crds::{TritonServerSpec, parts::probes::Probe as Rhythm};
use k8s_openapi::{
    api::core::v1::{ExecAction, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{pod, tls};

/// Until the start-up set is loaded: up to half an hour. Asked often, for until it is there the pod gets no requests.
pub(super) fn startup(spec: &TritonServerSpec) -> Probe {
    let rhythm = spec.probes.as_ref().and_then(|probes| probes.startup.as_ref());
    of_server(spec, Health::Ready, probe(rhythm, [2, 5, 900]))
}

/// Whether the pod gets requests.
pub(super) fn readiness(spec: &TritonServerSpec) -> Probe {
    let rhythm = spec.probes.as_ref().and_then(|probes| probes.readiness.as_ref());
    of_server(spec, Health::Ready, probe(rhythm, [5, 5, 3]))
}

/// Whether the server is started anew.
pub(super) fn liveness(spec: &TritonServerSpec) -> Probe {
    let rhythm = spec.probes.as_ref().and_then(|probes| probes.liveness.as_ref());
    of_server(spec, Health::Live, probe(rhythm, [10, 5, 3]))
}

/// Whether the agent has brought the start-up set. A download of a day is no reason to begin it again.
pub(super) fn staged() -> Probe {
    of_agent(pod::STAGED_PATH, [1, 5, 24 * 60 * 60])
}

/// Whether the agent is started anew.
pub(super) fn agent_lives() -> Probe {
    of_agent(pod::AGENT_LIVE_PATH, [10, 5, 3])
}

/// What is asked of a server.
#[derive(Clone, Copy)]
enum Health {
    Ready,
    Live,
}

/// A probe of the server. Where it wants certificates of its clients, which the kubelet has none of, the probe asks inside the container,
/// at the control socket.
fn of_server(spec: &TritonServerSpec, health: Health, probe: Probe) -> Probe {
    if spec.tls.as_ref().is_some_and(tls::is_mutual) {
        let word = match health {
            Health::Ready => "ready",
            Health::Live => "live",
        };
        let command = vec!["triton-agent".into(), "health".into(), word.into()];
        return Probe { exec: Some(ExecAction { command: Some(command) }), ..probe };
    }
    let path = match health {
        Health::Ready => pod::READY_PATH,
        Health::Live => pod::LIVE_PATH,
    };
    // whose certificate it is, the kubelet does not look at
    let scheme = spec.tls.as_ref().map(|_| "HTTPS".to_owned());
    Probe { http_get: Some(HTTPGetAction { scheme, ..get(path, "http") }), ..probe }
}

fn of_agent(path: &str, numbers: [i32; 3]) -> Probe {
    Probe { http_get: Some(get(path, "agent")), ..probe(None, numbers) }
}

fn get(path: &str, port: &str) -> HTTPGetAction {
    HTTPGetAction { path: Some(path.into()), port: IntOrString::String(port.into()), ..HTTPGetAction::default() }
}

/// Period and timeout in seconds, then failures in a row.
fn probe(rhythm: Option<&Rhythm>, [period, timeout, failures]: [i32; 3]) -> Probe {
    let rhythm = rhythm.cloned().unwrap_or_default();
    Probe {
        period_seconds: Some(rhythm.period_seconds.unwrap_or(period)),
        timeout_seconds: Some(rhythm.timeout_seconds.unwrap_or(timeout)),
        failure_threshold: Some(rhythm.failure_threshold.unwrap_or(failures)),
        ..Probe::default()
    }
}
