//! What libraries ask about models, and have done with them.

use std::ffi::c_void;

use bytes::Bytes;
use server_core::{
    error::{Error, Result},
    request::VersionChoice,
};

use super::{
    Server,
    parameters::{Parameter, Value},
};
use crate::abi::{Array, Handle, Out, Text, export::exports, numbers::model_flag};

/// A version as libraries say it: -1 is the highest that is ready.
///
/// Errors: it is another negative number.
pub(super) fn version(number: i64) -> Result<VersionChoice> {
    match number {
        -1 => Ok(VersionChoice::Latest),
        _ => u64::try_from(number).map(VersionChoice::Exact).map_err(|_| {
            Error::invalid_argument(format!("invalid model version {number}: it is -1 for any, or a number from 0"))
        }),
    }
}

exports! {
    /// Whether the server lives: it does, while its libraries run.
    fn TRITONSERVER_ServerIsLive(server: Handle<Server>, is_live: Out<bool>) {
        server.get()?;
        is_live.set(true)
    }

    /// Whether the server is ready, as clients hear it.
    fn TRITONSERVER_ServerIsReady(server: Handle<Server>, is_ready: Out<bool>) {
        is_ready.set(server.get()?.host()?.is_server_ready()?)
    }

    /// Whether a model can serve; one that is unknown cannot.
    fn TRITONSERVER_ServerModelIsReady(
        server: Handle<Server>,
        model_name: Text,
        model_version: i64,
        is_ready: Out<bool>,
    ) {
        let host = server.get()?.host()?;
        is_ready.set(host.is_model_ready(&model_name.get()?, version(model_version)?)?)
    }

    /// Whether a model answers once, or any number of times.
    fn TRITONSERVER_ServerModelTransactionProperties(
        server: Handle<Server>,
        model_name: Text,
        model_version: i64,
        flags: Out<u32>,
        detail: Out<*mut c_void>,
    ) {
        let host = server.get()?.host()?;
        let found = host.find_model(&model_name.get()?, version(model_version)?)?;
        detail.set_if_wanted(std::ptr::null_mut());
        flags.set(if found.is_decoupled { model_flag::TXN_DECOUPLED } else { model_flag::TXN_ONE_TO_ONE })
    }

    /// Loads a model, or loads it anew.
    fn TRITONSERVER_ServerLoadModel(server: Handle<Server>, model_name: Text) {
        let server = server.get()?;
        server.host()?.load_model(&server.asked_by, &model_name.get()?, None, Vec::new())
    }

    /// The same, with a configuration (`config`) and files (`file:PATH`) in place of those in the repository.
    fn TRITONSERVER_ServerLoadModelWithParameters(
        server: Handle<Server>,
        model_name: Text,
        parameters: Array<Handle<Parameter>>,
        parameter_count: u64,
    ) {
        let server = server.get()?;
        let (config, files) = load_parameters(parameters.get(parameter_count)?)?;
        server.host()?.load_model(&server.asked_by, &model_name.get()?, config, files)
    }

    /// Takes a model out of service.
    fn TRITONSERVER_ServerUnloadModel(server: Handle<Server>, model_name: Text) {
        let server = server.get()?;
        server.host()?.unload_model(&server.asked_by, &model_name.get()?, false)
    }

    /// The same, and the models that an ensemble is made of.
    fn TRITONSERVER_ServerUnloadModelAndDependents(server: Handle<Server>, model_name: Text) {
        let server = server.get()?;
        server.host()?.unload_model(&server.asked_by, &model_name.get()?, true)
    }
}

type LoadParameters = (Option<String>, Vec<(String, Bytes)>);

/// Errors: a parameter that loads do not have, in Triton's words.
fn load_parameters(parameters: &[Handle<Parameter>]) -> Result<LoadParameters> {
    let (mut config, mut files) = (None, Vec::new());
    for parameter in parameters {
        let parameter = parameter.get()?;
        let name = parameter.name.to_string_lossy();
        match (name.strip_prefix("file:"), &parameter.value) {
            (Some(path), Value::Bytes(content)) => files.push((path.to_owned(), content.clone())),
            (Some(_), _) => {
                let text = format!("Unexpected parameter type for load parameter '{name}', it must be bytes");
                return Err(Error::invalid_argument(text));
            }
            (None, Value::String(text)) if name == "config" => config = Some(text.to_string_lossy().into_owned()),
            (None, _) if name == "config" => {
                return Err(Error::invalid_argument("config parameter must be of string type"));
            }
            (None, _) => return Err(Error::invalid_argument(format!("Unexpected load parameter '{name}'"))),
        }
    }
    Ok((config, files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::objects::text;

    fn parameter(name: &str, value: Value) -> Handle<Parameter> {
        Handle::new(Parameter { name: text(name), value })
    }

    #[test]
    fn versions_are_numbers_or_any() {
        assert_eq!(version(-1), Ok(VersionChoice::Latest));
        assert_eq!(version(7), Ok(VersionChoice::Exact(7)));
        assert!(version(-2).is_err());
    }

    #[test]
    fn a_load_takes_a_configuration_and_files() {
        let bytes = Bytes::from_static(b"x");
        let parameters = [
            parameter("config", Value::String(text("{}"))),
            parameter("file:1/model.onnx", Value::Bytes(bytes.clone())),
        ];
        let expect = (Some("{}".to_owned()), vec![("1/model.onnx".to_owned(), bytes)]);
        assert_eq!(load_parameters(&parameters), Ok(expect));
        for (name, value) in [("config", Value::Int(1)), ("file:1/x", Value::Bool(true)), ("other", Value::Int(1))] {
            let error = load_parameters(&[parameter(name, value)]).unwrap_err();
            assert!(error.message.contains(name), "{error}");
        }
    }
}
