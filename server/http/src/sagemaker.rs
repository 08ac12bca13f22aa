//! SageMaker's protocol: health, inference with one model, and the calls of multi-model endpoints, which load models from where
//! SageMaker has put them.
//!
//! Source: Amazon SageMaker, "Custom inference code with hosting services" and "Build your own container for multi-model
//! endpoints"; statuses and texts as Triton's front end has them.

mod archive;
mod models;

use std::{path::PathBuf, sync::Arc};

use http::{HeaderName, Method, Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use server_core::error::{Code, Error, Result};
use server_engine::{AccessLog, Engine, Leaving};

pub(crate) use self::models::Models;
use crate::{
    application::Application,
    body::{Body, RequestBody},
    cloud::{give_content_type, is_get, no_such_path, other_method, take_content_type, text, with_status},
    connection::Activity,
    dispatch,
    error::{Failure, error_json},
    health,
    options::Options,
    reply::json,
    router::{ModelAction, Route as ApiRoute},
    server::Server,
};

/// Names the model of an invocation in place of the path, if one was loaded under that name: some of SageMaker's routers put the
/// place of the archive there.
static TARGET_MODEL: HeaderName = HeaderName::from_static("x-amzn-sagemaker-target-model");

const CONTENT: &str = "application/vnd.sagemaker-triton.binary+json";

/// What SageMaker is served with.
#[derive(Debug, Clone)]
pub struct SageMakerOptions {
    /// The model of `/invocations`.
    pub model: String,
    /// What `/invocations` asks of it.
    pub inference: InferenceType,
    /// What `/ping` asks of the server.
    pub ping: PingMode,
    /// An empty folder that is one of the server's repositories: models of multi-model endpoints are linked into it. `None` where
    /// models cannot be loaded on request.
    pub repository: Option<PathBuf>,
}

/// Calls of the inference protocol that `/invocations` may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InferenceType {
    /// Tensors in, tensors out.
    Infer,
    /// JSON of names and values, in and out.
    Generate,
    /// The same with any number of responses, as events.
    GenerateStream,
}

/// What a server that answers `/ping` with 200 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingMode {
    /// Ready for inference.
    Ready,
    /// Alive: models may be loading.
    Live,
}

/// The front end.
pub(crate) struct SageMaker {
    server: Server,
    model: String,
    inference: ModelAction,
    ping: PingMode,
    models: Arc<Models>,
}

/// What a path is for.
enum Route<'a> {
    Ping,
    Invocations,
    Models,
    Model(&'a str),
    Invoke(&'a str),
}

impl SageMaker {
    pub(crate) fn new(engine: Arc<Engine>, options: Options, sagemaker: SageMakerOptions) -> Self {
        let SageMakerOptions { model, inference, ping, repository } = sagemaker;
        let inference = match inference {
            InferenceType::Infer => ModelAction::Infer,
            InferenceType::Generate => ModelAction::Generate,
            InferenceType::GenerateStream => ModelAction::GenerateStream,
        };
        let models = Arc::new(Models::new(engine.clone(), repository, options.blocking_pool.clone()));
        Self { server: Server { engine, options }, model, inference, ping, models }
    }

    async fn route(
        &self,
        activity: &Activity,
        head: Parts,
        body: &mut RequestBody,
    ) -> std::result::Result<Response<Body>, Failure> {
        let Self { server, model, inference, ping, models } = self;
        let Some(route) = find(head.uri.path()) else { return Ok(no_such_path()) };
        if let Some(equivalent) = equivalent(&route, &head.method, model, *inference) {
            dispatch::check(server, &equivalent, &head.method, &head.headers)?;
        }
        Ok(match (route, &head.method) {
            (Route::Ping, method) if is_get(method) => match ping {
                PingMode::Ready => health::ready(&server.engine).await?,
                PingMode::Live => health::live(&server.engine)?,
            },
            (Route::Ping, _) => other_method("GET"),
            (Route::Invocations, &Method::POST) => self.infer(activity, model, *inference, head, body).await?,
            (Route::Invocations, _) => other_method("POST"),
            (Route::Models, &Method::GET) => json(models.list()?),
            (Route::Models, &Method::POST) => {
                let outcome = match models::read(server, activity, body).await {
                    Ok(wanted) => to_its_end(models.clone().load(wanted)).await,
                    Err(error) => Err(error),
                };
                outcome.map_or_else(|error| of_models(&error), |()| with_status(StatusCode::OK))
            }
            (Route::Model(name) | Route::Invoke(name), &Method::GET) => match models.get(name)? {
                Some(model) => json(model),
                None => with_status(StatusCode::NOT_FOUND),
            },
            (Route::Model(name), &Method::DELETE) => match to_its_end(models.clone().unload(name.to_owned())).await {
                Ok(true) => with_status(StatusCode::OK),
                Ok(false) => with_status(StatusCode::NOT_FOUND),
                Err(error) => of_models(&error),
            },
            (Route::Invoke(name), &Method::POST) => {
                if !models.has(name) {
                    return Ok(with_status(StatusCode::NOT_FOUND));
                }
                let target = text(&head.headers, &TARGET_MODEL).filter(|target| models.has(target));
                let target = target.unwrap_or(name).to_owned();
                match self.infer(activity, &target, ModelAction::Infer, head, body).await {
                    Err(Failure::Error(error)) => of_models(&error),
                    outcome => outcome?,
                }
            }
            _ => no_such_path(),
        })
    }

    async fn infer(
        &self,
        activity: &Activity,
        model: &str,
        action: ModelAction,
        head: Parts,
        body: &mut RequestBody,
    ) -> std::result::Result<Response<Body>, Failure> {
        let mut headers = head.headers;
        take_content_type(&mut headers, CONTENT);
        let route = ApiRoute::Model { name: model.into(), version: "", action };
        let mut response = dispatch::call_handler(&self.server, activity, &Method::POST, route, headers, body).await?;
        give_content_type(&mut response, CONTENT);
        Ok(response)
    }
}

impl Application for SageMaker {
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

/// Goes on with a change also when its caller leaves: it would be half of one otherwise.
async fn to_its_end<T: Send + 'static>(change: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(change).await.unwrap_or_else(|_| Err(Error::internal("the request could not be processed")))
}

/// The call of the inference protocol that a call of SageMaker amounts to: it is allowed to whoever may make that one. `None`
/// for health, as SageMaker has no headers to send with it, and for what is not served.
fn equivalent<'a>(route: &Route<'a>, method: &Method, model: &'a str, inference: ModelAction) -> Option<ApiRoute<'a>> {
    let infer = |name: &'a str, action| ApiRoute::Model { name: name.into(), version: "", action };
    Some(match (route, method) {
        (Route::Invocations, &Method::POST) => infer(model, inference),
        (Route::Invoke(name), &Method::POST) => infer(name, ModelAction::Infer),
        (Route::Models, &Method::POST) => ApiRoute::RepositoryLoad { has_repository: false, name: "".into() },
        (Route::Model(name), &Method::DELETE) => {
            ApiRoute::RepositoryUnload { has_repository: false, name: (*name).into() }
        }
        (Route::Models | Route::Model(_) | Route::Invoke(_), &Method::GET) => ApiRoute::RepositoryIndex,
        _ => return None,
    })
}

fn find(path: &str) -> Option<Route<'_>> {
    Some(match path {
        "/ping" => Route::Ping,
        "/invocations" => Route::Invocations,
        "/models" | "/models/" => Route::Models,
        _ => {
            let name = path.strip_prefix("/models/")?;
            match name.strip_suffix("/invoke") {
                Some(name) if !name.is_empty() && !name.contains('/') => Route::Invoke(name),
                None if !name.contains('/') => Route::Model(name),
                _ => return None,
            }
        }
    })
}

