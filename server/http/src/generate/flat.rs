//! One response of the generate extension: a flat JSON object.

use server_core::{error::Result, response::InferResponse, tensor::element_count};
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

/// Writes a response as one flat object; tensors of one element are scalars.
///
/// Errors: an output has no JSON form; what was written is of no use then.
pub(super) fn push_flat(out: &mut Vec<u8>, response: &InferResponse) -> Result<()> {
    out.extend_from_slice(b"{\"model_name\":");
    push_string(out, response.model_name.as_bytes());
    out.extend_from_slice(b",\"model_version\":\"");
    push_whole(out, response.model_version);
    out.push(b'"');
    if !response.id.is_empty() {
        push_name(out, "id");
        push_string(out, response.id.as_bytes());
    }
    for (name, value) in &*response.parameters {
        push_name(out, name);
        push_parameter(out, value);
    }
    for output in &response.outputs {
        push_name(out, &output.name);
        if element_count(&output.shape) == Some(1) {
            push_elements(out, output)?;
        } else {
            out.push(b'[');
            push_elements(out, output)?;
            out.push(b']');
        }
    }
    out.push(b'}');
    Ok(())
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    push_string(out, name.as_bytes());
    out.push(b':');
}

#[cfg(test)]
mod tests {
    use server_core::{
        request::Parameter,
        tensor::{DataType, Tensor, strings},
    };

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
            "{\"model_name\":\"m\",\"model_version\":\"1\",\"id\":\"7\",\"final\":false,\"text\":\"hi\",\
             \"words\":[\"a\",\"b\"]}"
        );
    }
}
