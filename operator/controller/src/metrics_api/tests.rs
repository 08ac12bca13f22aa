use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use operator_core::metrics_api::Values;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use serde_json::json;
use tokio_rustls::TlsConnector;

use super::*;
use crate::{metrics::Metrics, queue::ServerKey, scrape};

const SERVICE: &str = "metrics.triton.svc";
const METRIC: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/%2A/triton_pending_requests";

/// One pod of `ml/vision`.
struct OnePod;

impl Pods for OnePod {
    fn find(&self, asked: &Values) -> Vec<(ServerKey, String)> {
        let is_meant = asked.namespace == "ml" && asked.pod.as_deref().is_none_or(|pod| pod == "a");
        let key = ServerKey { namespace: "ml".into(), name: "vision".into() };
        is_meant.then_some((key, "a".to_owned())).into_iter().collect()
    }
}

/// An authority of front proxies.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key of somebody of that name.
    fn sign(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.0).unwrap().der().clone();
        (certificate, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    fn trust(&self) -> Arc<FrontProxy> {
        let data = [
            ("requestheader-client-ca-file", self.0.pem()),
            ("requestheader-allowed-names", "[\"front-proxy-client\"]".to_owned()),
            ("requestheader-username-headers", "[\"X-Remote-User\"]".to_owned()),
            ("requestheader-group-headers", "[\"X-Remote-Group\"]".to_owned()),
        ];
        let data: BTreeMap<String, String> = data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Arc::new(FrontProxy::read(&data).unwrap())
    }
}

/// The reviews that were asked for.
type Reviews = Arc<Mutex<Vec<Value>>>;

/// An API server that lets everybody but `mallory` read.
fn api_server() -> (Client, Reviews) {
    let reviews = Reviews::default();
    let asked = Arc::clone(&reviews);
    let service = tower::service_fn(move |request: hyper::Request<Body>| {
        let asked = Arc::clone(&asked);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            let is_allowed = review["spec"]["user"] != "mallory";
            review["status"] = json!({ "allowed": is_allowed, "reason": if is_allowed { "" } else { "no rule" } });
            asked.lock().unwrap_or_else(PoisonError::into_inner).push(review.clone());
            Ok::<_, Infallible>(hyper::Response::new(Body::from(review.to_string().into_bytes())))
        }
    });
    (Client::new(service, "default"), reviews)
}

/// The API, before pods that have three requests waiting.
struct Served {
    address: std::net::SocketAddr,
    certificate: CertificateDer<'static>,
    tls: watch::Sender<Option<Arc<Tls>>>,
    loads: Loads,
    reviews: Reviews,
}

async fn served(authority: &Authority) -> Served {
    let made = certificate::Made::new(vec![SERVICE.into()], Timestamp::now()).unwrap();
    let (tls, current) = watch::channel(Some(Arc::new(Tls::new(made.key, authority.trust()).unwrap())));
    let loads = Loads::at_port(&Arc::new(Metrics::new()), scrape::tests::pod_server(3).await);
    let (client, reviews) = api_server();
    let api = Arc::new(Api { loads: loads.clone(), pods: Arc::new(OnePod), access: Access::new(client) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listen::accept(listener, 8, move |socket| answer_all(socket, current.clone(), Arc::clone(&api))));
    Served { address, certificate: made.certificate, tls, loads, reviews }
}

/// A certificate and its key.
type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Served {
    async fn connect(
        &self,
        shown: Option<Shown>,
        protocol: &[u8],
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match shown {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(SERVICE).unwrap(), socket).await
    }

    /// Status and answer of one request.
    async fn get(&self, shown: Option<Shown>, user: Option<&str>, path: &str) -> Option<(u16, Value)> {
        let stream = self.connect(shown, b"http/1.1").await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", SERVICE);
        if let Some(user) = user {
            request = request.header("x-remote-user", user).header("x-remote-group", "system:authenticated");
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into())))
    }
}

#[tokio::test]
async fn only_the_front_proxy_is_believed() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let api = served(&authority).await;
    let front_proxy = || Some(authority.sign("front-proxy-client"));
    let discovery = "/apis/custom.metrics.k8s.io/v1beta2";
    let (status, found) = api.get(front_proxy(), Some("jane"), discovery).await.unwrap();
    assert_eq!((status, found["kind"].as_str()), (200, Some("APIResourceList")));
    for (shown, user) in [
        (None, Some("jane")),
        (Some(authority.sign("admin")), Some("system:admin")),
        (front_proxy(), None),
        (front_proxy(), Some("")),
    ] {
        for path in [discovery, METRIC, "/apis", "/metrics"] {
            let shown = shown.as_ref().map(|(certificate, key)| (certificate.clone(), key.clone_key()));
            let (status, found) = api.get(shown, user, path).await.unwrap();
            assert_eq!((status, found["reason"].as_str()), (401, Some("Unauthorized")), "{user:?} {path}");
        }
    }
    assert!(api.get(Some(stranger.sign("front-proxy-client")), Some("jane"), discovery).await.is_none());
    assert_eq!(api.get(None, None, "/healthz").await, Some((200, json!("ok"))), "probes show no certificate");
    assert!(api.reviews.lock().unwrap().is_empty(), "nobody was asked about");
}

