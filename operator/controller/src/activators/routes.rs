//! What activators are told: the port of each server that may rest, and where its ready pods are. Made from what is watched, so that
//! every operator gives the same answer, whichever leads. Nothing in a namespace of users' decides where else requests go: a slice
//! counts only under the name and with the owner that the operator gives it, its addresses do not count at all, and pods are those
//! of the server itself.

use std::{collections::HashSet, convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use crds::{TritonServer, parts::condition};
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DynamicObject};
use operator_core::{
    activator::{ROUTES_PATH, Route, Routes, SERVER_PORTS},
    kind::Kind,
    names,
    replica::{self, Replica},
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    long_poll::Waits,
    queue::{Queue, ServerKey},
    watches::Watches,
};

/// How long a caller may take to send its request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Callers that may wait at the same time: there are few activators.
const WAITS: usize = 64;
/// Connections at the same time.
const CONNECTIONS: usize = 128;
/// Longest sentence about why a server has no pod.
const WHY: usize = 1000;

/// Answers activators until it is dropped.
pub(crate) async fn serve(listener: TcpListener, watches: Arc<Watches>, queue: Queue) {
    let (waits, connections) = (Arc::new(Waits::new(WAITS)), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await; // out of files: those that are open will be closed
            continue;
        };
        let Ok(place) = Arc::clone(&connections).try_acquire_owned() else { continue };
        let (waits, watches, queue) = (Arc::clone(&waits), Arc::clone(&watches), queue.clone());
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request: Request<Incoming>| {
                let (waits, watches, queue) = (Arc::clone(&waits), Arc::clone(&watches), queue.clone());
                async move { Ok::<_, Infallible>(answer(&request, &waits, &watches, &queue).await) }
            });
            let server = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            let _ = server.await; // a caller that goes away is none of our business
        });
    }
}

async fn answer(request: &Request<Incoming>, waits: &Waits, watches: &Watches, queue: &Queue) -> Response<Full<Bytes>> {
    let refuse = |status, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, ROUTES_PATH) => {
            let document = || serde_json::to_vec(&routes(watches)).unwrap_or_default();
            waits.answer(request.headers(), document, queue.pushes()).await
        }
        (&Method::GET, _) => refuse(StatusCode::NOT_FOUND, "there is /routes\n"),
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n"),
    }
}

/// The ports that servers have by their slices, by uid, older slices first.
pub(crate) fn ports(watches: &Watches) -> Vec<(String, u16)> {
    let mut slices: Vec<_> = watches.all(Kind::EndpointSlice).into_iter().filter_map(|slice| Way::of(&slice)).collect();
    slices.sort();
    slices.into_iter().map(|way| (way.uid, way.port)).collect()
}

/// Where the requests of all servers go.
fn routes(watches: &Watches) -> Routes {
    let mut ways: Vec<_> = watches.all(Kind::EndpointSlice).into_iter().filter_map(|slice| Way::of(&slice)).collect();
    ways.sort();
    let (mut ports, mut routes) = (HashSet::new(), Routes::default());
    for way in ways {
        let key = ServerKey { namespace: way.namespace.clone(), name: way.name.clone() };
        let Some(found) = watches.server(&key) else { continue };
        let Ok(server) = &found.0 else { continue };
        if server.uid().as_deref() != Some(&way.uid) || !ports.insert(way.port) {
            continue;
        }
        routes.servers.insert(way.uid.clone(), way.route(server, &watches.pods(&key)));
    }
    routes
}

/// What a slice says, older ones first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    created: Option<String>,
    uid: String,
    namespace: String,
    name: String,
    port: u16,
    is_led: bool,
}

