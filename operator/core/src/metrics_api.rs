//! The API group `custom.metrics.k8s.io` as the operator serves it: which paths there are, the documents of its discovery, and how values
//! and errors are written. Pure; who may ask is decided by the API server.
//!
//! Source: the API group's published types, and "Aggregated APIs" of Kubernetes.

use k8s_openapi::jiff::Timestamp;
use kube_core::Selector;
use serde_json::{Value, json};

use crate::{
    load::{Metric, Models},
    selector::{self, SelectorError},
};

/// The API group.
pub const GROUP: &str = "custom.metrics.k8s.io";
/// The version of it that is served.
pub const VERSION: &str = "v1beta2";
/// Name of the object that leads the API server here.
pub const API_SERVICE: &str = "v1beta2.custom.metrics.k8s.io";

/// What is asked.
#[derive(Debug)]
pub enum Ask {
    /// Whether the process lives.
    Health,
    /// A document that is always the same.
    Document(Value),
    /// Values of pods.
    Values(Box<Values>),
}

/// Values that are asked for.
#[derive(Debug)]
pub struct Values {
    /// Namespace of the pods.
    pub namespace: String,
    /// The one pod that is meant; none: all that the labels select.
    pub pod: Option<String>,
    /// Labels of the pods.
    pub labels: Selector,
    /// The measure.
    pub metric: Metric,
    /// The models that count, as the selector of the metric names them.
    pub models: Models,
    /// That selector as text.
    pub metric_selector: String,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is nothing at that path.
    #[error(
        "the server could not find the requested resource: there are values of pods under /apis/{GROUP}/{VERSION}/namespaces/NAMESPACE/pods/NAME/METRIC"
    )]
    NoSuchPath,
    /// There is no such metric.
    #[error(
        "there is no metric '{0}' of pods: there are triton_queue_latency_us, triton_queued_requests, triton_pending_requests and triton_saturation_percent"
    )]
    NoSuchMetric(String),
    /// A selector is malformed.
    #[error("{parameter}: {error}")]
    Selector {
        /// The parameter of the URL.
        parameter: &'static str,
        /// What is wrong with it.
        error: SelectorError,
    },
}

impl AskError {
    /// The HTTP status, and the reason in the words of Kubernetes.
    pub fn status(&self) -> (u16, &'static str) {
        match self {
            Self::NoSuchPath | Self::NoSuchMetric(_) => (404, "NotFound"),
            Self::Selector { .. } => (400, "BadRequest"),
        }
    }
}

/// Reads a path and its query.
pub fn read(path: &str, query: Option<&str>) -> Result<Ask, AskError> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    Ok(match parts[..] {
        ["healthz" | "livez" | "readyz"] => Ask::Health,
        ["apis"] => Ask::Document(groups()),
        ["apis", GROUP] => Ask::Document(group()),
        ["apis", GROUP, VERSION] => Ask::Document(resources()),
        ["apis", GROUP, VERSION, "namespaces", namespace, "pods", pod, metric] => {
            Ask::Values(Box::new(values(namespace, pod, metric, query.unwrap_or_default())?))
        }
        _ => return Err(AskError::NoSuchPath),
    })
}

fn values(namespace: &str, pod: &str, metric: &str, query: &str) -> Result<Values, AskError> {
    let pod = decode(pod);
    let (mut labels, mut metric_selector) = (String::new(), String::new());
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("labelSelector", text)) => labels = decode(text),
            Some(("metricLabelSelector", text)) => metric_selector = decode(text),
            _ => {} // `pretty`, `timeout` and the like
        }
    }
    let parse = |parameter, text: &str| selector::parse(text).map_err(|error| AskError::Selector { parameter, error });
    let metric = Metric::named(metric).ok_or_else(|| AskError::NoSuchMetric(metric.chars().take(100).collect()))?;
    Ok(Values {
        namespace: decode(namespace),
        pod: (pod != "*").then_some(pod),
        labels: parse("labelSelector", &labels)?,
        metric,
        models: Models::Selected(parse("metricLabelSelector", &metric_selector)?),
        metric_selector,
    })
}

/// Undoes the percent-encoding of a part of a URL. What is none stays as it is, and so does not lead anywhere.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let encoded = (first == b'%').then(|| after.get(..2).and_then(|hex| hex::decode(hex).ok())).flatten();
        match encoded {
            Some(byte) => {
                bytes.extend(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn group_version() -> String {
    format!("{GROUP}/{VERSION}")
}

fn group() -> Value {
    let version = json!({ "groupVersion": group_version(), "version": VERSION });
    json!({ "kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version })
}

fn groups() -> Value {
    let mut group = group();
    if let Some(fields) = group.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group] })
}

fn resources() -> Value {
    let resources: Vec<Value> = Metric::ALL
        .into_iter()
        .map(|metric| {
            json!({ "name": format!("pods/{}", metric.name()), "singularName": "", "namespaced": true,
                    "kind": "MetricValueList", "verbs": ["get"] })
        })
        .collect();
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(), "resources": resources })
}

/// The value of one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodValue {
    /// Name of the pod.
    pub pod: String,
    /// In the unit of the metric.
    pub value: f64,
    /// When the pod was last looked at.
    pub at: Timestamp,
    /// Over how many seconds the value was taken.
    pub window_seconds: u64,
}

