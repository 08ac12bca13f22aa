//! The operator's own port: whether it lives, whether it is ready, and its numbers. A standby that waits to lead is ready:
//! it would lead at once.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::{metrics::Metrics, watches::Watches};

/// How long a caller may take to send its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the port serves.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) watches: Arc<Watches>,
    /// Every store has been filled once.
    pub(crate) is_ready: Arc<AtomicBool>,
}

/// Opens the port.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, health: Health) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => drop(tokio::spawn(answer_all(socket, health.clone()))),
            // out of files: those that are open will be closed
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer_all(socket: TcpStream, health: Health) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &health);
        async move { Ok::<_, Infallible>(answer) }
    });
    // a caller that goes away is none of our business
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    match request.uri().path() {
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if health.is_ready.load(Ordering::Relaxed) => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "the resources have not been read yet\n"),
        "/metrics" => {
            let mut page = plain(StatusCode::OK, health.metrics.page(&health.watches.inventory()));
            let form = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            page.headers_mut().insert(CONTENT_TYPE, form);
            page
        }
        _ => plain(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}
