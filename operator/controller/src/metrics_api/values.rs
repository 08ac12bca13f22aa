//! Which pods are asked about, and what is known of them.

use operator_core::{
    load::ServerLoad,
    metrics_api::{PodValue, Values},
};

use crate::{queue::ServerKey, scrape::Loads, watches::Watches};

/// Pods of servers, as the operator knows them.
pub(crate) trait Pods: Send + Sync + 'static {
    /// The pods that are meant, each with its server.
    fn find(&self, asked: &Values) -> Vec<(ServerKey, String)>;
}

impl Pods for Watches {
    fn find(&self, asked: &Values) -> Vec<(ServerKey, String)> {
        self.pods_asked_about(asked)
    }
}

/// What is known of the pods that are asked about.
///
/// Errors: a sentence why nothing is known of any of them; autoscalers show it to their users.
pub(super) fn find(asked: &Values, loads: &Loads, pods: &dyn Pods) -> Result<Vec<PodValue>, String> {
    let mut pods = pods.find(asked);
    pods.sort();
    let what = || match &asked.pod {
        Some(pod) => format!("pod {pod} in namespace {}", asked.namespace),
        None => format!("pods with labels '{}' in namespace {}", asked.labels, asked.namespace),
    };
    if pods.is_empty() {
        return Err(format!(
            "there is no value of {} for {}: no TritonServer has such pods",
            asked.metric.name(),
            what()
        ));
    }
    let mut found = vec![];
    let mut why = None;
    for of_one in pods.chunk_by(|(one, _), (other, _)| one == other) {
        let server = &of_one[0].0;
        loads.want(server);
        let Some(load) = loads.of(server) else {
            why.get_or_insert_with(|| format!("the replicas of TritonServer {server} have not been asked yet"));
            continue;
        };
        for (_, pod) in of_one {
            match load.pods.get(pod).and_then(|known| Some((known, known.value(asked.metric, &asked.models)?))) {
                Some((known, value)) => found.push(PodValue {
                    pod: pod.clone(),
                    value,
                    at: loads.clock(known.at),
                    window_seconds: known.window.as_secs().max(1),
                }),
                None => {
                    why.get_or_insert_with(|| reason(&load, pod));
                }
            }
        }
    }
    match why {
        Some(why) if found.is_empty() => {
            Err(format!("there is no value of {} for {}: {why}", asked.metric.name(), what()))
        }
        _ => Ok(found),
    }
}

/// Why nothing is known of a pod.
fn reason(load: &ServerLoad, pod: &str) -> String {
    match (load.silent.get(pod), load.pods.contains_key(pod)) {
        (Some(why), _) => format!("pod {pod}: {why}"),
        (None, true) => format!("pod {pod} has none of the models that the selector of the metric names"),
        (None, false) => format!("pod {pod} is not ready"),
    }
}
