//! Calls as a worker writes them. Pure: a message in, a call out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use server_core::{
    error::{Error, Result},
    request::{CorrelationId, InferRequest, RequestedOutput, Sequence, VersionChoice},
};

use super::super::{
    channel::not_understood,
    decode::{Decoder, read_parameters},
    marshal::Value,
    wire::call,
};
use super::metrics::MetricCall;

/// What a worker asks for.
pub(super) enum Call {
    /// To run a request, which belongs to an execution, or to the latest.
    Exec {
        execution: Option<u64>,
        /// All responses are wanted, one by one.
        wants_all: bool,
        request: Box<InferRequest>,
    },
    /// The next response.
    Next,
    /// No more responses.
    Cancel,
    /// To load a model.
    Load { name: String, config: Option<String>, files: Vec<(String, Bytes)> },
    /// To unload one.
    Unload { name: String, unload_dependents: bool },
    /// Something of metrics.
    Metric(MetricCall),
    /// Whether one is ready.
    IsReady { name: String, version: String },
}

impl Call {
    /// Reads one. What it speaks of of the worker's memory is taken by `decoder`.
    ///
    /// Errors: it cannot be understood.
    pub(super) fn read(message: &Value<'_>, decoder: &mut Decoder<'_>) -> Result<Self> {
        let items = message.items();
        let kind = items.first().and_then(Value::number).unwrap_or_default();
        match (kind, &items[1.min(items.len())..]) {
            (call::EXEC, [execution, Value::Bool(wants_all), request]) => Ok(Self::Exec {
                execution: execution.number(),
                wants_all: *wants_all,
                request: Box::new(read_request(request, decoder)?),
            }),
            (call::NEXT, []) => Ok(Self::Next),
            (call::CANCEL, []) => Ok(Self::Cancel),
            (call::LOAD_MODEL, [name, config, Value::Dict(files)]) => Ok(Self::Load {
                name: name.text().to_owned(),
                config: Some(config.text().to_owned()).filter(|config| !config.is_empty()),
                files: files.iter().map(read_file).collect::<Result<_>>()?,
            }),
            (call::UNLOAD_MODEL, [name, Value::Bool(unload_dependents)]) => {
                Ok(Self::Unload { name: name.text().to_owned(), unload_dependents: *unload_dependents })
            }
            (call::IS_READY, [name, version]) => {
                Ok(Self::IsReady { name: name.text().to_owned(), version: version.text().to_owned() })
            }
            (call::METRIC, rest) => MetricCall::read(rest).map(Self::Metric),
            _ => Err(not_understood("no such call")),
        }
    }
}

/// A file's name, as Triton's clients give it, and its bytes.
fn read_file((name, content): &(Value<'_>, Value<'_>)) -> Result<(String, Bytes)> {
    let Value::Bytes(content) = content else { return Err(not_understood("a file without bytes")) };
    let name = name.text();
    let name = name.strip_prefix("file:").unwrap_or(name);
    Ok((name.to_owned(), Bytes::copy_from_slice(content)))
}

fn read_request(value: &Value<'_>, decoder: &mut Decoder<'_>) -> Result<InferRequest> {
    let [model, version, id, inputs, outputs, correlation_id, flags, timeout, parameters] = value.items() else {
        return Err(not_understood("no such request"));
    };
    let flags = flags.number().unwrap_or_default();
    let correlation_id = match correlation_id {
        Value::Str(text) => Some(CorrelationId::Text((*text).to_owned())).filter(|_| !text.is_empty()),
        number => number.number().filter(|number| *number != 0).map(CorrelationId::Number),
    };
    let timeout = timeout.number().filter(|timeout| *timeout > 0);
    let output = |name: &Value<'_>| RequestedOutput { name: name.text().into(), classification: 0 };
    Ok(InferRequest {
        model_name: model.text().into(),
        model_version: version.number().map_or(VersionChoice::Latest, VersionChoice::Exact),
        id: id.text().to_owned(),
        inputs: inputs.items().iter().map(|input| decoder.tensor(input)).collect::<Result<_>>()?,
        outputs: outputs.items().iter().map(output).collect(),
        parameters: read_parameters(parameters)?,
        sequence: Sequence::of(correlation_id, flags & 1 != 0, flags & 2 != 0),
        priority: 0,
        timeout: timeout.map(Duration::from_micros),
        received_at: Instant::now(),
        callers: None,
    })
}

/// A version as models write it: nothing, -1, or a number.
///
/// Errors: it is none of these.
pub(super) fn version(text: &str) -> Result<VersionChoice, Error> {
    if text == "-1" { Ok(VersionChoice::Latest) } else { VersionChoice::parse(text) }
}
