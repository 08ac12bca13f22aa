//! The answer to an inference request as bytes: JSON, and behind it the outputs that go out as binary data.

use server_core::{
    buffer::Buffer,
    error::{Error, Result},
    request::Parameter,
    response::InferResponse,
    tensor::Tensor,
};
use smallvec::SmallVec;

use super::writer::{push_elements, push_parameter, push_string, push_whole};
use crate::body::Chunk;

/// Binary data up to this length, all outputs together, is copied behind the JSON: one write is cheaper than a copy.
const INLINE_LIMIT: usize = 16 * 1024;

/// How an output goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Form {
    /// Its elements as JSON.
    #[default]
    Json,
    /// As binary data behind the JSON.
    Binary,
    /// Not at all: it was written to shared memory. Only its type and shape are told, as Triton does.
    InRegion,
}

/// A written answer.
#[derive(Debug)]
pub(crate) struct Rendered {
    /// The body, in pieces to be sent one after the other.
    pub(crate) pieces: SmallVec<[Chunk; 2]>,
    /// Length of the JSON, if binary data follows.
    pub(crate) json_length: Option<usize>,
}

/// Writes an answer. `form` tells, by position, how outputs go out.
///
/// Errors: an output has no JSON form, or does not lie in host memory.
pub(crate) fn render(response: &InferResponse, form: impl Fn(usize) -> Form) -> Result<Rendered> {
    let InferResponse { model_name, model_version, id, parameters, outputs } = response;
    let is_binary = |index: usize| form(index) == Form::Binary;
    let binaries = || outputs.iter().enumerate().filter(|&(index, _)| is_binary(index)).map(|(_, output)| &output.data);
    let binary_length: usize = binaries().map(Buffer::len).sum();
    let is_inline = binary_length <= INLINE_LIMIT;

    let mut out = Vec::with_capacity(128 + outputs.len() * 128 + if is_inline { binary_length } else { 0 });
    out.push(b'{');
    if !id.is_empty() {
        out.extend_from_slice(b"\"id\":");
        push_string(&mut out, id.as_bytes());
        out.push(b',');
    }
    out.extend_from_slice(b"\"model_name\":");
    push_string(&mut out, model_name.as_bytes());
    out.extend_from_slice(b",\"model_version\":\"");
    push_whole(&mut out, *model_version);
    out.push(b'"');
    if !parameters.is_empty() {
        out.extend_from_slice(b",\"parameters\":");
        push_parameters(&mut out, parameters);
    }
    out.extend_from_slice(b",\"outputs\":[");
    for (index, output) in outputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_output(&mut out, output, form(index))?;
    }
    out.extend_from_slice(b"]}");

    let json_length = out.len();
    let mut pieces = SmallVec::new();
    if is_inline {
        for data in binaries() {
            out.extend_from_slice(data.as_host().ok_or_else(not_on_host)?);
        }
        pieces.push(out.into());
    } else {
        pieces.push(out.into());
        for data in binaries().filter(|data| !data.is_empty()) {
            pieces.push(data.clone().into_host().ok_or_else(not_on_host)?.into());
        }
    }
    Ok(Rendered { pieces, json_length: (binary_length > 0).then_some(json_length) })
}

fn push_output(out: &mut Vec<u8>, output: &Tensor, form: Form) -> Result<()> {
    out.extend_from_slice(b"{\"name\":");
    push_string(out, output.name.as_bytes());
    out.extend_from_slice(b",\"datatype\":\"");
    out.extend_from_slice(output.data_type.wire_name().as_bytes());
    out.extend_from_slice(b"\",\"shape\":[");
    for (index, &extent) in output.shape.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_whole(out, extent);
    }
    match form {
        Form::Binary => {
            out.extend_from_slice(b"],\"parameters\":{\"binary_data_size\":");
            push_whole(out, output.data.len());
            out.extend_from_slice(b"}}");
        }
        Form::Json => {
            out.extend_from_slice(b"],\"data\":[");
            push_elements(out, output)?;
            out.extend_from_slice(b"]}");
        }
        Form::InRegion => out.extend_from_slice(b"]}"),
    }
    Ok(())
}

fn push_parameters(out: &mut Vec<u8>, parameters: &[(String, Parameter)]) {
    out.push(b'{');
    for (index, (name, value)) in parameters.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_string(out, name.as_bytes());
        out.push(b':');
        push_parameter(out, value);
    }
    out.push(b'}');
}

