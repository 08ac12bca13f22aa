//! The model repository extension: index, load, unload.

use std::collections::BTreeMap;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::Response;
use serde::Serialize;
use server_core::{
    backend::{Device, MemoryUse},
    error::{Error, Result},
};
use server_engine::{IndexEntry, LoadParameters, Override};

use crate::{
    body::{Body, RequestBody},
    connection::Activity,
    held::Received,
    json::value::{Value, text},
    limits::BodyLimit,
    reply::{empty, json},
    server::Server,
    to_json::to_json,
};

/// Longer load requests, which carry files, are decoded on the blocking pool. Units: bytes.
const LONG_LOAD: usize = 256 << 10;

#[derive(Serialize)]
struct Line {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    /// What of the model came with a load request and stands in for what its folder says.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#override: Option<&'static str>,
    /// What the version holds, by device, where that was asked for and is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    memory: Vec<Memory>,
}

/// Memory on one device, in the words of Triton's statistics.
#[derive(Clone, Serialize)]
struct Memory {
    r#type: &'static str,
    id: u32,
    byte_size: u64,
}

impl Memory {
    /// One for each device.
    fn of(used: &[MemoryUse]) -> Vec<Self> {
        let mut devices: BTreeMap<(&'static str, u32), u64> = BTreeMap::new();
        for MemoryUse { device, bytes } in used {
            let device = match device {
                Device::Gpu(id) => ("GPU", *id),
                Device::Cpu | Device::Model => ("CPU", 0),
            };
            *devices.entry(device).or_default() += bytes;
        }
        devices.into_iter().map(|((r#type, id), byte_size)| Self { r#type, id, byte_size }).collect()
    }
}

impl Line {
    fn new(entry: IndexEntry, overrides: &BTreeMap<String, Override>) -> Self {
        Self {
            r#override: overrides.get(&entry.name).map(|given| match given {
                Override::Config => "config",
                Override::Files => "files",
            }),
            memory: Vec::new(),
            name: entry.name,
            version: entry.version.map(|version| version.to_string()),
            state: entry.state.map(server_engine::VersionState::text),
            reason: entry.reason,
        }
    }
}

/// What a request asks the index for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IndexQuery {
    /// Versions that are ready, and no others.
    ready_only: bool,
    /// What came with load requests, beside each model that serves such. Ours; clients of Triton do not ask for it.
    overrides: bool,
    /// What each version holds in memory. Ours as well.
    memory: bool,
}

/// `POST /v2/repository/index`. Errors: the server is not ready, or the body is wrong.
pub(crate) async fn index(server: &Server, activity: &Activity, body: &mut RequestBody) -> Result<Response<Body>> {
    let body = read(server, activity, body).await?;
    let query = index_query(&body.bytes)?;
    let entries = server.engine.current_index(query.ready_only).await?;
    let overrides = if query.overrides { server.engine.overrides() } else { BTreeMap::new() };
    let memory = if query.memory { server.engine.memory() } else { BTreeMap::new() };
    let line = |entry: IndexEntry| {
        let used = entry.version.and_then(|version| memory.get(&(entry.name.clone(), version)));
        Line { memory: used.map(|used| Memory::of(used)).unwrap_or_default(), ..Line::new(entry, &overrides) }
    };
    let lines: Vec<Line> = entries.into_iter().map(line).collect();
    to_json(&lines).map(json)
}

/// The body of any of these requests is JSON.
async fn read(server: &Server, activity: &Activity, body: &mut RequestBody) -> Result<Received> {
    let limit = BodyLimit::Json(server.options.max_input_size);
    body.read(limit, &server.options.byte_budget, activity, None).await
}

pub(crate) fn index_query(body: &[u8]) -> Result<IndexQuery> {
    if body.is_empty() {
        return Ok(IndexQuery { ready_only: false, overrides: false, memory: false });
    }
    let body = Value::parse(body)?;
    let is = |name: &str| match body.member(name) {
        None => Ok(false),
        Some(Value::Bool(is)) => Ok(*is),
        Some(_) => Err(Error::invalid_argument(format!("Invalid value for '{name}': expected a boolean"))),
    };
    Ok(IndexQuery { ready_only: is("ready")?, overrides: is("overrides")?, memory: is("memory")? })
}

/// `POST /v2/repository/models/{m}/load`: answers when the model serves. Errors: it does not.
pub(crate) async fn load(
    server: &Server,
    activity: &Activity,
    has_repository: bool,
    name: &str,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    no_repository(has_repository)?;
    let Received { bytes, mut reservation } = read(server, activity, body).await?;
    let is_long = bytes.len() > LONG_LOAD;
    let parameters = server.options.blocking_pool.run_if(is_long, move || load_parameters(&bytes)).await??;
    // the text is gone, what was made of it stays until the model is loaded
    let files: usize = parameters.files.iter().map(|(_, content)| content.len()).sum();
    reservation.shrink_to(files);
    server.engine.load(name, parameters).await?;
    Ok(empty())
}

/// `POST /v2/repository/models/{m}/unload`: answers before the last request has ended.
pub(crate) async fn unload(
    server: &Server,
    activity: &Activity,
    has_repository: bool,
    name: &str,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    no_repository(has_repository)?;
    let body = read(server, activity, body).await?;
    server.engine.unload(name, unload_dependents(&body.bytes)?).await?;
    Ok(empty())
}

fn no_repository(has_repository: bool) -> Result<()> {
    if has_repository {
        return Err(Error::unsupported("'repository_name' specification is not supported"));
    }
    Ok(())
}

pub(crate) fn load_parameters(body: &[u8]) -> Result<LoadParameters> {
    let mut parameters = LoadParameters::default();
    if body.is_empty() {
        return Ok(parameters);
    }
    let body = Value::parse(body)?;
    for (name, value) in members_of_parameters(&body)? {
        let value = || {
            value.as_bytes().ok_or_else(|| {
                Error::internal(format!("Unable to parse '{name}': attempt to access JSON non-string as string"))
            })
        };
        if name == "config" {
            parameters.config = Some(text(value()?));
        } else if let Some(path) = name.strip_prefix("file:") {
            let content = decode_base64(value()?).map_err(|error| {
                Error::invalid_argument(format!("Unable to parse '{name}': not valid base64: {error}"))
            })?;
            parameters.files.push((path.to_owned(), content.into()));
        } else {
            return Err(Error::internal("unexpected error on creating Triton parameter"));
        }
    }
    Ok(parameters)
}

/// Decodes base64 as RFC 2045 writes it: with line breaks and other blanks anywhere, padded or not.
pub(crate) fn decode_base64(text: &[u8]) -> Result<Vec<u8>, base64::DecodeError> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    if !text.iter().any(u8::is_ascii_whitespace) {
        return LENIENT.decode(text);
    }
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    LENIENT.decode(text)
}

