//! Spans of fetches and loads, before a collector that decodes them.

use http_body_util::BodyExt;
use operator_core::manifest::ManifestTrace;
use otlp::{Span, message::ExportTraceServiceRequest};
use prost::Message;

use super::*;

/// Takes spans, and passes them on.
async fn collector() -> (String, mpsc::UnboundedReceiver<Span>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (spans, taken) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let spans = spans.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let spans = spans.clone();
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    let request = ExportTraceServiceRequest::decode(body).unwrap();
                    let scopes = request.resource_spans.into_iter().flat_map(|of_resource| of_resource.scope_spans);
                    scopes.flat_map(|of_scope| of_scope.spans).for_each(|span| spans.send(span).unwrap());
                    Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, taken)
}

#[tokio::test]
async fn fetches_and_loads_are_in_the_trace_that_the_manifest_names() {
    let (collector, mut taken) = collector().await;
    let mut harness = Harness::without_agent(Vec::new()).await;
    let models = vec![inline("a", "good"), inline("b", "bad")];
    let trace = ManifestTrace { collector, id: "0af7651916cd43dd8448eb211c80319c".into() };
    harness.manifests.send_replace(Arc::new(manifest(models).with_trace(Some(trace))));
    harness.start_agent();
    harness.settled().await;
    // without a trace nothing is made any more, and what was made before is sent at once
    harness.want(Vec::new());
    let mut found = BTreeMap::new();
    while found.len() < 4 {
        let span = tokio::time::timeout(Duration::from_secs(20), taken.recv()).await.unwrap().unwrap();
        assert_eq!(hex::encode(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
        assert!(span.span_id.len() == 8 && span.end_time_unix_nano >= span.start_time_unix_nano);
        let name = span.attributes.iter().find(|pair| pair.key == "triton.model_name").unwrap().value.clone().unwrap();
        let Some(otlp::Value::String(model)) = name.value else { panic!("a name is a text") };
        found.insert((span.name, model), span.status.map(|status| status.message));
    }
    let error = found.remove(&("load".into(), "b".into())).unwrap();
    assert!(error.as_ref().is_some_and(|error| error.starts_with("LoadFailed: ")), "{error:?}");
    let good = [("fetch", "a"), ("fetch", "b"), ("load", "a")];
    assert_eq!(found, good.map(|(step, model)| ((step.to_owned(), model.to_owned()), None)).into());
}
