//! The client of the API server. A request that is not answered ends: one that hung would keep its reconcile, and with it a
//! worker, for ever. A watch may be silent for as long as it likes; the watcher looks after it.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::Request;
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{Layer, Service};

/// How long the API server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take to begin, further attempts after refusals such as 429 included. An admission webhook may take up to 30 s.
const ANSWER: Duration = Duration::from_secs(35);
/// How long nothing may come on a connection: for an answer that has begun and does not end. Longer than a watch is silent.
const SILENCE: Duration = Duration::from_secs(330);

type AnyError = Box<dyn Error + Send + Sync>;

/// A client for the cluster of `config`.
pub(crate) fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Ok(ClientBuilder::try_from(config)?.with_layer(&Limit(ANSWER)).build())
}

/// Limits how long answers may take to begin, but for watches.
#[derive(Clone, Copy, Debug)]
struct Limit(Duration);

#[derive(Clone, Debug)]
struct Limited<S> {
    inner: S,
    limit: Duration,
}

impl<S> Layer<S> for Limit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, limit: self.0 }
    }
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>>,
    S::Future: Send + 'static,
    S::Error: Into<AnyError>,
{
    type Response = S::Response;
    type Error = AnyError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, AnyError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limit = (!is_watch(&request)).then_some(self.limit);
        let asked = format!("{} {}", request.method(), request.uri().path());
        let answered = self.inner.call(request);
        Box::pin(async move {
            let Some(limit) = limit else { return answered.await.map_err(Into::into) };
            match tokio::time::timeout(limit, answered).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(format!("the API server has not answered {asked} for {limit:?}").into()),
            }
        })
    }
}

fn is_watch<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// An API server that answers after a minute.
    #[derive(Clone)]
    struct Slow;

    impl Service<Request<Body>> for Slow {
        type Response = ();
        type Error = AnyError;
        type Future = Pin<Box<dyn Future<Output = Result<(), AnyError>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(())
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_answered_ends_and_a_watch_goes_on() {
        let mut client = Limit(ANSWER).layer(Slow);
        let ask = |path: &str| Request::get(path).body(Body::empty()).unwrap();
        let began = Instant::now();
        let error = client.call(ask("/api/v1/pods?limit=500&watching=true")).await.unwrap_err();
        assert_eq!(error.to_string(), "the API server has not answered GET /api/v1/pods for 35s");
        assert_eq!(began.elapsed(), ANSWER);
        client.call(ask("/api/v1/pods?limit=500&watch=true")).await.unwrap();
    }
}
