//! An answer of the engine made into an HTTP response.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use server_core::{
    classification::classify,
    error::Result,
    interface::Interface,
    response::InferResponse,
    tensor::{Name, Tensor},
};
use smallvec::SmallVec;

use crate::{
    binary::HEADER_LENGTH,
    body::Body,
    compression::{Encoding, compress},
    json::response::{Rendered, render},
};

/// More output bytes are turned into JSON or compressed on a blocking thread.
const LONG_OUTPUT: usize = 128 << 10;

/// How the caller wants one output.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) name: Name,
    /// As binary data behind the JSON.
    pub(crate) is_binary: bool,
    /// So many top classes instead of the values; 0 for the values.
    pub(crate) classification: u32,
}

/// How the caller wants the outputs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    /// Those that were not named.
    pub(crate) is_binary_by_default: bool,
    /// In the order named.
    pub(crate) named: SmallVec<[Wish; 2]>,
}

impl Wishes {
    /// The wish for an output, which is most often the one at its own position.
    fn of(&self, position: usize, name: &Name) -> Option<&Wish> {
        let same = |wish: &&Wish| Arc::ptr_eq(&wish.name, name) || wish.name == *name;
        self.named.get(position).filter(same).or_else(|| self.named.iter().find(same))
    }

    fn is_binary(&self, position: usize, name: &Name) -> bool {
        self.of(position, name).map_or(self.is_binary_by_default, |wish| wish.is_binary)
    }
}

/// Whether writing it takes so long that others would feel it.
pub(super) fn is_long(response: &InferResponse, wishes: &Wishes, encoding: Encoding) -> bool {
    let costly = |(position, output): (usize, &Tensor)| {
        let is_cheap = encoding == Encoding::Identity && wishes.is_binary(position, &output.name);
        if is_cheap { 0 } else { output.data.len() }
    };
    response.outputs.iter().enumerate().map(costly).sum::<usize>() > LONG_OUTPUT
}

/// Writes an answer.
///
/// Errors: an output cannot be classified, or has no JSON form.
pub(super) fn write(
    response: &mut InferResponse,
    wishes: &Wishes,
    interface: &Interface,
    encoding: Encoding,
) -> Result<Reply> {
    if wishes.named.iter().any(|wish| wish.classification > 0) {
        classify_outputs(&mut response.outputs, wishes, interface)?;
    }
    let outputs = &response.outputs;
    let mut rendered = render(response, |position| wishes.is_binary(position, &outputs[position].name))?;
    if encoding != Encoding::Identity {
        rendered.pieces = smallvec::smallvec![compress(&rendered.pieces, encoding)];
    }
    Ok(Reply { rendered, encoding })
}

fn classify_outputs(outputs: &mut [Tensor], wishes: &Wishes, interface: &Interface) -> Result<()> {
    for (position, output) in outputs.iter_mut().enumerate() {
        let count = wishes.of(position, &output.name).map_or(0, |wish| wish.classification);
        if count > 0 {
            let labels = interface.output(&output.name).map_or(&[][..], |spec| &spec.labels);
            *output = classify(output, interface.max_batch_size > 0, count, labels)?;
        }
    }
    Ok(())
}

/// A written answer.
pub(super) struct Reply {
    rendered: Rendered,
    encoding: Encoding,
}

impl Reply {
    /// Makes a response of it. `headers` are the request's: their memory is used again.
    pub(super) fn into_response(self, mut headers: HeaderMap) -> Response<Body> {
        headers.clear();
        match self.rendered.json_length {
            Some(length) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                headers.insert(&HEADER_LENGTH, HeaderValue::from(length));
            }
            None => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
        }
        if let Some(encoding) = self.encoding.header() {
            headers.insert(CONTENT_ENCODING, encoding);
        }
        let mut response = Response::new(Body::Pieces(self.rendered.pieces));
        *response.headers_mut() = headers;
        response
    }
}

#[cfg(test)]
mod tests {
    use server_core::{interface::OutputSpec, tensor::DataType};

    use super::*;

    fn reply(named: SmallVec<[Wish; 2]>, encoding: Encoding) -> Reply {
        let output = |name: &str| Tensor {
            name: name.into(),
            data_type: DataType::Uint8,
            shape: [1, 2].as_slice().into(),
            data: vec![1, 2].into(),
        };
        let spec = OutputSpec {
            name: "A".into(),
            data_type: DataType::Uint8,
            dims: [2].as_slice().into(),
            reshape: None,
            labels: vec!["zero".into(), "one".into()],
        };
        let interface = Interface {
            model_name: "m".into(),
            version: 1,
            max_batch_size: 4,
            inputs: vec![],
            outputs: vec![spec],
            is_decoupled: false,
        };
        let mut response = InferResponse {
            model_name: "m".into(),
            model_version: 1,
            id: String::new(),
            parameters: vec![],
            outputs: smallvec::smallvec![output("A"), output("B")],
        };
        let wishes = Wishes { is_binary_by_default: false, named };
        write(&mut response, &wishes, &interface, encoding).unwrap()
    }

    fn text(reply: &Reply) -> String {
        String::from_utf8(reply.rendered.pieces.concat()).unwrap()
    }

    #[test]
    fn each_output_goes_out_as_wished() {
        let wish = |name: &str, is_binary, classification| Wish { name: name.into(), is_binary, classification };
        let named = smallvec::smallvec![wish("B", true, 0), wish("A", false, 1)];
        let reply = reply(named, Encoding::Identity);
        assert_eq!(
            text(&reply),
            "{\"model_name\":\"m\",\"model_version\":\"1\",\"outputs\":[\
             {\"name\":\"A\",\"datatype\":\"BYTES\",\"shape\":[1,1],\"data\":[\"2:1:one\"]},\
             {\"name\":\"B\",\"datatype\":\"UINT8\",\"shape\":[1,2],\"parameters\":{\"binary_data_size\":2}}]}\u{1}\u{2}"
        );
        let mut request_headers = HeaderMap::new();
        request_headers.insert("x-old", HeaderValue::from_static("gone"));
        let response = reply.into_response(request_headers);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/octet-stream");
        assert!(response.headers().contains_key(&HEADER_LENGTH));
        assert_eq!(response.headers().len(), 2);
    }

    #[test]
    fn a_compressed_answer_says_so() {
        let plain = text(&reply(SmallVec::new(), Encoding::Identity));
        let reply = reply(SmallVec::new(), Encoding::Gzip);
        let body = crate::compression::decompress(reply.rendered.pieces[0].clone(), Encoding::Gzip, 1 << 20).unwrap();
        assert_eq!(body, plain);
        let response = reply.into_response(HeaderMap::new());
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    }
}
