use operator_core::{
    labels,
    load::{Metric, Models},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

fn key() -> ServerKey {
    ServerKey { namespace: "ml".into(), name: "vision".into() }
}

/// A pod whose server runs.
pub(crate) fn pod(name: &str, address: &str, is_ready: bool) -> Arc<Pod> {
    let running = json!([{ "name": "server", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
                           "state": { "running": {} } }]);
    let ready = json!([{ "type": "Ready", "status": if is_ready { "True" } else { "False" } }]);
    Arc::new(
        serde_json::from_value(json!({
            "metadata": { "name": name, "uid": name, "namespace": "ml" },
            "spec": { "containers": [{ "name": "server", "image": "x" }] },
            "status": { "podIP": address, "containerStatuses": running, "conditions": ready },
        }))
        .unwrap(),
    )
}

/// A pod that answers each request with the next of these answers, and with the last one from then on. Its port.
async fn answers(answers: Vec<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut answers = answers.into_iter().peekable();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                let answer = answers.peek().unwrap().clone();
                if answers.len() > 1 {
                    answers.next();
                }
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    port
}

/// A pod in which so many requests of model `a` wait. Its port.
pub(crate) async fn pod_server(pending: u64) -> u16 {
    answers(vec![page(0, pending)]).await
}

fn page(exits: u64, pending: u64) -> String {
    let labels = "{model=\"a\",version=\"1\"}";
    let page = format!(
        "tritonserver_queue_time_us{labels} {}\ntritonserver_queue_exits{labels} {exits}\n\
         nv_inference_pending_request_count{labels} {pending}\n",
        exits * 1000
    );
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len())
}

fn loads(port: u16) -> Loads {
    Loads::at_port(&Arc::new(Metrics::new()), port)
}

/// Waits until something is so; the clock is one that only waiting moves.
async fn until<T>(what: impl Fn() -> Option<T>) -> T {
    let wait = async {
        loop {
            match what() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.expect("it comes to be")
}

#[tokio::test]
async fn only_what_is_wanted_is_asked_and_only_ready_pods_count() {
    let loads = loads(answers(vec![page(0, 0), page(10, 0), page(10, 0)]).await);
    let pods = [pod("a", "127.0.0.1", true), pod("b", "127.0.0.1", false), pod("c", "no address", true)];
    let sweep = || loads.sweep(|_| Some(pods.to_vec()));
    sweep();
    assert!(loads.of(&key()).is_none(), "nobody wants to know");
    loads.want(&key());
    assert!(loads.of(&key()).is_none());
    sweep();
    let first = loads.of(&key()).unwrap();
    assert_eq!((first.pods.len(), first.silent.len(), first.idle_since), (0, 1, None));
    let load = until(|| loads.of(&key()).filter(|load| !load.pods.is_empty())).await;
    assert_eq!(load.pods.keys().collect::<Vec<_>>(), ["a"], "the other one is not ready");
    assert_eq!(load.silent, BTreeMap::new());
    // idle, though since when depends on which pod was given which page
    assert!(load.idle_since.is_some());
    assert!(load.pods["a"].value(Metric::QueueLatency, &Models::All).is_some());
    loads.sweep(|_| None);
    assert!(loads.of(&key()).is_none(), "the server is gone");
}

/// The same as `answers`, with TLS and a certificate that names nobody who is asked; `is_mutual`: it wants one of its clients, too.
pub(crate) async fn answers_over_tls(page: String, is_mutual: bool) -> u16 {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["vision.example.com".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = match is_mutual {
        true => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(cert.der().clone()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
        false => config.with_no_client_auth(),
    };
    let config = config.with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                if stream.write_all(page.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    port
}

#[tokio::test]
async fn a_pod_that_speaks_tls_is_asked_with_it_whatever_its_certificate_names() {
    let loads = loads(answers_over_tls(page(10, 0), false).await);
    let mut encrypted = Pod::clone(&pod("a", "127.0.0.1", true));
    encrypted.metadata.annotations = Some([(labels::TLS.to_owned(), "true".to_owned())].into());
    let pods = [Arc::new(encrypted), pod("b", "127.0.0.1", true)];
    loads.want(&key());
    loads.sweep(|_| Some(pods.to_vec()));
    let load = until(|| loads.of(&key()).filter(|load| !load.pods.is_empty() && !load.silent.is_empty())).await;
    assert_eq!(load.pods.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(load.silent.keys().collect::<Vec<_>>(), ["b"], "it is asked without");
}

#[tokio::test]
async fn work_moves_the_beginning_of_idleness_and_what_waits_ends_it() {
    let loads = loads(answers(vec![page(0, 0), page(5, 0), page(5, 1)]).await);
    let pods = [pod("a", "127.0.0.1", true)];
    loads.want(&key());
    loads.sweep(|_| Some(pods.to_vec()));
    let since = |load: ServerLoad| load.idle_since;
    let worked = until(|| loads.of(&key()).filter(|load| load.pods.contains_key("a")).and_then(since)).await;
    assert!(worked > Duration::from_secs(2), "{worked:?}: it worked before the second look");
    assert!(loads.now() >= worked);
    until(|| loads.of(&key()).filter(|load| load.pods["a"].requests == 6 && load.idle_since.is_none())).await;
}

#[tokio::test]
async fn why_nothing_is_known_is_said() {
    let body = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    for (answer, why) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), "answers GET /metrics with status 404"),
        (body(2 << 20 | 1), "has more than 2097152 bytes"),
        (body(4) + "junk", "has no metric of an inference server"),
        (body(40) + "junk", "does not answer GET /metrics"),
        ("SSH-2.0-x\r\n".to_owned(), "does not answer GET /metrics"),
    ] {
        let loads = loads(answers(vec![answer]).await);
        let pods = [pod("a", "127.0.0.1", true)];
        loads.want(&key());
        loads.sweep(|_| Some(pods.to_vec()));
        let said = || loads.of(&key()).unwrap().silent["a"].contains(why).then_some(());
        until(said).await;
        assert_eq!(loads.of(&key()).unwrap().idle_since, None, "nobody knows: {why}");
    }
    let nobody = loads(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port());
    nobody.want(&key());
    nobody.sweep(|_| Some(vec![pod("a", "127.0.0.1", true)]));
    until(|| nobody.of(&key()).unwrap().silent["a"].contains("does not answer").then_some(())).await;
}

#[tokio::test]
async fn a_server_without_pods_is_idle() {
    let loads = loads(1);
    loads.want(&key());
    loads.sweep(|_| Some(vec![]));
    let load = loads.of(&key()).unwrap();
    assert!(load.idle_since.is_some() && load.pods.is_empty() && load.silent.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_any_more_ends() {
    let loads = loads(1);
    loads.want(&key());
    tokio::time::advance(WANTED - Duration::from_secs(1)).await;
    loads.sweep(|_| Some(vec![]));
    assert!(loads.of(&key()).is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    loads.sweep(|_| Some(vec![]));
    assert!(loads.of(&key()).is_none() && loads.wanted().is_empty());
    assert!(loads.clock(Duration::from_secs(60)) > loads.clock(Duration::ZERO));
}
