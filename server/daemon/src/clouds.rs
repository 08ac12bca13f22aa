//! What the front ends of clouds are told by the environment of a container.

use std::path::PathBuf;

use server_engine::Engine;
use server_http::{InferenceType, PingMode, SageMakerOptions, VertexAiRoutes};

use crate::{args::VertexAiArgs, lifecycle::Fatal, listeners::Service};

/// The model of SageMaker's `/invocations` where its variable names none: there is no such model.
const NO_MODEL: &str = "unspecified_SAGEMAKER_TRITON_DEFAULT_MODEL_NAME";

/// What SageMaker is served with, models on request from that folder, if any are.
///
/// Errors: a variable has another value than it may have.
pub(crate) fn sagemaker_options(repository: Option<PathBuf>) -> Result<SageMakerOptions, Fatal> {
    let wrong = |reason| Fatal::FrontEndOptions { service: Service::SageMaker, reason };
    Ok(SageMakerOptions {
        model: variable("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME").unwrap_or_else(|| NO_MODEL.to_owned()),
        inference: one_of("SAGEMAKER_TRITON_INFERENCE_TYPE", variable, &INFERENCE_TYPES).map_err(wrong)?,
        ping: one_of("SAGEMAKER_TRITON_PING_MODE", variable, &PING_MODES).map_err(wrong)?,
        repository,
    })
}

const INFERENCE_TYPES: [(&str, InferenceType); 3] = [
    ("infer", InferenceType::Infer),
    ("generate", InferenceType::Generate),
    ("generate_stream", InferenceType::GenerateStream),
];

const PING_MODES: [(&str, PingMode); 2] = [("ready", PingMode::Ready), ("live", PingMode::Live)];

/// The value that a variable names, the first if it is not set. Errors: it names none of them.
fn one_of<T: Copy>(name: &str, variable: impl Fn(&str) -> Option<String>, values: &[(&str, T)]) -> Result<T, String> {
    let Some(given) = variable(name) else { return Ok(values[0].1) };
    let found = values.iter().find(|(word, _)| *word == given).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<&str> = values.iter().map(|(word, _)| *word).collect();
        format!("{name} is '{given}', expected one of {}", words.join(", "))
    })
}

/// Where Vertex AI asks, and which model answers.
///
/// Errors: a path is not said, or no model is and there are several.
pub(crate) fn vertex_ai_routes(
    args: VertexAiArgs,
    engine: &Engine,
    has_metrics: bool,
) -> Result<VertexAiRoutes, Fatal> {
    let wrong = |reason: &str| Fatal::FrontEndOptions { service: Service::VertexAi, reason: reason.to_owned() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_names_a_value_or_ends_the_start() {
        let read = |given: Option<&str>| one_of("NAME", |_| given.map(str::to_owned), &INFERENCE_TYPES);
        assert_eq!(read(None), Ok(InferenceType::Infer));
        assert_eq!(read(Some("generate_stream")), Ok(InferenceType::GenerateStream));
        let refused = "NAME is 'stream', expected one of infer, generate, generate_stream";
        assert_eq!(read(Some("stream")), Err(refused.to_owned()));
    }
}
