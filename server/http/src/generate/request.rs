//! A flat JSON object made into a request: members named like an input are its elements, others are parameters.

use std::time::Instant;

use server_core::{
    error::{Error, Result},
    interface::{InputSpec, Interface},
    request::{InferRequest, Parameter, VersionChoice},
    tensor::{DataType, Shape, Tensor},
};
use smallvec::SmallVec;

use crate::json::{
    elements::{Elements, read_scalar_or_array},
    reader::{Kind, Reader, document},
    value::{Value, text},
};
use crate::limits::BodyLimit;

/// The member whose members are treated like those around it.
const NESTED: &str = "parameters";

/// Reads the body. An empty one counts as `{}`.
///
/// Shape: that of the input; fixed extents divide the elements given, the innermost wildcard takes what is left, other
/// wildcards, the batch dimension among them, are 1.
/// Units: `max_input_size` in bytes, of the body and of each tensor with it.
/// Errors: it is no JSON, elements are of the wrong kind, or do not fill the shape.
/// Source: Triton generate extension.
pub(crate) fn parse(
    interface: &Interface,
    body: &[u8],
    max_input_size: usize,
    received_at: Instant,
) -> Result<InferRequest> {
    BodyLimit::Json(max_input_size).check(body.len())?;
    let mut request = InferRequest {
        model_name: interface.model_name.clone(),
        model_version: VersionChoice::Latest,
        id: String::new(),
        inputs: SmallVec::new(),
        outputs: SmallVec::new(),
        parameters: Vec::new(),
        sequence: None,
        priority: 0,
        timeout: None,
        received_at,
        callers: None,
        trace: None,
    };
    let body = if body.is_empty() { b"{}" } else { body };
    let mut target = Target { interface, request: &mut request, request_size: body.len(), max_input_size };
    let members = document(body, |reader| members(reader)).map_err(|fault| fault.into_error())?;
    for (name, value) in members.ok_or_else(|| Error::internal("attempt to get members for non-object"))? {
        match name.as_str() {
            "id" if interface.input("id").is_none() => {
                let Value::String(id) = read(value)? else {
                    let text = "Unable to parse 'id': attempt to access JSON non-string as string";
                    return Err(Error::internal(text));
                };
                let id = text(&id);
                // the model finds it in both places
                target.request.parameters.push((name, Parameter::String(id.as_str().into())));
                target.request.id = id;
            }
            NESTED => target.take_nested(value)?,
            _ => target.take(&name, value)?,
        }
    }
    Ok(request)
}

/// Names of an object's members, and their texts, known to be well formed; `None` if it is no object.
type Members<'a> = Option<Vec<(String, &'a [u8])>>;

fn members<'a>(reader: &mut Reader<'a>) -> crate::json::reader::Parsed<Members<'a>> {
    if reader.kind() != Kind::Object {
        reader.skip()?;
        return Ok(None);
    }
    let mut members = Vec::new();
    reader.object(|reader, name| {
        members.push((text(name), reader.raw()?));
        Ok(())
    })?;
    Ok(Some(members))
}

fn read(value: &[u8]) -> Result<Value<'_>> {
    Value::read(&mut Reader::new(value)).map_err(|fault| fault.into_error())
}

struct Target<'a> {
    interface: &'a Interface,
    request: &'a mut InferRequest,
    request_size: usize,
    max_input_size: usize,
}

impl Target<'_> {
    fn take_nested(&mut self, value: &[u8]) -> Result<()> {
        if self.interface.input(NESTED).is_some() {
            return Err(Error::invalid_argument(format!(
                "Keyword '{NESTED}' for nested schema also given as input tensor name"
            )));
        }
        let members = members(&mut Reader::new(value)).map_err(|fault| fault.into_error())?;
        let members = members.ok_or_else(|| {
            Error::internal(format!(
                "Expected JSON object for keyword: '{NESTED}': attempt to access JSON non-object as object"
            ))
        })?;
        for (name, value) in members {
            self.take(&name, value).map_err(|error| {
                Error::new(error.code, format!("Converting keyword: '{NESTED}': {}", error.message))
            })?;
        }
        Ok(())
    }

    fn take(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let Some(spec) = self.interface.input(name) else {
            let parameter = read(value)?.to_parameter().ok_or_else(|| {
                Error::invalid_argument(format!(
                    "parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
                ))
            })?;
            self.request.parameters.push((name.to_owned(), parameter));
            return Ok(());
        };
        if matches!(spec.data_type, DataType::Fp16 | DataType::Bf16) {
            let text = format!("input '{name}' has unsupported datatype {}", spec.data_type);
            return Err(Error::invalid_argument(text));
        }
        let Elements { bytes, count } = read_scalar_or_array(&mut Reader::new(value), spec.data_type, usize::MAX)
            .map_err(|fault| fault.into_error())?;
        if self.request_size + bytes.len() > self.max_input_size {
            return Err(Error::invalid_argument(format!(
                "request size of {} bytes with input '{name}' of size {} bytes exceeds the maximum allowed input size \
                 of {}. Use --http-max-input-size to increase the limit.",
                self.request_size,
                bytes.len(),
                self.max_input_size
            )));
        }
        let shape = fill(self.interface, spec, count).ok_or_else(|| {
            Error::invalid_argument(format!("The schema can not convert input '{name}' to tensor with proper shape"))
        })?;
        let name = spec.name.clone();
        self.request.inputs.push(Tensor { name, data_type: spec.data_type, shape, data: bytes.into() });
        Ok(())
    }
}

