//! Trace settings and log settings: read, and changed while the server runs.

use http::{Method, Response};
use indexmap::IndexMap;
use serde::Serialize;
use server_core::{
    error::{Error, Result},
    log_settings::{self, LogUpdate},
    trace::{Text, settings::Update},
};

use crate::{
    body::{Body, RequestBody},
    connection::Activity,
    held::Received,
    json::{
        number::Number,
        value::{Value, text},
    },
    limits::BodyLimit,
    reply::json,
    server::Server,
    to_json::to_json,
};

/// `GET` and `POST /v2[/models/{m}]/trace/setting`. Errors: the model is unknown, or the body is wrong.
pub(crate) async fn trace(
    server: &Server,
    activity: &Activity,
    method: &Method,
    model: Option<&str>,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let engine = &server.engine;
    let model = model.map(|model| engine.traced_model(model)).transpose()?;
    if *method == Method::POST {
        let body = read(server, activity, body).await?;
        let update = trace_update(&body.bytes)?;
        engine.tracer().update(model.as_deref(), &update)?;
    }
    let settings = engine.tracer().settings(model.as_deref());
    let shown: IndexMap<Text, Shown> = settings
        .into_iter()
        .map(|(name, values)| {
            let shown = if name == "trace_level" { Shown::List(values) } else { Shown::One(values.concat()) };
            (name, shown)
        })
        .collect();
    to_json(&shown).map(json)
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    List(Vec<Text>),
    One(String),
}

/// The fields in the order in which Triton looks at them: of several faults the first is told.
fn trace_update(body: &[u8]) -> Result<Update> {
    let body = Value::parse(body)?;
    let mut update = Update::default();
    for name in ["trace_file", "trace_level", "trace_rate", "trace_count", "log_frequency"] {
        let Some(value) = body.member(name) else { continue };
        match value {
            Value::Null if name == "trace_level" => update.levels = Some(None),
            Value::Array(levels) if name == "trace_level" => {
                let levels: Vec<String> = levels.iter().map(string).collect::<Result<_>>()?;
                update.take_levels(levels.iter().map(String::as_str))?;
            }
            _ if name == "trace_level" => return Err(Error::internal("attempt to access JSON non-array as array")),
            Value::Null => update.take(name, None, "")?,
            Value::Number(Number::Int(number)) if *number >= 0 || name == "trace_count" => {
                update.take(name, Some(&number.to_string()), "")?;
            }
            Value::Number(Number::Uint(number)) => update.take(name, Some(&number.to_string()), "")?,
            _ if name == "trace_file" => update.take(name, None, "")?,
            value => update.take(name, Some(&string(value)?), "")?,
        }
    }
    Ok(update)
}

fn string(value: &Value<'_>) -> Result<String> {
    value.as_bytes().map(text).ok_or_else(|| Error::internal("attempt to access JSON non-string as string"))
}

#[derive(Serialize)]
struct Log<'a> {
    log_file: &'a str,
    log_info: bool,
    log_warning: bool,
    log_error: bool,
    log_verbose_level: u32,
    log_format: &'a str,
}

/// `GET` and `POST /v2/logging`. Errors: the body is wrong.
pub(crate) async fn log(
    server: &Server,
    activity: &Activity,
    method: &Method,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let settings = server.engine.log_settings();
    if *method == Method::POST {
        let body = read(server, activity, body).await?;
        settings.update(&log_update(&body.bytes)?);
    }
    let values = settings.values();
    let shown = Log {
        log_file: settings.file(),
        log_info: values.info,
        log_warning: values.warning,
        log_error: values.error,
        log_verbose_level: values.verbose,
        log_format: values.format.name(),
    };
    to_json(&shown).map(json)
}

