//! The metrics page, on a port of its own.

use std::sync::Arc;

use http::{
    HeaderValue, Method, Request, Response,
    header::{ACCEPT, CONTENT_TYPE, VARY},
};
use hyper::body::Incoming;
use server_core::{byte_budget::ByteBudget, metrics::Format};
use server_engine::{Engine, Leaving};

use crate::{
    application::Application, body::Body, connection::Activity, error::Failure, reply::empty, router::RouteError,
};

/// The page's server.
pub(crate) struct Metrics {
    engine: Arc<Engine>,
    byte_budget: Arc<ByteBudget>,
}

impl Metrics {
    pub(crate) fn new(engine: Arc<Engine>, byte_budget: Arc<ByteBudget>) -> Self {
        Self { engine, byte_budget }
    }
}

/// The page in that form.
pub(crate) async fn page(engine: &Engine, byte_budget: &ByteBudget, format: Format) -> Response<Body> {
    engine.settle_custom_metrics().await;
    let mut page = engine.metrics();
    page.add_request_memory(byte_budget);
    let mut response = empty();
    *response.body_mut() = Body::from(format.write(&page));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}

impl Application for Metrics {
    /// `/metrics` is the page, in the form that the client asks for, with a slash behind it or not; any other path is good and
    /// empty, as in Triton.
    async fn answer(&self, activity: &Activity, request: Request<Incoming>) -> Response<Body> {
        activity.request_read(); // a body is ignored
        if request.method() != Method::GET {
            return Failure::Route(RouteError::MethodNotAllowed).into_response();
        }
        if !matches!(request.uri().path(), "/metrics" | "/metrics/") {
            let mut response = empty();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Format::Text.content_type()));
            return response;
        }
        let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut response = page(&self.engine, &self.byte_budget, Format::accepted(accepted)).await;
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        response
    }

    fn leaves(&self) -> Leaving {
        self.engine.leaves()
    }
}
