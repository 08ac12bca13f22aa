//! One request in, one response out: the route decides which handler answers.

use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response, request::Parts};
use hyper::body::Incoming;
use server_core::{error::Result, interface::ModelId, request::VersionChoice};
use server_engine::{AccessLog, Leaving};

use crate::{
    application::Application,
    body::{Body, RequestBody},
    connection::Activity,
    control,
    error::Failure,
    generate, health, infer, metadata, model_config,
    reply::json,
    repository, restriction,
    router::{ModelAction, Route, route},
    server::Server,
    settings, shared_memory,
};

impl Application for Server {
    fn answer(&self, activity: &Activity, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send {
        answer(self, activity, request)
    }

    fn records_heads(&self) -> bool {
        self.options.forwarded_headers.is_some()
    }

    fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.options.access_log.as_ref()
    }

    fn leaves(&self) -> Leaving {
        self.engine.leaves()
    }
}

async fn answer(server: &Server, activity: &Activity, request: Request<Incoming>) -> Response<Body> {
    let (Parts { method, uri, headers, .. }, body) = request.into_parts();
    let mut body = RequestBody::new(body, &headers);
    let outcome = match route(&method, uri.path()) {
        Ok(route) => call(server, activity, route, &method, headers, &mut body).await,
        Err(error) => Err(Failure::Route(error)),
    };
    let mut response = outcome.unwrap_or_else(Failure::into_response);
    body.finish(&mut response);
    response
}

/// Checks whether whoever sent those headers may make that call.
///
/// Errors: it controls the server and those are taken elsewhere; it is restricted, and the header for it is not among these.
pub(crate) fn check(server: &Server, route: &Route<'_>, method: &Method, headers: &HeaderMap) -> Result<(), Failure> {
    control::check(server.options.private_control.as_ref(), route, method)?;
    restriction::check(&server.options.restrictions, route, headers)
}

/// Checks whether whoever sent those headers may make that call, and makes it.
pub(crate) async fn call(
    server: &Server,
    activity: &Activity,
    route: Route<'_>,
    method: &Method,
    headers: HeaderMap,
    body: &mut RequestBody,
) -> Result<Response<Body>, Failure> {
    check(server, &route, method, &headers)?;
    call_handler(server, activity, method, route, headers, body).await
}

/// Calls the handler of a route, which was checked. Only the future of inference is part of the connection's own; the others
/// are rare, and boxed so that they do not make it larger.
pub(crate) async fn call_handler(
    server: &Server,
    activity: &Activity,
    method: &Method,
    route: Route<'_>,
    headers: HeaderMap,
    body: &mut RequestBody,
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
                ModelAction::Ready => Box::pin(health::model(engine, model)).await?,
                ModelAction::Config => model_config::get(engine, model)?,
                ModelAction::Statistics => json(engine.statistics_text(Some(model))?.into_bytes()),
                ModelAction::TraceSettings => {
                    Box::pin(settings::trace(server, activity, method, Some(&name), body)).await?
                }
            }
        }
        Route::ServerMetadata => metadata::server(engine)?,
        Route::ServerLive => health::live(engine)?,
        Route::ServerReady => Box::pin(health::ready(engine)).await?,
        Route::Drain => Box::pin(health::drain(server, activity, body)).await?,
        Route::AllStatistics => json(engine.statistics_text(None)?.into_bytes()),
        Route::TraceSettings => Box::pin(settings::trace(server, activity, method, None, body)).await?,
        Route::Logging => Box::pin(settings::log(server, activity, method, body)).await?,
        Route::RepositoryIndex => Box::pin(repository::index(server, activity, body)).await?,
        Route::RepositoryLoad { has_repository, name } => {
            Box::pin(repository::load(server, activity, has_repository, &name, body)).await?
        }
        Route::RepositoryUnload { has_repository, name } => {
            Box::pin(repository::unload(server, activity, has_repository, &name, body)).await?
        }
        Route::SharedMemory { memory, region, action } => {
            let region = region.as_deref().unwrap_or_default();
            Box::pin(shared_memory::answer(server, activity, memory, region, action, body)).await?
        }
    })
}