#[cold]
fn not_on_host() -> Error {
    Error::internal("an output lies in device memory and cannot be sent")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use server_core::tensor::DataType;

    use super::*;

    fn response(outputs: Vec<Tensor>) -> InferResponse {
        InferResponse {
            model_name: "m".into(),
            model_version: 3,
            id: String::new(),
            parameters: Default::default(),
            outputs: outputs.into(),
        }
    }

    fn bytes(name: &str, data: Vec<u8>) -> Tensor {
        Tensor {
            name: name.into(),
            data_type: DataType::Uint8,
            shape: [data.len() as i64].as_slice().into(),
            data: data.into(),
        }
    }

    fn text(rendered: &Rendered) -> String {
        rendered.pieces.iter().map(|piece| String::from_utf8(piece.as_ref().to_vec()).unwrap()).collect()
    }

    #[test]
    fn keys_stand_in_tritons_order() {
        let mut response = response(vec![bytes("A", vec![1, 2]), bytes("B", vec![])]);
        response.id = "i\"d".into();
        response.parameters = vec![("n".into(), Parameter::Int(1)), ("t".into(), Parameter::String("x".into()))].into();
        let rendered = render(&response, |_| Form::Json).unwrap();
        assert_eq!(rendered.json_length, None);
        assert_eq!(
            text(&rendered),
            "{\"id\":\"i\\\"d\",\"model_name\":\"m\",\"model_version\":\"3\",\"parameters\":{\"n\":1,\"t\":\"x\"},\
             \"outputs\":[{\"name\":\"A\",\"datatype\":\"UINT8\",\"shape\":[2],\"data\":[1,2]},\
             {\"name\":\"B\",\"datatype\":\"UINT8\",\"shape\":[0],\"data\":[]}]}"
        );
    }

    #[test]
    fn small_binary_outputs_follow_in_one_piece() {
        let outputs = vec![bytes("A", b"xy".to_vec()), bytes("B", vec![7]), bytes("C", b"z".to_vec())];
        let form = |index| if index == 1 { Form::Json } else { Form::Binary };
        let rendered = render(&response(outputs), form).unwrap();
        let text = text(&rendered);
        assert_eq!(rendered.pieces.len(), 1);
        let (json, binary) = text.split_at(rendered.json_length.unwrap());
        assert_eq!(binary, "xyz");
        assert_eq!(
            json,
            "{\"model_name\":\"m\",\"model_version\":\"3\",\"outputs\":[\
             {\"name\":\"A\",\"datatype\":\"UINT8\",\"shape\":[2],\"parameters\":{\"binary_data_size\":2}},\
             {\"name\":\"B\",\"datatype\":\"UINT8\",\"shape\":[1],\"data\":[7]},\
             {\"name\":\"C\",\"datatype\":\"UINT8\",\"shape\":[1],\"parameters\":{\"binary_data_size\":1}}]}"
        );
    }

    #[test]
    fn large_binary_outputs_are_not_copied() {
        let data = Bytes::from(vec![b'x'; INLINE_LIMIT + 1]);
        let mut output = bytes("A", vec![]);
        output.data = data.clone().into();
        let rendered = render(&response(vec![output]), |_| Form::Binary).unwrap();
        assert_eq!(rendered.pieces.len(), 2);
        assert_eq!(rendered.pieces[1].as_ref().as_ptr(), data.as_ptr());
    }

    #[test]
    fn outputs_in_shared_memory_have_no_data() {
        let form = |index| [Form::InRegion, Form::Binary, Form::Json][index];
        let outputs = vec![bytes("A", vec![]), bytes("B", vec![7]), bytes("C", vec![1])];
        let rendered = render(&response(outputs), form).unwrap();
        assert!(text(&rendered).contains(
            "\"outputs\":[{\"name\":\"A\",\"datatype\":\"UINT8\",\"shape\":[0]},\
             {\"name\":\"B\",\"datatype\":\"UINT8\",\"shape\":[1],\"parameters\":{\"binary_data_size\":1}},\
             {\"name\":\"C\",\"datatype\":\"UINT8\",\"shape\":[1],\"data\":[1]}]}"
        ));
        assert!(render(&response(vec![bytes("A", vec![])]), |_| Form::InRegion).unwrap().json_length.is_none());
    }

    #[test]
    fn empty_binary_outputs_need_no_header() {
        let rendered = render(&response(vec![bytes("A", vec![])]), |_| Form::Binary).unwrap();
        assert_eq!(rendered.json_length, None);
        assert!(text(&rendered).ends_with("\"parameters\":{\"binary_data_size\":0}}]}"));
    }
}
