//! The body of a request decoded into an inference request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use server_core::{
    buffer::Buffer,
    check::deduce_raw,
    error::{Error, Result},
    interface::Interface,
    request::{CorrelationId, InferRequest, RequestedOutput, Sequence, VersionChoice},
    tensor::{Name, Tensor},
    unsupported::shared_memory_region,
};
use smallvec::SmallVec;

use super::output_options::{OutputOption, OutputOptions};
use crate::{
    binary::{BinaryInputs, Layout, layout},
    compression::{Encoding, decompress},
    json::request::{Content, Controls, Input, Output, SequenceId, parse},
};

/// What is known of a request before its body.
#[derive(Debug)]
pub(super) struct Source {
    /// Of the model: its names are shared with the tensors of the request.
    pub(super) interface: Arc<Interface>,
    /// As the request gives it.
    pub(super) version: VersionChoice,
    /// How the body is compressed.
    pub(super) encoding: Encoding,
    /// `--http-max-input-size`, bytes.
    pub(super) max_input_size: usize,
    /// When the head of the request was read.
    pub(super) received_at: Instant,
}

impl Source {
    /// Decodes the body, and fills `options` with how its outputs are wanted.
    ///
    /// Errors: Triton's texts for what is wrong with the message itself; the engine checks it against the model.
    pub(super) fn prepare(
        &self,
        headers: &HeaderMap,
        body: Bytes,
        options: &mut OutputOptions,
    ) -> Result<InferRequest> {
        let body = decompress(body, self.encoding, self.max_input_size)?;
        match layout(headers, body.len())? {
            Layout::Json => self.read(&body, body.len(), false, options),
            Layout::JsonThenBinary(length) => self.read(&body, length, true, options),
            Layout::Raw => self.raw(body, options),
        }
    }

    fn read(
        &self,
        body: &Bytes,
        json_length: usize,
        has_header: bool,
        options: &mut OutputOptions,
    ) -> Result<InferRequest> {
        let max = self.max_input_size;
        if json_length > max {
            return Err(Error::invalid_argument(format!(
                "request JSON size of {json_length} bytes exceeds the maximum allowed input size of {max} bytes. Use \
                 --http-max-input-size to increase the limit."
            )));
        }
        let message = parse(&body[..json_length], max)?;
        let mut request = self.request(message.id, message.controls, options);
        let mut binary_inputs = BinaryInputs::new(body.slice(json_length..), has_header, &self.interface.model_name);
        for input in message.inputs {
            request.inputs.push(self.tensor(input, &mut binary_inputs)?);
        }
        binary_inputs.finish()?;
        for output in message.outputs {
            let option = self.output_option(&output)?;
            let wanted = RequestedOutput { name: option.name.clone(), classification: option.classification };
            request.outputs.push(wanted);
            options.named.push(option);
        }
        Ok(request)
    }

    fn raw(&self, body: Bytes, options: &mut OutputOptions) -> Result<InferRequest> {
        let (size, max) = (body.len(), self.max_input_size);
        if size > max {
            return Err(Error::invalid_argument(format!(
                "Raw input has a byte_size ({size} bytes) that exceeds the maximum allowed value of {max} bytes. Use \
                 --http-max-input-size to increase the limit."
            )));
        }
        let controls = Controls { binary_data_output: true, ..Controls::default() };
        let mut request = self.request(String::new(), controls, options);
        request.inputs.push(deduce_raw(&self.interface, "", body)?);
        Ok(request)
    }

    /// A request without its tensors.
    fn request(&self, id: String, controls: Controls, options: &mut OutputOptions) -> InferRequest {
        options.is_binary_by_default = controls.binary_data_output;
        let sequence = controls.sequence_id.map(|id| Sequence {
            id: match id {
                SequenceId::Number(number) => CorrelationId::Number(number),
                SequenceId::Text(text) => CorrelationId::Text(text),
            },
            is_start: controls.is_sequence_start,
            is_end: controls.is_sequence_end,
        });
        InferRequest {
            model_name: self.interface.model_name.clone(),
            model_version: self.version,
            id,
            inputs: SmallVec::new(),
            outputs: SmallVec::new(),
            parameters: controls.custom,
            sequence,
            priority: controls.priority,
            timeout: (controls.timeout_us > 0).then(|| Duration::from_micros(controls.timeout_us)),
            received_at: self.received_at,
        }
    }

    fn tensor(&self, input: Input<'_>, binary_inputs: &mut BinaryInputs<'_>) -> Result<Tensor> {
        let Input { name, data_type, shape, content } = input;
        let data = match content {
            Content::Data(bytes) => Buffer::from(bytes),
            Content::Binary(size) => Buffer::from(binary_inputs.take(&name, size)?),
            Content::SharedMemory(region) => return Err(shared_memory_region(&region)),
        };
        let name = self.interface.input(&name).map_or_else(|| Name::from(&*name), |spec| spec.name.clone());
        Ok(Tensor { name, data_type, shape, data })
    }

