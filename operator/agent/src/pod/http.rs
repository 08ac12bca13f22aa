//! What is served over HTTP: the state as JSON to the operator, whether the server may start and whether we live to the
//! kubelet. It only reads what was last published; nothing can be changed through it.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use operator_core::pod;
use tokio::{net::TcpListener, sync::watch};
use triton_agent::State;

/// How long a caller may take with its request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be taken, for want of file handles perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// What is published.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// Where every model stands, or why nothing can be said.
    pub(super) state: Result<State, String>,
    /// Models the server has to wait for before it may start, or why that is not known.
    pub(super) missing: Result<Vec<String>, String>,
}

/// Answers until the socket fails for good, which it does not.
pub(super) async fn serve(listener: TcpListener, published: watch::Receiver<Published>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                note(&error);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let published = published.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(request.method(), request.uri().path(), &published.borrow());
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _ = connection.await; // callers come and go
        });
    }
}

fn note(error: &io::Error) {
    tracing::warn!(%error, "cannot take a connection");
}

fn answer(method: &Method, path: &str, published: &Published) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(method) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered");
    }
    match path {
        pod::STATE_PATH => match &published.state {
            Ok(state) => response(StatusCode::OK, "application/json", serde_json::to_vec(state).unwrap_or_default()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        pod::STAGED_PATH => match &published.missing {
            Ok(missing) if missing.is_empty() => text(StatusCode::OK, "the server may start"),
            Ok(missing) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not here yet: {}", missing.join(", "))),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        pod::AGENT_LIVE_PATH => text(StatusCode::OK, "ok"),
        _ => text(StatusCode::NOT_FOUND, "served here: /state, /staged, /healthz"),
    }
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{line}\n").into_bytes())
}

fn response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[track_caller]
    fn check(published: &Published, method: &Method, path: &str, status: u16, says: &str) {
        let response = answer(method, path, published);
        assert_eq!(response.status(), status, "{path}");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains(says), "{path}: {body}");
    }

    #[test]
    fn the_kubelet_and_the_operator_get_their_answers() {
        let waiting = Published { state: Ok(State::default()), missing: Ok(vec!["digits".into(), "text".into()]) };
        check(&waiting, &Method::GET, "/state", 200, r#""manifestHash":"""#);
        check(&waiting, &Method::GET, "/staged", 503, "not here yet: digits, text");
        check(&waiting, &Method::GET, "/healthz", 200, "ok");
        check(&Published { missing: Ok(Vec::new()), ..waiting.clone() }, &Method::HEAD, "/staged", 200, "may start");
        check(&waiting, &Method::GET, "/", 404, "/state");
        check(&waiting, &Method::POST, "/state", 405, "GET");
        let reason = || "the manifest cannot be read".to_owned();
        let blind = Published { state: Err(reason()), missing: Err(reason()) };
        check(&blind, &Method::GET, "/state", 503, "cannot be read");
        check(&blind, &Method::GET, "/staged", 503, "cannot be read");
    }
}
