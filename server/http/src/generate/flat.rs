//! One response of the generate extension: a flat JSON object.

use server_core::{
    error::Result,
    request::Parameter,
    response::InferResponse,
    tensor::{Tensor, element_count},
};
use server_engine::BlockingPool;

use crate::json::writer::{push_elements, push_parameter, push_string, push_whole};

/// Longer outputs are encoded on the blocking pool: about a millisecond of work. Units: bytes.
const LONG: usize = 256 << 10;

/// Whether encoding it takes so long that it belongs on the blocking pool.
pub(super) fn is_long(response: &InferResponse) -> bool {
    response.outputs.iter().map(|output| output.data.len()).sum::<usize>() > LONG
}

/// A response as one flat object, encoded on the blocking pool if it is long.
///
/// Errors: an output has no JSON form.
pub(super) async fn flat(pool: &BlockingPool, response: InferResponse) -> Result<Vec<u8>> {
    let is_long = is_long(&response);
    let write = move || {
        let mut text = Vec::new();
        push_flat(&mut text, &response).map(|()| text)
    };
    pool.run_if(is_long, write).await?
}

/// A member of the object.
enum Value<'a> {
    Text(&'a str),
    Version(u64),
    Parameter(&'a Parameter),
    Output(&'a Tensor),
}

/// Writes a response as one flat object, whose members are in the order of their names, as Triton writes them; tensors of one element
/// are scalars.
///
/// Errors: an output has no JSON form; what was written is of no use then.
pub(super) fn push_flat(out: &mut Vec<u8>, response: &InferResponse) -> Result<()> {
    let own =
        [("model_name", Value::Text(&response.model_name)), ("model_version", Value::Version(response.model_version))];
    let id = (!response.id.is_empty()).then_some(("id", Value::Text(&response.id)));
    let parameters = response.parameters.iter().map(|(name, value)| (&**name, Value::Parameter(value)));
    let outputs = response.outputs.iter().map(|output| (&*output.name, Value::Output(output)));
    let mut members: Vec<(&str, Value<'_>)> = own.into_iter().chain(id).chain(parameters).chain(outputs).collect();
    members.sort_by_key(|(name, _)| *name);
    let mut before = b'{';
    for (name, value) in members {
        out.push(std::mem::replace(&mut before, b','));
        push_string(out, name.as_bytes());
        out.push(b':');
        match value {
            Value::Text(text) => push_string(out, text.as_bytes()),
            Value::Version(version) => {
                out.push(b'"');
                push_whole(out, version);
                out.push(b'"');
            }
            Value::Parameter(value) => push_parameter(out, value),
            Value::Output(output) => {
                let is_scalar = element_count(&output.shape) == Some(1);
                out.extend_from_slice(if is_scalar { b"" } else { b"[" });
                push_elements(out, output)?;
                out.extend_from_slice(if is_scalar { b"" } else { b"]" });
            }
        }
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use server_core::tensor::{DataType, strings};

    use super::*;

    #[test]
    fn a_response_is_one_flat_object() {
        let output = |name: &str, shape: &[i64], parts: &[&str]| Tensor {
            name: name.into(),
            data_type: DataType::Bytes,
            shape: shape.into(),
            data: strings::join(parts.iter().map(|part| part.as_bytes())).into(),
        };
        let response = InferResponse {
            model_name: "m".into(),
            model_version: 1,
            id: "7".into(),
            parameters: vec![("final".into(), Parameter::Bool(false))].into(),
            outputs: smallvec::smallvec![output("text", &[1, 1], &["hi"]), output("words", &[2], &["a", "b"])],
        };
        let mut text = Vec::new();
        push_flat(&mut text, &response).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text,
            "{\"final\":false,\"id\":\"7\",\"model_name\":\"m\",\"model_version\":\"1\",\"text\":\"hi\",\
             \"words\":[\"a\",\"b\"]}"
        );
    }
}
