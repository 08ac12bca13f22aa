//! What the front ends of clouds are told by the environment of a container.

use server_engine::Engine;
use server_http::VertexAiRoutes;

use crate::{args::VertexAiArgs, lifecycle::Fatal, listeners::Service};

/// The model of SageMaker's `/invocations` where its variable names none: there is no such model.
const NO_MODEL: &str = "unspecified_SAGEMAKER_TRITON_DEFAULT_MODEL_NAME";

/// The model that SageMaker asks when it names none.
pub(crate) fn sagemaker_model() -> String {
    variable("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME").unwrap_or_else(|| NO_MODEL.to_owned())
}

/// Where Vertex AI asks, and which model answers.
///
/// Errors: a path is not said, or no model is and there are several.
pub(crate) fn vertex_ai_routes(
    args: VertexAiArgs,
    engine: &Engine,
    has_metrics: bool,
) -> Result<VertexAiRoutes, Fatal> {
    let wrong = |reason| Fatal::FrontEndOptions { service: Service::VertexAi, reason };
    let predict = variable("AIP_PREDICT_ROUTE");
    // API_ is Triton's word for it
    let predict = predict.ok_or_else(|| wrong("API_PREDICT_ROUTE is not defined for Vertex AI endpoint"))?;
    let health = variable("AIP_HEALTH_ROUTE");
    let health = health.ok_or_else(|| wrong("AIP_HEALTH_ROUTE is not defined for Vertex AI endpoint"))?;
    let model = if args.default_model.is_empty() {
        only_model(engine).ok_or_else(|| {
            wrong("Expect the model repository contains only a single model if default model is not specified")
        })?
    } else {
        args.default_model
    };
    Ok(VertexAiRoutes { predict, health, model, has_metrics })
}

/// The model of the repositories, if there is one and no other.
fn only_model(engine: &Engine) -> Option<String> {
    let mut names: Vec<String> = engine.index(false).ok()?.into_iter().map(|entry| entry.name).collect();
    names.dedup();
    <[String; 1]>::try_from(names).ok().map(|[name]| name)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
