//! One request in, one response out: the route decides which room answers.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE, request::Parts};
use hyper::body::Incoming;
use server_core::{error::Result, interface::ModelId, request::VersionChoice};
use server_engine::Engine;

use crate::{
    Options,
    body::{Body, collect},
    connection::Activity,
    error::Failure,
    generate, health, infer, metadata, model_config, repository, restriction,
    router::{ModelAction, Route, route},
    settings, shared_memory, statistics,
};

/// What all connections share.
pub(crate) struct Server {
    pub(crate) engine: Arc<Engine>,
    pub(crate) options: Options,
}

/// Answers one request. It cannot fail: what goes wrong is the answer.
pub(crate) async fn answer(server: &Server, activity: &Activity, request: Request<Incoming>) -> Response<Body> {
    let (Parts { method, uri, headers, .. }, body) = request.into_parts();
    let route = route(&method, uri.path())
        .map_err(Failure::Route)
        .and_then(|route| restriction::check(&server.options.restrictions, &route, &headers).map(|()| route));
    let outcome = match route {
        Ok(route) => follow(server, activity, route, headers, body).await,
        Err(failure) => Err(failure),
    };
    outcome.unwrap_or_else(Failure::into_response)
}

/// Asks the room the route leads to. Only inference is part of the connection's own future; the others are rare, and
/// boxed so that they do not make it larger.
async fn follow(
    server: &Server,
    activity: &Activity,
    route: Route<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let engine = &server.engine;
    Ok(match route {
        Route::Model { name, version, action } => {
            let model = ModelId { name: &name, version: VersionChoice::parse(version)? };
            match action {
                ModelAction::Infer => infer::infer(server, activity, model, headers, body).await?,
                ModelAction::Generate => Box::pin(generate::once(server, activity, model, headers, body)).await?,
                ModelAction::GenerateStream => {
                    Box::pin(generate::stream(server, activity, model, headers, body)).await?
                }
                ModelAction::Metadata => metadata::model(engine, model)?,
                ModelAction::Ready => health::model(engine, model)?,
                ModelAction::Config => model_config::get(engine, model)?,
                ModelAction::Statistics => statistics::get(engine, Some(model))?,
                ModelAction::TraceSettings => settings::trace()?,
            }
        }
        Route::ServerMetadata => metadata::server(engine)?,
        Route::ServerLive => health::live(engine)?,
        Route::ServerReady => health::ready(engine)?,
        Route::AllStatistics => statistics::get(engine, None)?,
        Route::TraceSettings => settings::trace()?,
        Route::Logging => settings::logging()?,
        Route::RepositoryIndex => repository::index(engine, &read(body, activity).await?)?,
        Route::RepositoryLoad { has_repository, name } => {
            let body = read(body, activity).await?;
            Box::pin(repository::load(engine, has_repository, &name, body)).await?
        }
        Route::RepositoryUnload { has_repository, name } => {
            let body = read(body, activity).await?;
            Box::pin(repository::unload(engine, has_repository, &name, &body)).await?
        }
        Route::SharedMemory { memory, region, action } => shared_memory::answer(memory, region.as_deref(), action)?,
    })
}

/// Collects a body, and tells the connection's watch that it is there.
pub(crate) async fn read(body: Incoming, activity: &Activity) -> Result<Bytes> {
    let body = collect(body).await?;
    activity.request_read();
    Ok(body)
}

/// A good answer without a word.
pub(crate) fn empty() -> Response<Body> {
    Response::new(Body::empty())
}

/// A good answer of JSON.
pub(crate) fn json(text: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