pub(crate) fn unload_dependents(body: &[u8]) -> Result<bool> {
    if body.is_empty() {
        return Ok(false);
    }
    let body = Value::parse(body)?;
    match body.member("parameters").and_then(|parameters| parameters.member("unload_dependents")) {
        None => Ok(false),
        Some(Value::Bool(unload)) => Ok(*unload),
        Some(_) => {
            Err(Error::internal("Unable to parse 'unload_dependents': attempt to access JSON non-boolean as boolean"))
        }
    }
}

fn members_of_parameters<'a, 'b>(body: &'b Value<'a>) -> Result<&'b [(String, Value<'a>)]> {
    match body.member("parameters") {
        None => Ok(&[]),
        Some(parameters) => parameters.members().ok_or_else(|| {
            Error::internal("Unable to parse 'parameters': attempt to access JSON non-object as object")
        }),
    }
}

#[cfg(test)]
mod tests {
    use server_engine::VersionState;

    use super::*;

    #[test]
    fn a_line_says_only_what_is_known() {
        let entry =
            |version, state, reason: &str| IndexEntry { name: "m".into(), version, state, reason: reason.into() };
        let lines: Vec<Line> = [
            entry(None, None, ""),
            entry(Some(2), Some(VersionState::Ready), ""),
            entry(Some(1), Some(VersionState::Unavailable), "unloaded"),
        ]
        .into_iter()
        .map(|entry| Line::new(entry, &BTreeMap::new()))
        .collect();
        assert_eq!(
            String::from_utf8(to_json(&lines).unwrap()).unwrap(),
            "[{\"name\":\"m\"},{\"name\":\"m\",\"version\":\"2\",\"state\":\"READY\"},\
             {\"name\":\"m\",\"version\":\"1\",\"state\":\"UNAVAILABLE\",\"reason\":\"unloaded\"}]"
        );
        let overrides = BTreeMap::from([("m".to_owned(), Override::Files)]);
        let line = Line::new(entry(Some(2), Some(VersionState::Ready), ""), &overrides);
        let text = String::from_utf8(to_json(&line).unwrap()).unwrap();
        assert_eq!(text, r#"{"name":"m","version":"2","state":"READY","override":"files"}"#);
    }

    #[test]
    fn memory_is_given_by_device() {
        let used = |device, bytes| MemoryUse { device, bytes };
        let all = [
            used(Device::Gpu(1), 7),
            used(Device::Cpu, 1),
            used(Device::Gpu(0), 5),
            used(Device::Gpu(1), 8),
            used(Device::Model, 2),
        ];
        let text = String::from_utf8(to_json(&Memory::of(&all)).unwrap()).unwrap();
        assert_eq!(
            text,
            "[{\"type\":\"CPU\",\"id\":0,\"byte_size\":3},{\"type\":\"GPU\",\"id\":0,\"byte_size\":5},\
             {\"type\":\"GPU\",\"id\":1,\"byte_size\":15}]"
        );
    }

    #[test]
    fn the_index_can_be_asked_for_ready_models_only_and_for_what_stands_in_for_their_folders() {
        let query = |ready_only, overrides| Ok(IndexQuery { ready_only, overrides, memory: false });
        assert_eq!(index_query(b""), query(false, false));
        assert_eq!(index_query(b"{}"), query(false, false));
        assert_eq!(index_query(b"{\"ready\":true}"), query(true, false));
        assert_eq!(index_query(b"{\"overrides\":true}"), query(false, true));
        assert!(index_query(b"{\"memory\":true}").unwrap().memory);
        for name in ["ready", "overrides", "memory"] {
            let error = index_query(format!("{{\"{name}\":1}}").as_bytes()).unwrap_err();
            assert_eq!(error.message, format!("Invalid value for '{name}': expected a boolean"));
        }
    }

    #[test]
    fn a_load_request_carries_a_configuration_and_files() {
        let body = br#"{"parameters":{"config":"{\"backend\":\"x\"}","file:1/model.onnx":"AAEC"}}"#;
        let parameters = load_parameters(body).unwrap();
        assert_eq!(parameters.config.as_deref(), Some("{\"backend\":\"x\"}"));
        assert_eq!(parameters.files, [("1/model.onnx".to_owned(), vec![0, 1, 2].into())]);
        assert!(load_parameters(b"").unwrap().config.is_none());
        let error = |body: &str| load_parameters(body.as_bytes()).unwrap_err().message.into_owned();
        assert_eq!(error(r#"{"parameters":{"other":"x"}}"#), "unexpected error on creating Triton parameter");
        assert!(error(r#"{"parameters":{"file:a":"?"}}"#).starts_with("Unable to parse 'file:a': not valid base64"));
        assert!(error(r#"{"parameters":{"config":{}}}"#).contains("non-string as string"));
    }

    #[test]
    fn base64_is_read_in_every_form_of_rfc_2045() {
        for text in ["AAECAw==", "AAECAw", "AAEC\nAw==\n", "AAEC\r\nAw==\r\n", " AA EC\tAw= =", "AAECAx=="] {
            assert_eq!(decode_base64(text.as_bytes()), Ok(vec![0, 1, 2, 3]), "{text:?}");
        }
        let lines = ["QUJD"; 19].join("").repeat(100).as_bytes().chunks(76).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(decode_base64(&lines.join(&b"\r\n"[..])).unwrap(), b"ABC".repeat(1900));
        for text in ["AA?C", "AAECA", "AA-_", "AAEC=AAEC"] {
            assert!(decode_base64(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_unload_request_may_take_its_parts_along() {
        assert_eq!(unload_dependents(b""), Ok(false));
        assert_eq!(unload_dependents(b"{\"parameters\":{\"unload_dependents\":true}}"), Ok(true));
        assert!(unload_dependents(b"{\"parameters\":{\"unload_dependents\":3}}").is_err());
    }

    #[test]
    fn a_named_repository_is_not_supported() {
        let error = no_repository(true).unwrap_err();
        assert_eq!(error.message, "'repository_name' specification is not supported");
    }
}
