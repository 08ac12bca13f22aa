use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tonic::Code;

use super::{proto::external_scaler_client::ExternalScalerClient, *};
use crate::{metrics::Metrics, scrape::tests::pod_server};

struct Only(&'static str);

impl Servers for Only {
    fn exists(&self, key: &ServerKey) -> bool {
        key.to_string() == self.0
    }

    fn is_wanted(&self, _: &ServerKey) -> bool {
        false
    }
}

/// Servers that requests wait for.
struct Wanted(&'static str);

impl Servers for Wanted {
    fn exists(&self, key: &ServerKey) -> bool {
        key.to_string() == self.0
    }

    fn is_wanted(&self, _: &ServerKey) -> bool {
        true
    }
}

#[tokio::test]
async fn a_server_without_replicas_is_active_while_requests_wait_for_it() {
    let scaler = |servers: Arc<dyn Servers>| Scaler::new(Loads::new(&Arc::new(Metrics::new())), servers);
    let key = |name: &str| ServerKey { namespace: "ml".into(), name: name.into() };
    assert!(scaler(Arc::new(Wanted("ml/vision"))).is_active(&key("vision")).unwrap());
    assert!(scaler(Arc::new(Wanted("ml/vision"))).is_active(&key("other")).is_err(), "there is no such server");
    assert!(scaler(Arc::new(Only("ml/vision"))).is_active(&key("vision")).is_err(), "nothing is known of it yet");
}

/// A client of tonic over a connection of hyper's.
#[derive(Clone)]
struct Connection(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl tower::Service<hyper::Request<tonic::body::Body>> for Connection {
    type Response = hyper::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: hyper::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A scaler for the server `ml/vision`, and a client of it.
async fn scaler(loads: &Loads) -> ExternalScalerClient<Connection> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Scaler::new(loads.clone(), Arc::new(Only("ml/vision"))).serve(listener));
    let socket = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    ExternalScalerClient::with_origin(Connection(sender), format!("http://{address}").parse().unwrap())
}

fn object(metadata: &[(&str, &str)]) -> ScaledObjectRef {
    ScaledObjectRef {
        name: "vision".into(),
        namespace: "ml".into(),
        scaler_metadata: metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

fn pending() -> ScaledObjectRef {
    object(&[("metric", "triton_pending_requests"), ("target", "2.5"), ("scalerAddress", "here:9090")])
}

fn ask(object: ScaledObjectRef, metric: &str) -> GetMetricsRequest {
    GetMetricsRequest { scaled_object_ref: Some(object), metric_name: metric.into() }
}

fn pod(is_ready: bool) -> Arc<Pod> {
    crate::scrape::tests::pod("a", "127.0.0.1", is_ready)
}

/// Asks until there is an answer.
async fn value(client: &mut ExternalScalerClient<Connection>, object: &ScaledObjectRef, metric: &str) -> MetricValue {
    let answered = async {
        loop {
            match client.get_metrics(ask(object.clone(), metric)).await {
                Ok(answer) => return answer.into_inner().metric_values.remove(0),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answered).await.unwrap()
}

#[tokio::test]
async fn what_is_not_known_is_an_error_and_what_is_idle_is_zero() {
    let loads = Loads::at_port(&Arc::new(Metrics::new()), pod_server(3).await);
    let mut client = scaler(&loads).await;
    let error = client.get_metrics(ask(pending(), "triton_pending_requests")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(
        error.message(),
        "the load of TritonServer 'ml/vision' is not known: its replicas have not been asked yet"
    );
    // a question is what makes the operator ask
    loads.sweep(|_| Some(vec![pod(false)]));
    let error = client.get_metrics(ask(pending(), "triton_pending_requests")).await.unwrap_err();
    assert!(error.message().ends_with("no replica is ready"), "{error}");
    assert!(client.is_active(pending()).await.unwrap().into_inner().result, "it starts");
    loads.sweep(|_| Some(vec![pod(true)]));
    let known = value(&mut client, &pending(), "triton_pending_requests").await;
    assert_eq!(
        (known.metric_name.as_str(), known.metric_value, known.metric_value_float),
        ("triton_pending_requests", 3, 3.0)
    );
    assert!(client.is_active(pending()).await.unwrap().into_inner().result);
    let other = object(&[("metric", "triton_pending_requests"), ("target", "1"), ("models", "other")]);
    let error = client.get_metrics(ask(other, "triton_pending_requests")).await.unwrap_err();
    assert!(error.code() == Code::Unavailable && error.message().ends_with("no replica has such a model"), "{error}");
    loads.sweep(|_| Some(vec![]));
    let none = value(&mut client, &pending(), "triton_pending_requests").await;
    assert_eq!((none.metric_value, none.metric_value_float), (0, 0.0), "nobody is there to have any load");
    assert!(!client.is_active(pending()).await.unwrap().into_inner().result);
}

#[tokio::test]
async fn targets_are_told_as_they_were_written() {
    let mut client = scaler(&Loads::new(&Arc::new(Metrics::new()))).await;
    let spec = client.get_metric_spec(pending()).await.unwrap().into_inner().metric_specs.remove(0);
    assert_eq!(
        (spec.metric_name.as_str(), spec.target_size, spec.target_size_float),
        ("triton_pending_requests", 2, 2.5)
    );
}

#[tokio::test]
async fn mistakes_are_the_callers() {
    let mut client = scaler(&Loads::new(&Arc::new(Metrics::new()))).await;
    for (object, words) in [
        (object(&[]), "have no 'metric'"),
        (object(&[("metric", "cpu"), ("target", "1")]), "metric: 'cpu'"),
        (object(&[("metric", "triton_pending_requests"), ("target", "-1")]), "write a number above 0"),
    ] {
        let error = client.get_metric_spec(object.clone()).await.unwrap_err();
        assert!(error.code() == Code::InvalidArgument && error.message().contains(words), "{error}");
        assert_eq!(client.is_active(object.clone()).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(client.stream_is_active(object.clone()).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(client.get_metrics(ask(object, "cpu")).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let error = client.get_metrics(ask(pending(), "triton_queued_requests")).await.unwrap_err();
    assert_eq!(
        error.message(),
        "the trigger measures 'triton_pending_requests', and 'triton_queued_requests' was asked for"
    );
    let stranger = ScaledObjectRef { namespace: "other".into(), ..pending() };
    let error = client.get_metrics(ask(stranger, "triton_pending_requests")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.message(), "there is no TritonServer 'other/vision' that this operator serves");
    assert_eq!(client.get_metrics(GetMetricsRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    let large = object(&[("metric", &"x".repeat(LONGEST_MESSAGE))]);
    assert_eq!(client.is_active(large).await.unwrap_err().code(), Code::OutOfRange);
    assert!(client.get_metric_spec(pending()).await.is_ok(), "the connection goes on");
}

#[tokio::test]
async fn whoever_waits_is_told_of_each_change() {
    let loads = Loads::at_port(&Arc::new(Metrics::new()), pod_server(1).await);
    let mut client = scaler(&loads).await;
    let mut active = client.stream_is_active(pending()).await.unwrap().into_inner();
    let swept = async {
        // the stream's own question makes the operator ask
        while loads.of(&ServerKey { namespace: "ml".into(), name: "vision".into() }).is_none() {
            loads.sweep(|_| Some(vec![]));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), swept).await.unwrap();
    assert!(!active.message().await.unwrap().unwrap().result);
    loads.sweep(|_| Some(vec![pod(true)]));
    assert!(active.message().await.unwrap().unwrap().result);
}

#[tokio::test]
async fn other_protocols_are_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let loads = Loads::new(&Arc::new(Metrics::new()));
    tokio::spawn(Scaler::new(loads, Arc::new(Only(""))).serve(listener));
    for junk in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0; 64], b"\x16\x03\x01"] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(junk).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut rest = vec![];
        let closed = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{junk:?}");
    }
}
