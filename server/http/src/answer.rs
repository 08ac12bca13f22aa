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
        Ok(Route::Model { name, version, action }) => match VersionChoice::parse(version) {
            Ok(version) => {
                let model = ModelId { name: &name, version };
                match action {
                    ModelAction::Infer => Ok(infer::infer(server, activity, model, headers, body).await),
                    ModelAction::Generate => Box::pin(generate::once(server, activity, model, headers, body)).await,
                    ModelAction::GenerateStream => {
                        Box::pin(generate::stream(server, activity, model, headers, body)).await
                    }
                    _ => ask_model(server, model, action).map_err(Failure::from),
                }
            }
            Err(error) => Err(error.into()),
        },
        Ok(route) => Box::pin(administer(server, activity, route, body)).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    outcome.unwrap_or_else(Failure::into_response)
}

/// Questions about a model that are answered at once.
fn ask_model(server: &Server, model: ModelId<'_>, action: ModelAction) -> Result<Response<Body>> {
    match action {
        ModelAction::Metadata => metadata::model(&server.engine, model),
        ModelAction::Ready => health::model(&server.engine, model),
        ModelAction::Config => model_config::get(&server.engine, model),
        ModelAction::Statistics => statistics::get(&server.engine, Some(model)),
        ModelAction::TraceSettings => settings::trace(),
        ModelAction::Infer | ModelAction::Generate | ModelAction::GenerateStream => {
            unreachable!("answered by `answer`")
        }
    }
}

/// Everything that is not about one model's interface.
async fn administer(server: &Server, activity: &Activity, route: Route<'_>, body: Incoming) -> Result<Response<Body>> {
    let engine = &server.engine;
    match route {
        Route::ServerMetadata => metadata::server(engine),
        Route::ServerLive => health::live(engine),
        Route::ServerReady => health::ready(engine),
        Route::AllStatistics => statistics::get(engine, None),
        Route::TraceSettings => settings::trace(),
        Route::Logging => settings::logging(),
        Route::RepositoryIndex => repository::index(engine, &read(body, activity).await?),
        Route::RepositoryLoad { has_repository, name } => {
            let body = read(body, activity).await?;
            repository::load(engine, has_repository, &name, body).await
        }
        Route::RepositoryUnload { has_repository, name } => {
            let body = read(body, activity).await?;
            repository::unload(engine, has_repository, &name, &body).await
        }
        Route::SharedMemory { memory, region, action } => shared_memory::answer(memory, region.as_deref(), action),
        Route::Model { .. } => unreachable!("answered by `answer`"),
    }
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
