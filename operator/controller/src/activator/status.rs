//! The activator's own port: which servers it listens for and which are wanted, its numbers, and whether it lives and is ready.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use operator_core::activator::DEMAND_PATH;
use tokio::{net::TcpListener, sync::Semaphore};

use super::listeners::Listeners;
use crate::long_poll::Waits;

/// How long a caller may take to send its request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Callers that may wait at the same time: there are few operators.
const WAITS: usize = 16;
/// Connections at the same time.
const CONNECTIONS: usize = 64;

/// Answers until it is dropped.
pub(super) async fn serve(listener: TcpListener, listeners: Arc<Listeners>) {
    let (waits, connections) = (Arc::new(Waits::new(WAITS)), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await; // out of files: those that are open will be closed
            continue;
        };
        let Ok(place) = Arc::clone(&connections).try_acquire_owned() else { continue };
        let (waits, listeners) = (Arc::clone(&waits), Arc::clone(&listeners));
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request: Request<Incoming>| {
                let (waits, listeners) = (Arc::clone(&waits), Arc::clone(&listeners));
                async move { Ok::<_, Infallible>(answer(&request, &waits, &listeners).await) }
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

async fn answer(request: &Request<Incoming>, waits: &Waits, listeners: &Listeners) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    match request.uri().path() {
        DEMAND_PATH => {
            let demand = || serde_json::to_vec(&listeners.demand()).unwrap_or_default();
            waits.answer(request.headers(), demand, listeners.shared.changes.subscribe()).await
        }
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if listeners.is_ready() => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "no operator has said yet where servers are\n"),
        "/metrics" => {
            let mut page = plain(StatusCode::OK, listeners.shared.counts.page());
            let form = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            page.headers_mut().insert(CONTENT_TYPE, form);
            page
        }
        _ => plain(StatusCode::NOT_FOUND, "there are /demand, /healthz, /readyz and /metrics\n"),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}