    fn output_option(&self, output: &Output<'_>) -> Result<OutputOption> {
        if let Some(region) = &output.shared_memory_region {
            return Err(shared_memory_region(region));
        }
        let spec = self.interface.output(&output.name);
        let name = spec.map_or_else(|| Name::from(&*output.name), |spec| spec.name.clone());
        Ok(OutputOption { name, is_binary: output.is_binary, classification: output.classification })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use server_core::{
        error::Code,
        interface::{InputSpec, OutputSpec},
        tensor::DataType,
    };

    use super::*;
    use crate::binary::HEADER_LENGTH;

    fn source(max_input_size: usize) -> Source {
        let dims = || [4].as_slice().into();
        let interface = Interface {
            model_name: "m".into(),
            version: 1,
            max_batch_size: 0,
            inputs: vec![InputSpec {
                name: "IN".into(),
                data_type: DataType::Uint8,
                dims: dims(),
                reshape: None,
                is_optional: false,
                allow_ragged_batch: false,
            }],
            outputs: vec![OutputSpec {
                name: "OUT".into(),
                data_type: DataType::Uint8,
                dims: dims(),
                reshape: None,
                labels: vec![],
            }],
            is_decoupled: false,
        };
        Source {
            interface: Arc::new(interface),
            version: VersionChoice::Latest,
            encoding: Encoding::Identity,
            max_input_size,
            received_at: Instant::now(),
        }
    }

    fn prepare(source: &Source, body: &str, json_length: Option<usize>) -> Result<(InferRequest, OutputOptions)> {
        let mut options = OutputOptions::default();
        let mut headers = HeaderMap::new();
        if let Some(length) = json_length {
            headers.insert(&HEADER_LENGTH, HeaderValue::from(length));
        }
        let request = source.prepare(&headers, Bytes::copy_from_slice(body.as_bytes()), &mut options)?;
        Ok((request, options))
    }

    const BINARY: &str = r#"{"id":"a","parameters":{"sequence_id":"s","sequence_end":true,"timeout":7,"binary_data_output":true},"inputs":[{"name":"IN","shape":[4],"datatype":"UINT8","parameters":{"binary_data_size":4}}]"#;

    #[test]
    fn binary_inputs_share_the_bodys_memory_and_the_models_names() {
        let source = source(1000);
        let json = format!("{BINARY},\"outputs\":[{{\"name\":\"OUT\"}}]}}");
        let body = Bytes::from(format!("{json}wxyz"));
        let mut headers = HeaderMap::new();
        headers.insert(&HEADER_LENGTH, HeaderValue::from(json.len()));
        let mut options = OutputOptions::default();
        let request = source.prepare(&headers, body.clone(), &mut options).unwrap();
        let input = &request.inputs[0];
        assert_eq!(input.data.as_host().unwrap().as_ptr(), body[json.len()..].as_ptr());
        assert!(Arc::ptr_eq(&input.name, &source.interface.inputs[0].name));
        assert!(Arc::ptr_eq(&request.outputs[0].name, &source.interface.outputs[0].name));
        assert_eq!(request.id, "a");
        assert_eq!(request.timeout, Some(Duration::from_micros(7)));
        let sequence = Sequence { id: CorrelationId::Text("s".into()), is_start: false, is_end: true };
        assert_eq!(request.sequence, Some(sequence));
        assert!(!options.named[0].is_binary, "naming outputs overrides the default");
    }

    #[test]
    fn a_raw_body_is_the_only_input() {
        let (request, options) = prepare(&source(1000), "wxyz", Some(0)).unwrap();
        assert_eq!(request.inputs[0].data.as_host().unwrap(), b"wxyz");
        assert_eq!(request.inputs[0].shape.as_slice(), [4]);
        assert!(options.is_binary_by_default);
    }

    #[test]
    fn limits_hold_for_json_and_raw_bodies_but_not_for_binary_data() {
        let json = format!("{BINARY}}}");
        prepare(&source(json.len()), &format!("{json}wxyz"), Some(json.len())).unwrap();
        let error = prepare(&source(10), &format!("{json}wxyz"), Some(json.len())).unwrap_err();
        assert_eq!(
            error.message,
            format!(
                "request JSON size of {} bytes exceeds the maximum allowed input size of 10 bytes. Use \
                 --http-max-input-size to increase the limit.",
                json.len()
            )
        );
        let error = prepare(&source(3), "wxyz", Some(0)).unwrap_err();
        assert_eq!(
            error.message,
            "Raw input has a byte_size (4 bytes) that exceeds the maximum allowed value of 3 bytes. Use \
             --http-max-input-size to increase the limit."
        );
    }

    #[test]
    fn shared_memory_that_was_never_registered_is_not_found() {
        let body =
            r#"{"inputs":[{"name":"IN","shape":[4],"datatype":"UINT8","parameters":{"shared_memory_region":"r"}}]}"#;
        let error = prepare(&source(1000), body, None).unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::NotFound, "Unable to find shared memory region: 'r'"));
        let body = r#"{"inputs":[],"outputs":[{"name":"OUT","parameters":{"shared_memory_region":"r"}}]}"#;
        assert_eq!(prepare(&source(1000), body, None).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn missing_and_additional_binary_data_are_refused() {
        let json = format!("{BINARY}}}");
        let error = prepare(&source(1000), &format!("{json}wx"), Some(json.len())).unwrap_err();
        assert_eq!(error.message, "unexpected size for input 'IN', expecting 2 additional bytes for model 'm'");
        let error = prepare(&source(1000), &format!("{json}wxyz!"), Some(json.len())).unwrap_err();
        assert_eq!(error.message, "unexpected additional input data for model 'm'");
        let error = prepare(&source(1000), &json, None).unwrap_err();
        assert!(error.message.starts_with("must specify valid 'Infer-Header-Content-Length'"));
    }
}
