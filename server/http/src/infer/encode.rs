//! A response of the engine encoded as an HTTP response.

use super::output_options::OutputOptions;
use crate::{
    binary::HEADER_LENGTH,
    body::Body,
    compression::{Encoding, compress},
    json::response::{Form, Rendered, render},
};
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use server_core::{
    classification::classify, error::Result, interface::Interface, response::InferResponse, tensor::Tensor,
};

/// More output bytes are classified, turned into JSON or compressed on the blocking pool: about a millisecond of work.
const LONG_OUTPUT: usize = 128 << 10;

/// Whether encoding takes so long that it belongs on the blocking pool.
pub(super) fn is_long(response: &InferResponse, options: &OutputOptions, encoding: Encoding) -> bool {
    let costly = |(position, output): (usize, &Tensor)| {
        let is_classified = options.of(position, &output.name).is_some_and(|option| option.classification > 0);
        let is_json = options.form(position, &output.name) == Form::Json;
        let is_cheap = encoding == Encoding::Identity && !is_json && !is_classified;
        if is_cheap { 0 } else { output.data.len() }
    };
    response.outputs.iter().enumerate().map(costly).sum::<usize>() > LONG_OUTPUT
}

/// Encodes a response.
///
/// Errors: an output cannot be classified, or has no JSON form.
pub(super) fn write(
    response: &mut InferResponse,
    options: &OutputOptions,
    interface: &Interface,
    encoding: Encoding,
) -> Result<Reply> {
    if options.named.iter().any(|option| option.classification > 0) {
        classify_outputs(&mut response.outputs, options, interface)?;
    }
    let outputs = &response.outputs;
    let mut rendered = render(response, |position| options.form(position, &outputs[position].name))?;
    if encoding != Encoding::Identity {
        rendered.pieces = smallvec::smallvec![compress(&rendered.pieces, encoding).into()];
    }
    Ok(Reply { rendered, encoding })
}

fn classify_outputs(outputs: &mut [Tensor], options: &OutputOptions, interface: &Interface) -> Result<()> {
    for (position, output) in outputs.iter_mut().enumerate() {
        let count = options.of(position, &output.name).map_or(0, |option| option.classification);
        if count > 0 {
            let labels = interface.output(&output.name).map_or(&[][..], |spec| &spec.labels);
            *output = classify(output, interface.max_batch_size > 0, count, labels)?;
        }
    }
    Ok(())
}

/// An encoded response.
pub(super) struct Reply {
    pub(super) rendered: Rendered,
    encoding: Encoding,
}

impl Reply {
    /// Adds status and headers. `headers` are those of the request: their memory is used again.
    pub(super) fn into_response(self, mut headers: HeaderMap) -> Response<Body> {
        headers.clear();
        match self.rendered.json_length {
            Some(length) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                let length =
                    HeaderValue::from_str(itoa::Buffer::new().format(length)).expect("digits are a header value");
                headers.insert(&HEADER_LENGTH, length);
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

    use smallvec::SmallVec;

    use super::{super::output_options::OutputOption, *};

    fn reply(named: SmallVec<[OutputOption; 2]>, encoding: Encoding) -> Reply {
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
            has_sequences: false,
        };
        let mut response = InferResponse {
            model_name: "m".into(),
            model_version: 1,
            id: String::new(),
            parameters: Default::default(),
            outputs: smallvec::smallvec![output("A"), output("B")],
        };
        let options = OutputOptions { is_binary_by_default: false, named };
        write(&mut response, &options, &interface, encoding).unwrap()
    }

    fn text(reply: &Reply) -> String {
        reply.rendered.pieces.iter().map(|piece| std::str::from_utf8(piece.as_ref()).unwrap()).collect()
    }

    #[test]
    fn each_output_has_the_form_asked_for() {
        let option = |name: &str, form, classification| OutputOption { name: name.into(), form, classification };
        let named = smallvec::smallvec![option("B", Form::Binary, 0), option("A", Form::Json, 1)];
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
    fn a_compressed_response_names_its_encoding() {
        let plain = text(&reply(SmallVec::new(), Encoding::Identity));
        let reply = reply(SmallVec::new(), Encoding::Gzip);
        let body =
            crate::compression::tests::decompress(reply.rendered.pieces[0].as_ref().to_vec(), Encoding::Gzip, 1 << 20)
                .unwrap();
        assert_eq!(body, plain);
        let response = reply.into_response(HeaderMap::new());
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    }
}
