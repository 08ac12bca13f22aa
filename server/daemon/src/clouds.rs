//! What the front ends of clouds are told by the environment of a container.

use std::{collections::BTreeSet, path::PathBuf};

use server_engine::Engine;
use server_http::{InferenceType, PingMode, SageMakerOptions, VertexAiRoutes};

use crate::{args::VertexAiArgs, lifecycle::Fatal, service::Service};

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

/// Where Vertex AI asks, and which model answers. `chosen` are the models that are to be loaded, where it is not all of them.
///
/// Errors: a path is not said; no model is and there are several, or one is that is not to be loaded.
pub(crate) fn vertex_ai_routes(
    args: VertexAiArgs,
    engine: &Engine,
    chosen: Option<BTreeSet<String>>,
    has_metrics: bool,
) -> Result<VertexAiRoutes, Fatal> {
    let wrong = |reason: &str| Fatal::FrontEndOptions { service: Service::VertexAi, reason: reason.to_owned() };
    let predict = variable("AIP_PREDICT_ROUTE");
    // API_ is Triton's word for it
    let predict = predict.ok_or_else(|| wrong("API_PREDICT_ROUTE is not defined for Vertex AI endpoint"))?;
    let health = variable("AIP_HEALTH_ROUTE");
    let health = health.ok_or_else(|| wrong("AIP_HEALTH_ROUTE is not defined for Vertex AI endpoint"))?;
    let models = match chosen {
        Some(models) => models,
        None => {
            let index = engine.index(false).map_err(|error| wrong(&error.message))?;
            index.into_iter().map(|entry| entry.name).collect()
        }
    };
    let model = default_model(args.default_model, models).map_err(|reason| wrong(&reason))?;
    Ok(VertexAiRoutes { predict, health, model, has_metrics })
}

/// The model that is named, or the only one. Errors: it is not among these, or there is no only one.
fn default_model(named: String, models: BTreeSet<String>) -> Result<String, String> {
    if models.contains(&named) {
        return Ok(named);
    }
    if !named.is_empty() {
        return Err(format!("Expect the default model '{named}' is loaded"));
    }
    let mut models = models.into_iter();
    match (models.next(), models.next()) {
        (Some(only), None) => Ok(only),
        _ => Err("Expect the model repository contains only a single model if default model is not specified".into()),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_model_is_one_that_is_to_be_loaded() {
        let of = |named: &str, models: &[&str]| {
            default_model(named.to_owned(), models.iter().map(|&name| name.to_owned()).collect())
        };
        assert_eq!(of("", &["m"]), Ok("m".to_owned()));
        assert_eq!(of("n", &["m", "n"]), Ok("n".to_owned()));
        let several = "Expect the model repository contains only a single model if default model is not specified";
        assert_eq!(of("", &["m", "n"]), Err(several.to_owned()));
        assert_eq!(of("", &[]), Err(several.to_owned()));
        assert_eq!(of("x", &["m"]), Err("Expect the default model 'x' is loaded".to_owned()));
    }

    #[test]
    fn a_variable_names_a_value_or_ends_the_start() {
        let read = |given: Option<&str>| one_of("NAME", |_| given.map(str::to_owned), &INFERENCE_TYPES);
        assert_eq!(read(None), Ok(InferenceType::Infer));
        assert_eq!(read(Some("generate_stream")), Ok(InferenceType::GenerateStream));
        let refused = "NAME is 'stream', expected one of infer, generate, generate_stream";
        assert_eq!(read(Some("stream")), Err(refused.to_owned()));
    }
}