impl Way {
    /// The way of the server that a slice was made for; none if it is not of that form.
    fn of(slice: &DynamicObject) -> Option<Self> {
        let owner = slice.owner_references().iter().find(|owner| owner.kind == "TritonServer")?;
        if slice.name_any() != names::activator_slice(&owner.name) {
            return None;
        }
        let port = slice.data.pointer("/ports/0/port").and_then(Value::as_u64);
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| SERVER_PORTS.contains(port))?;
        Some(Self {
            created: slice.creation_timestamp().map(|time| time.0.to_string()),
            uid: owner.uid.clone(),
            namespace: slice.namespace()?,
            name: owner.name.clone(),
            port,
            is_led: is_led(slice),
        })
    }

    fn route(self, server: &TritonServer, pods: &[Arc<Pod>]) -> Route {
        let ready = pods.iter().filter(|pod| Replica::of(pod).is_ready && !replica::is_leaving(pod));
        let mut pods: Vec<IpAddr> =
            ready.filter_map(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()).collect();
        pods.sort_unstable();
        let ready = server.status.as_ref().and_then(|status| condition::find(&status.conditions, "Ready"));
        let why = match pods.is_empty() {
            true => ready.map(|ready| ready.message.chars().take(WHY).collect()).unwrap_or_default(),
            false => String::new(),
        };
        Route { namespace: self.namespace, name: self.name, port: self.port, is_led_here: self.is_led, pods, why }
    }
}

/// Whether a slice leads anywhere.
pub(crate) fn is_led(slice: &DynamicObject) -> bool {
    slice.data.get("endpoints").and_then(Value::as_array).is_some_and(|endpoints| !endpoints.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, owner: &str, port: i64, endpoints: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": "ml",
                "ownerReferences": [{ "apiVersion": "x", "kind": owner, "name": "vision", "uid": "u1" }],
            },
            "endpoints": endpoints, "ports": [{ "name": "http", "port": port }, { "name": "grpc", "port": port }],
        }))
        .unwrap()
    }

    #[test]
    fn only_the_slice_that_the_operator_makes_is_a_way() {
        let way = |name, owner, port| Way::of(&slice(name, owner, port, json!([]))).map(|way| way.port);
        assert_eq!(way("vision-activator", "TritonServer", 20001), Some(20001));
        assert_eq!(way("vision-other", "TritonServer", 20001), None);
        assert_eq!(way("vision-activator", "Service", 20001), None);
        for port in [22, 8000, -1, 30000, 85537] {
            assert_eq!(way("vision-activator", "TritonServer", port), None, "{port}");
        }
        let led = Way::of(&slice("vision-activator", "TritonServer", 20001, json!([{ "addresses": ["10.0.0.1"] }])));
        assert!(led.unwrap().is_led);
        assert!(!is_led(&slice("vision-activator", "TritonServer", 20001, Value::Null)));
    }

    #[test]
    fn requests_go_to_ready_pods_and_to_nothing_that_a_slice_names() {
        let way =
            Way::of(&slice("vision-activator", "TritonServer", 20001, json!([{ "addresses": ["6.6.6.6"] }]))).unwrap();
        let pod = |ip: &str, ready: &str, deleted: Option<&str>| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": { "name": ip, "deletionTimestamp": deleted },
                    "status": { "podIP": ip, "conditions": [{ "type": "Ready", "status": ready }] },
                }))
                .unwrap(),
            )
        };
        let server: TritonServer = serde_json::from_value(json!({
            "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonServer",
            "metadata": { "name": "vision", "namespace": "ml", "uid": "u1" }, "spec": {},
            "status": { "conditions": [{
                "type": "Ready", "status": "False", "reason": "ImagePullBackOff", "message": "no such image",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }] },
        }))
        .unwrap();
        let pods = [
            pod("10.0.0.3", "True", None),
            pod("10.0.0.2", "True", None),
            pod("10.0.0.4", "False", None),
            pod("10.0.0.5", "True", Some("2026-01-01T00:00:00Z")),
            pod("junk", "True", None),
        ];
        let route = way.clone().route(&server, &pods);
        assert_eq!(route.pods, ["10.0.0.2".parse::<IpAddr>().unwrap(), "10.0.0.3".parse().unwrap()]);
        assert_eq!((route.why.as_str(), route.is_led_here), ("", true));
        assert_eq!(way.route(&server, &pods[2..]).why, "no such image");
    }
}
