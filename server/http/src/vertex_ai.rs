//! Vertex AI's protocol: a path to predict with one model, a path to ask for health, and any other call of the inference protocol
//! through a header.
//!
//! Source: Vertex AI, "Custom container requirements"; Triton's `X-Vertex-Ai-Triton-Redirect`.

use std::sync::Arc;

use http::{HeaderName, Method, Request, Response, request::Parts};
use hyper::body::Incoming;
use server_core::metrics::Format;
use server_engine::{AccessLog, Engine, Leaving};

use crate::{
    application::Application,
    body::{Body, RequestBody},
    cloud::{is_get, no_such_path, other_method, take_content_type, text},
    connection::Activity,
    dispatch::call,
    error::Failure,
    health, metrics,
    options::Options,
    router::{ModelAction, Route, find},
    server::Server,
};

/// Names another call of the inference protocol, without the first slash, or `metrics`.
static REDIRECT: HeaderName = HeaderName::from_static("x-vertex-ai-triton-redirect");

const CONTENT: &str = "application/vnd.vertex-ai-triton.binary+json";

/// Where Vertex AI asks, and for what.
#[derive(Debug, Clone)]
pub struct VertexAiRoutes {
    /// `AIP_PREDICT_ROUTE`.
    pub predict: String,
    /// `AIP_HEALTH_ROUTE`.
    pub health: String,
    /// The model that answers predictions.
    pub model: String,
    /// Whether the metrics page may be asked for.
    pub has_metrics: bool,
}

/// The front end.
pub(crate) struct VertexAi {
    server: Server,
    routes: VertexAiRoutes,
}

impl VertexAi {
    pub(crate) fn new(engine: Arc<Engine>, options: Options, routes: VertexAiRoutes) -> Self {
        Self { server: Server { engine, options }, routes }
    }

    async fn route(&self, activity: &Activity, head: Parts, body: &mut RequestBody) -> Result<Response<Body>, Failure> {
        let Parts { method, uri, mut headers, .. } = head;
        let Self { server, routes } = self;
        if uri.path() == routes.health {
            return if is_get(&method) { Ok(health::ready(&server.engine).await?) } else { Ok(other_method("GET")) };
        }
        if uri.path() != routes.predict {
            return Ok(no_such_path());
        }
        if method != Method::POST {
            return Ok(other_method("POST"));
        }
        take_content_type(&mut headers, CONTENT);
        if !headers.contains_key(&REDIRECT) {
            let action = ModelAction::Infer;
            let route = Route::Model { name: routes.model.as_str().into(), version: "", action };
            return call(server, activity, route, &method, headers, body).await;
        }
        let redirect = text(&headers, &REDIRECT).unwrap_or_default().to_owned();
        if redirect == "metrics" && routes.has_metrics {
            return Ok(metrics::page(&server.engine, &server.options.byte_budget, Format::Text).await);
        }
        // Vertex AI only posts: a call is what its path says
        let path = format!("/{redirect}");
        let Some((route, methods)) = find(&path).filter(|(route, _)| !is_setting(route)) else {
            return Ok(no_such_path());
        };
        let method = if methods.contains(&Method::POST) { Method::POST } else { Method::GET };
        call(server, activity, route, &method, headers, body).await
    }
}

/// Whether it shows or changes what is logged or traced, as Triton has nobody do who may predict.
fn is_setting(route: &Route<'_>) -> bool {
    matches!(route, Route::Logging | Route::TraceSettings | Route::Model { action: ModelAction::TraceSettings, .. })
}

impl Application for VertexAi {
    async fn answer(&self, activity: &Activity, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let mut body = RequestBody::new(body, &head.headers);
        let outcome = Box::pin(self.route(activity, head, &mut body)).await;
        let mut response = outcome.unwrap_or_else(Failure::into_response);
        body.finish(&mut response);
        response
    }

    fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.server.options.access_log.as_ref()
    }

    fn leaves(&self) -> Leaving {
        self.server.engine.leaves()
    }
}
