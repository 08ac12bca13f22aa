//! Kinds that come and go, before an API server that knows and allows what a test says.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use kube::{Client, client::Body};
use operator_core::{kind::Kind, optional::Availability};
use serde_json::{Value, json};

use super::Watches;
use crate::{metrics::Metrics, queue::Queue};

/// What the API server knows, and does not let anybody list.
#[derive(Clone, Debug, Default)]
struct ApiServer(Arc<Mutex<(BTreeSet<&'static str>, BTreeSet<&'static str>)>>);

impl ApiServer {
    fn set(&self, known: &[&'static str], denied: &[&'static str]) {
        let mut both = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *both = (known.iter().copied().collect(), denied.iter().copied().collect());
    }

    fn answer(&self, path: &str, query: &str) -> (u16, Value) {
        let refused = |code: u16| {
            (code, json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "", "code": code }))
        };
        let (known, denied) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["apis", group, "v1"] => {
                let of_group = |name: &&&str| {
                    Kind::ALL.iter().any(|kind| {
                        let resource = kind.api_resource();
                        resource.plural == ***name && resource.group == group
                    })
                };
                let resources: Vec<Value> = known
                    .iter()
                    .filter(of_group)
                    .map(|name| json!({ "name": name, "singularName": "", "namespaced": true, "kind": "X", "verbs": [] }))
                    .collect();
                if resources.is_empty() {
                    return refused(404);
                }
                (
                    200,
                    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/v1"), "resources": resources }),
                )
            }
            [.., plural] if denied.contains(plural) => refused(403),
            _ if query.contains("watch=true") => (200, Value::Null),
            _ => (
                200,
                json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": [] }),
            ),
        }
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
            let (code, body) = server.answer(&path, &query);
            async move {
                if body.is_null() {
                    std::future::pending::<()>().await; // a watch of which nothing comes
                }
                let body = Body::from(body.to_string().into_bytes());
                Ok::<_, Infallible>(hyper::Response::builder().status(code).body(body).expect("a status that there is"))
            }
        });
        Client::new(service, "default")
    }
}

/// What is known, what is denied, what comes of it.
type Round = (&'static [&'static str], &'static [&'static str], &'static [(Kind, Availability)]);

#[tokio::test]
async fn kinds_are_watched_while_they_are_known_and_allowed_however_often_that_changes() {
    let api = ApiServer::default();
    let (queue, _requests) = Queue::new();
    let watches = Watches::start(&api.client(), &[], &queue, &Arc::new(Metrics::new()), &Arc::default());
    let rounds: [Round; 5] = [
        (&[], &[], &[]),
        (
            &["servicemonitors", "podmonitors", "httproutes"],
            &["podmonitors"],
            &[
                (Kind::ServiceMonitor, Availability::Known),
                (Kind::PodMonitor, Availability::Denied),
                (Kind::HttpRoute, Availability::Known),
            ],
        ),
        // the right is given, another kind goes
        (
            &["servicemonitors", "podmonitors"],
            &[],
            &[(Kind::ServiceMonitor, Availability::Known), (Kind::PodMonitor, Availability::Known)],
        ),
        (&[], &[], &[]),
        (&["servicemonitors"], &[], &[(Kind::ServiceMonitor, Availability::Known)]),
    ];
    for (known, denied, expect) in rounds {
        api.set(known, denied);
        watches.look_for_optional_kinds().await;
        assert_eq!(watches.optional_kinds("ml"), expect.iter().copied().collect(), "{known:?}, denied {denied:?}");
        for (kind, availability) in expect {
            let is_watched = watches.store(*kind, "ml").is_some();
            assert_eq!(is_watched, *availability == Availability::Known, "{kind:?}");
        }
    }
}