fn log_update(body: &[u8]) -> Result<LogUpdate> {
    let body = Value::parse(body)?;
    let mut update = LogUpdate::default();
    let given = |name: &str| body.member(name).filter(|value| **value != Value::Null);
    if given("log_file").is_some() {
        return Err(log_settings::file());
    }
    for name in ["log_info", "log_warning", "log_error"] {
        match (given(name), update.switch(name)) {
            (Some(Value::Bool(value)), Some(switch)) => *switch = Some(*value),
            (Some(_), _) => return Err(Error::internal("attempt to access JSON non-boolean as boolean")),
            (None, _) => {}
        }
    }
    if let Some(value) = given("log_verbose_level") {
        let refused = || Error::internal("attempt to access JSON non-unsigned-integer as unsigned-integer");
        let level = value.as_u64().ok_or_else(refused)?;
        update.verbose = Some(u32::try_from(level).map_err(|_| {
            Error::invalid_argument(format!("log_verbose_level is out of range [ 0, 4294967295 ], got: {level}"))
        })?);
    }
    if let Some(value) = given("log_format") {
        update.format = Some(log_settings::format(&string(value)?, Error::unavailable, "--log_format")?);
    }
    Ok(update)
}

async fn read(server: &Server, activity: &Activity, body: &mut RequestBody) -> Result<Received> {
    let limit = BodyLimit::Json(server.options.max_input_size);
    body.read(limit, &server.options.byte_budget, activity, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses(outcome: Result<impl std::fmt::Debug>, expect: &str) {
        assert_eq!(outcome.unwrap_err().message, expect);
    }

    #[test]
    fn trace_settings_are_texts_numbers_or_null() {
        let update =
            trace_update(br#"{"trace_level":["TENSORS"],"trace_rate":5,"trace_count":"-1","log_frequency":null}"#);
        let expect = Update {
            levels: Some(Some((false, true))),
            rate: Some(Some(5)),
            count: Some(Some(-1)),
            log_frequency: Some(None),
        };
        assert_eq!(update, Ok(expect));
        for nothing in ["null", "[]", "{}", r#"{"unknown":1}"#, r#"{"trace_mode":"opentelemetry"}"#] {
            assert_eq!(trace_update(nothing.as_bytes()), Ok(Update::default()), "{nothing}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_tritons_words() {
        let trace = |text: &str| trace_update(text.as_bytes());
        refuses(trace(r#"{"trace_level":"OFF"}"#), "attempt to access JSON non-array as array");
        refuses(trace(r#"{"trace_level":[1]}"#), "attempt to access JSON non-string as string");
        refuses(trace(r#"{"trace_rate":1.5}"#), "attempt to access JSON non-string as string");
        refuses(trace(r#"{"trace_rate":-1}"#), "attempt to access JSON non-string as string");
        refuses(trace(r#"{"trace_count":-2}"#), "Unable to parse 'trace_count'. Expecting value >= -1, got:-2");
        for file in ["1", "null", "\"x\"", "{}"] {
            let expect = "trace file location can not be updated through network protocol";
            refuses(trace(&format!(r#"{{"trace_rate":"x","trace_file":{file}}}"#)), expect);
        }
        let log = |text: &str| log_update(text.as_bytes());
        refuses(log(r#"{"log_file":"x"}"#), "log file location can not be updated through network protocol");
        refuses(log(r#"{"log_info":"true"}"#), "attempt to access JSON non-boolean as boolean");
        let text = "attempt to access JSON non-unsigned-integer as unsigned-integer";
        for level in ["-1", "\"1\"", "1.5", "true"] {
            refuses(log(&format!(r#"{{"log_verbose_level":{level}}}"#)), text);
        }
        refuses(log(r#"{"log_format":"x"}"#), "invalid argument for --log_format, got: x");
        refuses(log(r#"{"log_format":1}"#), "attempt to access JSON non-string as string");
        refuses(
            log(r#"{"log_verbose_level":4294967296}"#),
            "log_verbose_level is out of range [ 0, 4294967295 ], got: 4294967296",
        );
    }
}