/// The input's shape with its wildcards replaced so that it has `count` elements; `None` if there is no such shape.
fn fill(interface: &Interface, spec: &InputSpec, count: usize) -> Option<Shape> {
    let batch = (interface.max_batch_size > 0).then_some(-1);
    let mut shape: Shape = batch.into_iter().chain(spec.dims.iter().copied()).collect();
    let mut rest = i64::try_from(count).ok()?;
    for &extent in shape.iter().filter(|&&extent| extent != -1) {
        if extent <= 0 || rest % extent != 0 {
            return None;
        }
        rest /= extent;
    }
    for extent in shape.iter_mut().rev().filter(|extent| **extent == -1) {
        *extent = std::mem::replace(&mut rest, 1);
    }
    (rest == 1).then_some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(max_batch_size: u32, inputs: &[(&str, DataType, &[i64])]) -> Interface {
        let input = |&(name, data_type, dims): &(&str, DataType, &[i64])| InputSpec {
            name: name.into(),
            data_type,
            dims: dims.into(),
            reshape: None,
            is_optional: false,
            allow_ragged_batch: false,
            takes_any_shape: false,
        };
        Interface {
            model_name: "m".into(),
            version: 1,
            max_batch_size,
            inputs: inputs.iter().map(input).collect(),
            outputs: vec![],
            is_decoupled: true,
            has_sequences: false,
        }
    }

    fn parse_for(interface: &Interface, body: &str) -> Result<InferRequest> {
        parse(interface, body.as_bytes(), 1000, Instant::now())
    }

    #[track_caller]
    fn refused(interface: &Interface, body: &str, expect: &str) {
        assert_eq!(parse_for(interface, body).unwrap_err().message, expect, "{body}");
    }

    #[test]
    fn members_become_inputs_and_parameters() {
        let interface = interface(4, &[("PROMPT", DataType::Bytes, &[1]), ("N", DataType::Int32, &[-1])]);
        let body = r#"{"id":"q","PROMPT":"hi","stream":true,"parameters":{"N":[1,2],"temperature":0.5}}"#;
        let request = parse_for(&interface, body).unwrap();
        assert_eq!(request.id, "q");
        assert_eq!(request.inputs[0].shape.as_slice(), [1, 1]);
        assert_eq!(request.inputs[0].data.as_host().unwrap(), b"\x02\0\0\0hi");
        assert_eq!(request.inputs[1].shape.as_slice(), [1, 2]);
        let parameters = [
            ("id".into(), Parameter::String("q".into())),
            ("stream".into(), Parameter::Bool(true)),
            ("temperature".into(), Parameter::Double(0.5)),
        ];
        assert_eq!(request.parameters, parameters);
        assert!(parse_for(&interface, "").unwrap().inputs.is_empty());
    }

    #[test]
    fn elements_must_fill_the_shape() {
        let spec = |dims: &[i64]| interface(0, &[("A", DataType::Uint8, dims)]);
        let shape = |dims: &[i64], body: &str| {
            parse_for(&spec(dims), body).map(|request| request.inputs[0].shape.to_vec()).map_err(|error| error.message)
        };
        assert_eq!(shape(&[2, -1], "{\"A\":[1,2,3,4]}"), Ok(vec![2, 2]));
        assert_eq!(shape(&[-1, -1], "{\"A\":[1,2,3]}"), Ok(vec![1, 3]));
        let expect = "The schema can not convert input 'A' to tensor with proper shape";
        assert_eq!(shape(&[2, -1], "{\"A\":[1,2,3]}"), Err(expect.into()));
        assert_eq!(shape(&[2], "{\"A\":[1,2,3,4]}"), Err(expect.into()));
    }

    #[test]
    fn errors_name_the_member() {
        let plain = interface(0, &[("A", DataType::Bool, &[1]), ("H", DataType::Fp16, &[1])]);
        refused(&plain, "{\"A\":\"x\"}", "Unable to parse 'data': attempt to access JSON non-boolean as boolean");
        refused(&plain, "{\"H\":1}", "input 'H' has unsupported datatype FP16");
        refused(&plain, "{\"id\":1}", "Unable to parse 'id': attempt to access JSON non-string as string");
        refused(
            &plain,
            "{\"A\":true",
            "failed to parse the request JSON buffer: Missing a comma or '}' after an object member. at 9",
        );
        refused(
            &plain,
            "{\"parameters\":{\"x\":null}}",
            "Converting keyword: 'parameters': parameter 'x' has invalid type. It should be either 'int', 'bool', or 'string'.",
        );
        let nested = interface(0, &[("parameters", DataType::Bool, &[1])]);
        refused(
            &nested,
            "{\"parameters\":{}}",
            "Keyword 'parameters' for nested schema also given as input tensor name",
        );
        let wide = interface(0, &[("A", DataType::Int64, &[-1])]);
        let body = format!("{{\"A\":[{}1]}}", "1,".repeat(200));
        refused(
            &wide,
            &body,
            "request size of 409 bytes with input 'A' of size 1608 bytes exceeds the maximum allowed input size of \
             1000. Use --http-max-input-size to increase the limit.",
        );
    }
}
