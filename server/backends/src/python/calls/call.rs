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
        /// The trace that it is to be a part of.
        trace: Option<u64>,
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
                trace: request.items().last().and_then(Value::number),
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
    let [model, version, id, inputs, outputs, correlation_id, flags, timeout, parameters, _trace] = value.items()
    else {
        return Err(not_understood("no such request"));
    };
    let flags = flags.number().unwrap_or_default();
    let correlation_id = match correlation_id {
        Value::Str(text) => Some(CorrelationId::Text((*text).to_owned())).filter(|_| !text.is_empty()),
        number => number.number().filter(|number| *number != 0).map(CorrelationId::Number),
    };
    let timeout = timeout.number().filter(|timeout| *timeout > 0);
    let output = |name: &Value<'_>| RequestedOutput::values(name.text());
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
        trace: None,
    })
}

/// A version as models write it: nothing, -1, or a number.
///
/// Errors: it is none of these.
pub(super) fn version(text: &str) -> Result<VersionChoice, Error> {
    if text == "-1" { Ok(VersionChoice::Latest) } else { VersionChoice::parse(text) }
}

#[cfg(test)]
mod tests {
    use server_core::request::Parameter;
    use server_shm::{Limits, SegmentPool};

    use super::*;
    use crate::python::memory::{InputLeases, Outputs};

    fn read(items: Vec<Value<'static>>) -> Result<Call> {
        let (leases, outputs) = (InputLeases::new(SegmentPool::new(Limits::default()), 0), Outputs::default());
        Call::read(&Value::List(items), &mut Decoder::new("m_0", &[], &leases, &outputs))
    }

    fn called(version: i64, correlation_id: Value<'static>, flags: i64, timeout: i64) -> Value<'static> {
        let float = [Value::Str("IN"), Value::Int(11), Value::List(vec![Value::Int(1)]), Value::Bytes(&[0; 4])];
        Value::List(vec![
            Value::Str("other"),
            if version < 0 { Value::None } else { Value::Int(version) },
            Value::Str("id"),
            Value::List(vec![Value::List(float.into())]),
            Value::List(vec![Value::Str("OUT")]),
            correlation_id,
            Value::Int(flags),
            Value::Int(timeout),
            Value::Dict(vec![(Value::Str("a"), Value::Bool(true))]),
            Value::Int(7),
        ])
    }

    fn exec(called: Value<'static>) -> InferRequest {
        match read(vec![Value::Int(40), Value::None, Value::Bool(false), called]) {
            Ok(Call::Exec { execution: None, trace: Some(7), wants_all: false, request }) => *request,
            _ => panic!("no request"),
        }
    }

    #[test]
    fn a_request_comes_with_all_that_the_model_gave_it() {
        let request = exec(called(3, Value::Str("seven"), 1, 5000));
        assert_eq!((&*request.model_name, request.model_version), ("other", VersionChoice::Exact(3)));
        assert_eq!((request.id.as_str(), &*request.outputs[0].name), ("id", "OUT"));
        assert_eq!(request.inputs[0].data.as_host(), Some(&[0u8; 4][..]));
        assert_eq!(request.parameters, [("a".to_owned(), Parameter::Bool(true))]);
        assert_eq!(request.timeout, Some(Duration::from_millis(5)));
        let sequence = Sequence { id: CorrelationId::Text("seven".into()), is_start: true, is_end: false };
        assert_eq!(request.sequence, Some(sequence));
    }

    #[test]
    fn what_a_model_leaves_out_is_not_there() {
        let request = exec(called(-1, Value::Int(0), 0, 0));
        assert_eq!(request.model_version, VersionChoice::Latest);
        assert_eq!((request.sequence, request.timeout), (None, None));
        assert_eq!(exec(called(-1, Value::Str(""), 0, 0)).sequence, None);
    }

    #[test]
    fn what_is_no_call_is_refused() {
        assert!(read(vec![]).is_err());
        assert!(read(vec![Value::Int(41), Value::Int(1)]).is_err());
        assert!(read(vec![Value::Int(40), Value::None, Value::Bool(false), Value::List(vec![])]).is_err());
        assert!(read(vec![Value::Int(43), Value::Str("m"), Value::Str(""), Value::None]).is_err());
        assert!(matches!(read(vec![Value::Int(41)]), Ok(Call::Next)));
    }

    #[test]
    fn files_are_named_by_their_path_in_the_model() {
        let files = Value::Dict(vec![(Value::Str("file:1/model.py"), Value::Bytes(b"x"))]);
        let call = read(vec![Value::Int(43), Value::Str("m"), Value::Str(""), files]);
        let Ok(Call::Load { name, config: None, files }) = call else { panic!("no load") };
        assert_eq!((name.as_str(), files), ("m", vec![("1/model.py".to_owned(), Bytes::from_static(b"x"))]));
    }
}