/// What runtimes say when a device or the machine has no memory left. SageMaker unloads another model then and asks again.
const OUT_OF_MEMORY: [&str; 16] = [
    "out of memory",
    "Out of memory",
    "Out Of Memory",
    "OutOfMemory",
    "OOM",
    "MemoryError",
    "CUDA_OUT_OF_MEMORY",
    "CNMEM_STATUS_OUT_OF_MEMORY",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Src tensor is not initialized",
    "Dst tensor is not initialized",
    "Failed to allocate memory",
    "failed to allocate memory",
    "No space left on device",
];

/// The status of an error of a multi-model endpoint: one that is there already is 409, no memory 507, and all else 400.
fn of_models(error: &Error) -> Response<Body> {
    let status = if OUT_OF_MEMORY.iter().any(|text| error.message.contains(text)) {
        StatusCode::INSUFFICIENT_STORAGE
    } else if error.code == Code::AlreadyExists {
        StatusCode::CONFLICT
    } else {
        StatusCode::BAD_REQUEST
    };
    let mut response = json(error_json(&error.message));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_sagemaker() {
        let name = |path| match find(path) {
            Some(Route::Ping) => "ping".to_owned(),
            Some(Route::Invocations) => "invocations".to_owned(),
            Some(Route::Models) => "models".to_owned(),
            Some(Route::Model(name)) => format!("model {name}"),
            Some(Route::Invoke(name)) => format!("invoke {name}"),
            None => "none".to_owned(),
        };
        for (path, expect) in [
            ("/ping", "ping"),
            ("/invocations", "invocations"),
            ("/models", "models"),
            ("/models/", "models"),
            ("/models/a", "model a"),
            ("/models/a/invoke", "invoke a"),
            ("/models/invoke", "model invoke"),
            ("/models//invoke", "none"),
            ("/models/a/b/invoke", "none"),
            ("/models/a/", "none"),
            ("/v2/health/ready", "none"),
            ("/", "none"),
            ("/ping/", "none"),
        ] {
            assert_eq!(name(path), expect, "{path}");
        }
    }

    #[test]
    fn errors_have_the_status_that_sagemaker_acts_on() {
        let status = |error: Error| of_models(&error).status().as_u16();
        for text in [
            "load failed: CUDA out of memory. Tried",
            "MemoryError: ",
            "torch.OutOfMemoryError",
            "OOM when allocating tensor",
            "Dst tensor is not initialized.",
            "CNMEM_STATUS_OUT_OF_MEMORY",
            "CUDNN_STATUS_NOT_INITIALIZED",
            "CUBLAS_STATUS_NOT_INITIALIZED",
        ] {
            assert_eq!(status(Error::internal(text)), 507, "{text}");
        }
        assert_eq!(status(Error::new(Code::AlreadyExists, "there")), 409);
        assert_eq!(status(Error::internal("bad")), 400);
    }
}
