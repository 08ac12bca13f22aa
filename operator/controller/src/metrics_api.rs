//! `custom.metrics.k8s.io`, served by the operator itself: a horizontal pod autoscaler asks the API server for the load of pods, and the
//! API server asks here. Who asks is believed only from the API server, which shows the certificate of its front proxy
//! (`front_proxy.rs`); whether he may is for the API server to decide (`access.rs`). Our own certificate is made in memory, and the
//! API server is told of it (`certificate.rs`, `publish.rs`). Paths and documents are in `operator_core::metrics_api`.

mod access;
mod certificate;
mod front_proxy;
mod publish;
mod tls;
mod values;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    http::request::Parts,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use kube::Client;
use operator_core::metrics_api::{self, Ask};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use self::{
    access::Access,
    front_proxy::{FrontProxy, User},
    tls::Tls,
};
pub(crate) use self::{certificate::Place, values::Pods};
use crate::{listen, scrape::Loads};

/// Connections at the same time. The API server has a few.
const CONNECTIONS: usize = 256;
/// Requests at the same time on one connection.
const REQUESTS: u32 = 128;
/// How long a caller may take for its handshake, or to send the head of its request; and how long requests under way may take once the
/// certificates have changed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the other side is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What answers.
struct Api {
    loads: Loads,
    pods: Arc<dyn Pods>,
    access: Access,
}

/// Answers for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, place: Place, client: Client, loads: Loads, pods: Arc<dyn Pods>) {
    let (trust, trusted) = watch::channel(None);
    let (identity, identified) = watch::channel(None);
    let (tls, current) = watch::channel(None);
    let api = Arc::new(Api { loads, pods, access: Access::new(client.clone()) });
    let serving = listen::accept(listener, CONNECTIONS, |socket| answer_all(socket, current.clone(), Arc::clone(&api)));
    tokio::join!(
        front_proxy::follow(client.clone(), trust),
        certificate::keep(client, place, identity),
        tls::combine(trusted, identified, tls),
        serving,
    );
}

/// Answers all requests of one connection. One that was made under other certificates than those of now ends with its requests.
async fn answer_all(socket: TcpStream, mut tls: watch::Receiver<Option<Arc<Tls>>>, api: Arc<Api>) {
    let Some(now) = tls.borrow_and_update().clone() else { return }; // nobody could be recognised yet
    let Ok(Ok((stream, caller))) = tokio::time::timeout(PATIENCE, now.accept(socket)).await else { return };
    let trust = caller.then(|| now.trust());
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, trust) = (Arc::clone(&api), trust.clone());
        let (head, _) = request.into_parts();
        async move { Ok::<_, Infallible>(api.answer(&head, trust.as_deref()).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(REQUESTS);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // a caller that goes away is none of our business
        _ = connection.as_mut() => return,
        _ = tls.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(PATIENCE, connection).await;
}

impl Api {
    /// `trust`: how a front proxy says who asks, if it is one that asks.
    async fn answer(&self, head: &Parts, trust: Option<&FrontProxy>) -> Response<Full<Bytes>> {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return error(405, "MethodNotAllowed", "only GET is answered here");
        }
        let ask = match metrics_api::read(head.uri.path(), head.uri.query()) {
            Ok(Ask::Health) => return plain("ok"),
            Ok(ask) => Ok(ask),
            Err(error) => Err(error),
        };
        let Some(user) = trust.and_then(|trust| trust.user(&head.headers)) else {
            let message = "nobody is believed here but the API server: ask it, as kubectl get --raw does";
            return error(401, "Unauthorized", message);
        };
        match ask {
            Ok(Ask::Health) => plain("ok"),
            Ok(Ask::Document(document)) => json(200, &document),
            Ok(Ask::Values(values)) => self.values(&values, &user).await,
            Err(mistake) => {
                let (code, reason) = mistake.status();
                error(code, reason, &mistake.to_string())
            }
        }
    }

    async fn values(&self, asked: &metrics_api::Values, user: &User) -> Response<Full<Bytes>> {
        match self.access.review(user, asked).await {
            Ok(None) => {}
            Ok(Some(message)) => return error(403, "Forbidden", &message),
            Err(failure) => {
                let message = format!("the API server does not say whether '{}' may ask: {failure}", user.name);
                return error(500, "InternalError", &message);
            }
        }
        match values::find(asked, &self.loads, &*self.pods) {
            Ok(found) => json(200, &asked.list(&found)),
            Err(message) => error(404, "NotFound", &message),
        }
    }
}

fn error(code: u16, reason: &str, message: &str) -> Response<Full<Bytes>> {
    json(code, &metrics_api::status(code, reason, message))
}

fn json(code: u16, document: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(document.to_string())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(text: &'static str) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from_static(text.as_bytes())))
}

#[cfg(test)]
mod tests;
