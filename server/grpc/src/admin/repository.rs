//! The index of the model repositories, loading and unloading.

use std::{collections::BTreeMap, sync::Arc};

use server_core::error::{Error, Result};
use server_engine::{Engine, IndexEntry, LoadParameters};
use server_proto::inference::{
    ModelRepositoryParameter, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
    model_repository_parameter::ParameterChoice, repository_index_response::ModelIndex,
};

/// Every model with the states of its versions.
pub(crate) async fn index(engine: &Engine, request: &RepositoryIndexRequest) -> Result<RepositoryIndexResponse> {
    check_repository_unnamed(&request.repository_name)?;
    let models = engine.current_index(request.ready).await?.into_iter().map(model_index).collect();
    Ok(RepositoryIndexResponse { models })
}

/// Loads or reloads a model; answers when it serves or has failed.
pub(crate) async fn load(
    engine: &Arc<Engine>,
    request: RepositoryModelLoadRequest,
) -> Result<RepositoryModelLoadResponse> {
    check_repository_unnamed(&request.repository_name)?;
    engine.load(&request.model_name, load_parameters(request.parameters)?).await?;
    Ok(RepositoryModelLoadResponse {})
}

/// Unloads a model.
pub(crate) async fn unload(
    engine: &Arc<Engine>,
    mut request: RepositoryModelUnloadRequest,
) -> Result<RepositoryModelUnloadResponse> {
    check_repository_unnamed(&request.repository_name)?;
    let unload_dependents = match request.parameters.remove("unload_dependents") {
        None => false,
        Some(ModelRepositoryParameter { parameter_choice: Some(ParameterChoice::BoolParam(is_set)) }) => is_set,
        Some(_) => {
            return Err(Error::invalid_argument(
                "invalid value type for 'unload_dependents' parameter, expected bool_param.",
            ));
        }
    };
    engine.unload(&request.model_name, unload_dependents).await?;
    Ok(RepositoryModelUnloadResponse {})
}

/// All repositories are searched: none can be selected by name.
fn check_repository_unnamed(name: &str) -> Result<()> {
    if name.is_empty() { Ok(()) } else { Err(Error::unsupported("'repository_name' specification is not supported")) }
}

fn model_index(entry: IndexEntry) -> ModelIndex {
    ModelIndex {
        name: entry.name,
        version: entry.version.map(|version| version.to_string()).unwrap_or_default(),
        state: entry.state.map(|state| state.text().to_owned()).unwrap_or_default(),
        reason: entry.reason,
    }
}

fn load_parameters(given: BTreeMap<String, ModelRepositoryParameter>) -> Result<LoadParameters> {
    let mut parameters = LoadParameters::default();
    for (key, value) in given {
        let expected = |kind: &str| {
            Error::invalid_argument(format!("invalid value type for load parameter '{key}', expected {kind}."))
        };
        match (key.strip_prefix("file:"), value.parameter_choice) {
            (Some(path), Some(ParameterChoice::BytesParam(content))) => {
                parameters.files.push((path.to_owned(), content));
            }
            (Some(_), _) => return Err(expected("bytes_param")),
            (None, choice) if key == "config" => match choice {
                Some(ParameterChoice::StringParam(config)) => parameters.config = Some(config),
                _ => return Err(expected("string_param")),
            },
            (None, _) => return Err(Error::invalid_argument(format!("unrecognized load parameter '{key}'."))),
        }
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use server_engine::VersionState;

    use super::*;

    fn parameters(given: Vec<(&str, ParameterChoice)>) -> Result<LoadParameters> {
        let named =
            |(key, choice): (&str, _)| (key.to_owned(), ModelRepositoryParameter { parameter_choice: Some(choice) });
        load_parameters(given.into_iter().map(named).collect())
    }

    #[test]
    fn a_configuration_and_files_are_read() {
        let parameters = parameters(vec![
            ("config", ParameterChoice::StringParam("{}".into())),
            ("file:1/model.onnx", ParameterChoice::BytesParam(b"\x01\x02".as_slice().into())),
        ])
        .unwrap();
        assert_eq!(parameters.config.as_deref(), Some("{}"));
        assert_eq!(parameters.files, [("1/model.onnx".to_owned(), vec![1, 2].into())]);
    }

    #[test]
    fn other_types_and_names_are_refused() {
        for (key, choice, message) in [
            (
                "config",
                ParameterChoice::BoolParam(true),
                "invalid value type for load parameter 'config', expected string_param.",
            ),
            (
                "file:1/model.onnx",
                ParameterChoice::StringParam("AQ==".into()),
                "invalid value type for load parameter 'file:1/model.onnx', expected bytes_param.",
            ),
            ("configuration", ParameterChoice::Int64Param(1), "unrecognized load parameter 'configuration'."),
        ] {
            assert_eq!(parameters(vec![(key, choice)]).unwrap_err(), Error::invalid_argument(message));
        }
    }

    #[test]
    fn an_index_entry_without_version_or_state_has_empty_fields() {
        let line = model_index(IndexEntry { name: "m".into(), version: None, state: None, reason: String::new() });
        assert_eq!(line, ModelIndex { name: "m".into(), ..Default::default() });
        let entry = IndexEntry {
            name: "m".into(),
            version: Some(3),
            state: Some(VersionState::Unavailable),
            reason: "r".into(),
        };
        let line =
            ModelIndex { name: "m".into(), version: "3".into(), state: "UNAVAILABLE".into(), reason: "r".into() };
        assert_eq!(model_index(entry), line);
    }
}