#[tokio::test]
async fn values_are_given_to_those_who_may_have_them() {
    let authority = Authority::new();
    let api = served(&authority).await;
    let here = &api;
    let get = |user: &'static str, path: String| {
        let shown = Some(authority.sign("front-proxy-client"));
        async move { here.get(shown, Some(user), &path).await.unwrap() }
    };
    let (status, refused) = get("mallory", METRIC.to_owned()).await;
    let message =
        "user 'mallory' may not get pods/triton_pending_requests of custom.metrics.k8s.io in namespace ml: no rule";
    assert_eq!((status, refused["message"].as_str()), (403, Some(message)));
    let (status, unknown) = get("jane", METRIC.to_owned()).await;
    assert_eq!((status, unknown["reason"].as_str()), (404, Some("NotFound")));
    let message = "there is no value of triton_pending_requests for pods with labels '' in namespace ml: the replicas of \
                   TritonServer ml/vision have not been asked yet";
    assert_eq!(unknown["message"], message);
    get("jane", METRIC.to_owned()).await;
    let reviews = api.reviews.lock().unwrap().clone();
    assert_eq!(reviews.len(), 2, "an answer counts for a while");
    let expected = json!({ "group": "custom.metrics.k8s.io", "version": "v1beta2", "namespace": "ml", "resource": "pods",
                           "subresource": "triton_pending_requests", "name": "*", "verb": "get" });
    assert_eq!(reviews[1]["spec"]["resourceAttributes"], expected);
    assert_eq!(reviews[1]["spec"]["groups"], json!(["system:authenticated"]));
    // the question is what makes the operator ask
    api.loads.sweep(|_| Some(vec![scrape::tests::pod("a", "127.0.0.1", true)]));
    let known = async {
        loop {
            let (status, found) = get("jane", METRIC.to_owned()).await;
            if status == 200 {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), known).await.unwrap();
    assert_eq!(
        (&found["items"][0]["describedObject"]["name"], &found["items"][0]["value"]),
        (&json!("a"), &json!("3"))
    );
    let age = Timestamp::now() - found["items"][0]["timestamp"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(age.get_seconds() < 60 && found["items"][0]["windowSeconds"].as_u64().unwrap() > 0);
    let (status, of_model) = get("jane", format!("{METRIC}?metricLabelSelector=model%3Da")).await;
    assert_eq!(
        (status, &of_model["items"][0]["metric"]["selector"]),
        (200, &json!({ "matchLabels": { "model": "a" } }))
    );
    let (_, absent) = get("jane", format!("{METRIC}?metricLabelSelector=model%3Db")).await;
    assert!(
        absent["message"].as_str().unwrap().ends_with("has none of the models that the selector of the metric names")
    );
    let (status, _) = get("jane", METRIC.replace("/ml/", "/other/")).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn mistakes_are_the_callers_and_end_nothing() {
    let authority = Authority::new();
    let api = served(&authority).await;
    let stream = api.connect(Some(authority.sign("front-proxy-client")), b"h2").await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (method, path, expected) in [
        ("POST", METRIC, 405),
        ("DELETE", "/healthz", 405),
        ("GET", "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/%2A/cpu", 404),
        ("GET", "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/services/a/triton_pending_requests", 404),
        ("GET", "/openapi/v2", 404),
        ("GET", &format!("{METRIC}?labelSelector=%2C"), 400),
        ("GET", "/apis", 200),
    ] {
        let uri = format!("https://{SERVICE}{path}");
        let request = Request::builder().method(method).uri(uri).header("x-remote-user", "jane");
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), expected, "{method} {path}");
    }
    // other authorities from now on: a connection of before ends
    let other = Authority::new();
    let made = certificate::Made::new(vec![SERVICE.into()], Timestamp::now()).unwrap();
    api.tls.send_replace(Some(Arc::new(Tls::new(made.key, other.trust()).unwrap())));
    let ended = async {
        while sender.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
}
