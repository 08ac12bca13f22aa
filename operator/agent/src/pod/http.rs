//! What is served over HTTP: the state as JSON to the operator, whether the server may start and whether we live to the
//! kubelet. It only reads what was last published; nothing can be changed through it. Whoever has the state already may wait for the
//! next one (`If-None-Match` with `Prefer: wait=SECONDS`, RFC 7240). One caller cannot keep others out: connections are counted by
//! address, and a wait that finds no place is answered at once.

mod connections;
mod wait;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use operator_core::pod;
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use triton_agent::{State, state::Phase};

use self::{
    connections::{Connection, Connections},
    wait::Waits,
};

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
    let (connections, waits) = (Arc::new(Connections::default()), Waits::default());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                note(&error);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // one too many of this caller: it is closed
        if let Some(connection) = Connections::open(&connections, peer.ip()) {
            drop(tokio::spawn(answer_all(stream, peer, connection, published.clone(), waits.clone())));
        }
    }
}

async fn answer_all(
    stream: TcpStream,
    peer: SocketAddr,
    connection: Connection,
    published: watch::Receiver<Published>,
    waits: Waits,
) {
    let _connection = connection; // until it ends
    let service = service_fn(move |request: Request<Incoming>| {
        let (published, waits) = (published.clone(), waits.clone());
        async move { Ok::<_, Infallible>(waits.answer(&request, published).await) }
    });
    let done = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = done {
        tracing::debug!(%peer, %error, "a connection broke off"); // callers come and go
    }
}

fn note(error: &io::Error) {
    tracing::warn!(%error, "cannot take a connection");
}

fn answer(method: &Method, path: &str, headers: &HeaderMap, published: &Published) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(method) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered");
    }
    match path {
        pod::STATE_PATH => match &published.state {
            Ok(state) => {
                let tag = tag(state);
                let mut response = match wait::is_known(headers, &tag) {
                    true => empty(StatusCode::NOT_MODIFIED),
                    false => {
                        response(StatusCode::OK, "application/json", serde_json::to_vec(state).unwrap_or_default())
                    }
                };
                if let Ok(tag) = HeaderValue::try_from(tag) {
                    response.headers_mut().insert(header::ETAG, tag);
                }
                response
            }
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

/// What stays the same while nothing happens: how many bytes of a download are here is no event. A weak one, therefore.
fn tag(state: &State) -> String {
    let mut state = state.clone();
    for model in state.models.values_mut() {
        if let Phase::Downloading { bytes, .. } = &mut model.phase {
            *bytes = 0;
        }
    }
    let digest = Sha256::digest(serde_json::to_vec(&state).unwrap_or_default());
    format!("W/\"{}\"", hex::encode(&digest[..16]))
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{line}\n").into_bytes())
}

fn response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = empty(status);
    *response.body_mut() = Full::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http_body_util::BodyExt;
    use triton_agent::state::ModelState;

    use super::*;

    #[track_caller]
    fn check(published: &Published, method: &Method, path: &str, status: u16, says: &str) {
        let response = answer(method, path, &HeaderMap::new(), published);
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

    #[test]
    fn the_tag_moves_with_what_happens_and_not_with_each_byte() {
        let state = |phase| State {
            models: BTreeMap::from([("a".to_owned(), ModelState { phase, ..ModelState::default() })]),
            ..State::default()
        };
        let at = |bytes| tag(&state(Phase::Downloading { bytes, total: Some(9) }));
        assert_eq!(at(1), at(5));
        assert_ne!(at(1), tag(&state(Phase::Verifying)));
        assert_ne!(at(1), tag(&state(Phase::Downloading { bytes: 1, total: None })));
    }
}