impl Values {
    /// These values, as an answer.
    pub fn list(&self, values: &[PodValue]) -> Value {
        let mut metric = json!({ "name": self.metric.name() });
        if !self.metric_selector.is_empty()
            && let Ok(selector) = selector::parse(&self.metric_selector)
        {
            metric["selector"] = json!(k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector::from(selector));
        }
        let items: Vec<Value> = values
            .iter()
            .map(|one| {
                json!({
                    "describedObject": { "kind": "Pod", "namespace": self.namespace, "name": one.pod, "apiVersion": "/v1" },
                    "metric": metric,
                    "timestamp": one.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                    "windowSeconds": one.window_seconds,
                    "value": quantity(one.value),
                })
            })
            .collect();
        json!({ "kind": "MetricValueList", "apiVersion": group_version(), "metadata": {}, "items": items })
    }
}

/// Largest value that is written: a thousandth of it still fits into 64 bits.
const LARGEST: f64 = 9e15;

/// A value as a quantity of Kubernetes, to a thousandth.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, and NaN becomes 0")]
pub fn quantity(value: f64) -> String {
    let thousandths = (value.min(LARGEST) * 1000.0).round() as u64;
    match thousandths % 1000 {
        0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    }
}

/// An error, as Kubernetes writes it.
pub fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
            "code": code })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(path: &str, query: &str) -> Values {
        match read(path, Some(query)).unwrap() {
            Ask::Values(values) => *values,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_are_asked_for_as_a_horizontal_pod_autoscaler_asks() {
        let path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/%2A/triton_queue_latency_us";
        let query = "labelSelector=app.kubernetes.io%2Finstance%3Dvision%2Capp+in+%28a%2Cb%29&metricLabelSelector=model%3Dresnet";
        let values = asked(path, query);
        assert_eq!(
            (values.namespace.as_str(), values.pod.as_deref(), values.metric),
            ("ml", None, Metric::QueueLatency)
        );
        assert_eq!(values.labels.to_string(), "app.kubernetes.io/instance=vision,app in (a,b)");
        assert!(values.models.select("resnet") && !values.models.select("bert"));
        let one = asked(&path.replace("%2A", "vision-1"), "");
        assert_eq!(one.pod.as_deref(), Some("vision-1"));
        assert!(one.models.are_all() && one.labels.selects_all());
    }

    #[test]
    fn an_answer_has_the_form_that_autoscalers_read() {
        let values = asked(
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/*/triton_saturation_percent",
            "metricLabelSelector=model=a",
        );
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let list = values.list(&[PodValue { pod: "vision-1".into(), value: 37.5, at, window_seconds: 15 }]);
        let expected = json!({
            "kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "metadata": {},
            "items": [{
                "describedObject": { "kind": "Pod", "namespace": "ml", "name": "vision-1", "apiVersion": "/v1" },
                "metric": { "name": "triton_saturation_percent", "selector": { "matchLabels": { "model": "a" } } },
                "timestamp": "2023-11-14T22:13:20Z", "windowSeconds": 15, "value": "37500m",
            }],
        });
        assert_eq!(list, expected);
    }

    #[test]
    fn discovery_names_every_metric() {
        let document = |path: &str| match read(path, None).unwrap() {
            Ask::Document(document) => document,
            other => panic!("{other:?}"),
        };
        assert_eq!(document("/apis")["groups"][0]["preferredVersion"]["groupVersion"], "custom.metrics.k8s.io/v1beta2");
        assert_eq!(document("/apis/custom.metrics.k8s.io/")["kind"], "APIGroup");
        let resources = document("/apis/custom.metrics.k8s.io/v1beta2");
        assert_eq!(resources["resources"].as_array().unwrap().len(), Metric::ALL.len());
        assert_eq!(resources["resources"][0]["name"], "pods/triton_queue_latency_us");
        assert!(matches!(read("/healthz", None), Ok(Ask::Health)));
        assert_eq!(API_SERVICE, format!("{VERSION}.{GROUP}"));
    }

    #[test]
    fn other_questions_are_refused() {
        let values = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/*";
        for path in ["/", "/apis/apps", "/apis/custom.metrics.k8s.io/v1", values, "/openapi/v2", "/%2e%2e/apis"] {
            assert_eq!(read(path, None).unwrap_err().status(), (404, "NotFound"), "{path}");
        }
        let error = read(&format!("{values}/cpu"), None).unwrap_err();
        assert!(error.to_string().starts_with("there is no metric 'cpu' of pods: there are triton_queue_latency_us"));
        for query in ["labelSelector=%2C", "metricLabelSelector=a%3E5", "labelSelector=%zz"] {
            let error = read(&format!("{values}/triton_queued_requests"), Some(query)).unwrap_err();
            assert_eq!(error.status(), (400, "BadRequest"), "{query}: {error}");
        }
    }

    #[test]
    fn quantities_are_whole_or_thousandths() {
        let of = |value| quantity(value);
        assert_eq!([of(0.0), of(3.0), of(0.5), of(1234.5678), of(0.0001)], ["0", "3", "500m", "1234568m", "0"]);
        assert_eq!([of(f64::NAN), of(-1.0), of(1e30)], ["9000000000000000", "0", "9000000000000000"]);
    }

    proptest! {
        #[test]
        fn no_question_upsets_it(path in "(?s).{0,60}", query in "(?s).{0,60}") {
            let _ = read(&path, Some(&query));
            let _ = read(&format!("/apis/custom.metrics.k8s.io/v1beta2/namespaces/{path}"), Some(&query));
            let values = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/*/triton_queued_requests";
            let _ = read(values, Some(&format!("labelSelector={query}")));
        }
    }
}
