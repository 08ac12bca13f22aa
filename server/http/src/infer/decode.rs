//! The body of a request decoded into an inference request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use server_core::{
    buffer::Buffer,
    byte_budget::Reservation,
    check::deduce_raw,
    error::Result,
    input_memory::InputPlacement,
    interface::Interface,
    request::{CorrelationId, InferRequest, RequestedOutput, Sequence, VersionChoice},
    tensor::{Name, Tensor},
};
use server_engine::{RegionPart, SharedMemory};
use smallvec::SmallVec;

use super::output_options::{OutputOption, OutputOptions};
use crate::{
    binary::{BinaryInputs, Layout, layout},
    compression::{Encoding, decompress},
    held::{Received, hold},
    json::{
        request::{Content, Controls, Input, Output, Region, SequenceId, parse},
        response::Form,
    },
    limits::BodyLimit,
};

/// Longer JSON is decoded on the blocking pool: about a millisecond of work. Units: bytes.
const LONG_JSON: usize = 256 << 10;
/// Longer compressed bodies are decoded on the blocking pool: a body may be a thousand times as large when it is
/// inflated. Units: bytes.
const LONG_COMPRESSED: usize = 1 << 10;

/// What is known of a request before its body.
#[derive(Debug)]
pub(super) struct Source {
    /// Of the model: its names are shared with the tensors of the request.
    pub(super) interface: Arc<Interface>,
    /// As the request gives it.
    pub(super) version: VersionChoice,
    /// The length of the JSON, as the headers give it.
    pub(super) json_length: Option<i32>,
    /// How the body is compressed.
    pub(super) encoding: Encoding,
    /// `--http-max-input-size`, bytes.
    pub(super) max_input_size: usize,
    /// When the head of the request was read.
    pub(super) received_at: Instant,
}

/// A request, and the part of the byte budget that its caller keeps until the response: `None` if its tensors do.
pub(super) type Decoded = (InferRequest, Option<Reservation>);

impl Source {
    /// What the body may have.
    ///
    /// Errors: its JSON is too large by the length that the headers give.
    pub(super) fn limit(&self) -> Result<BodyLimit> {
        let max = self.max_input_size;
        Ok(match self.json_length {
            _ if self.encoding != Encoding::Identity => BodyLimit::Inflated(max),
            Some(0) => BodyLimit::Raw(max),
            Some(length @ 1..) => {
                BodyLimit::Json(max).check(length.unsigned_abs() as usize)?;
                BodyLimit::None
            }
            None | Some(_) => BodyLimit::Json(max),
        })
    }

    /// The byte of a body of that length that its tensors begin with, if they are slices of it and it is long enough to be
    /// received where the model reads them.
    pub(super) fn tensors_at(&self, body_length: usize) -> Option<usize> {
        let json_length = usize::try_from(self.json_length?).ok()?;
        let has_slices = self.encoding == Encoding::Identity && json_length < body_length;
        (has_slices && InputPlacement::is_due(body_length, body_length)).then_some(json_length)
    }

    /// Whether decoding a body takes so long that it belongs on the blocking pool.
    pub(super) fn is_long(&self, body_length: usize) -> bool {
        match self.encoding {
            Encoding::Identity => match self.json_length {
                Some(length) => usize::try_from(length).is_ok_and(|length| length > LONG_JSON),
                None => body_length > LONG_JSON,
            },
            Encoding::Gzip | Encoding::Deflate => body_length > LONG_COMPRESSED,
        }
    }

    /// Decodes the body, and fills `options` with how its outputs are wanted.
    ///
    /// Errors: Triton's texts for what is wrong with the message itself; the engine checks it against the model.
    pub(super) fn decode(
        &self,
        body: Received,
        shared_memory: &SharedMemory,
        options: &mut OutputOptions,
    ) -> Result<Decoded> {
        let Received { bytes, mut reservation } = decompress(body, self.encoding, self.max_input_size)?;
        let mut request = match layout(self.json_length, bytes.len())? {
            Layout::Json => {
                let (request, size) = self.decode_json(&bytes, bytes.len(), false, shared_memory, options)?;
                // the text ends here, its tensors stay
                reservation.grow_to(size)?;
                reservation.shrink_to(size);
                request
            }
            Layout::JsonThenBinary(length) => self.decode_json(&bytes, length, true, shared_memory, options)?.0,
            Layout::Raw => self.decode_raw(bytes, options)?,
        };
        let kept = hold(&mut request.inputs, reservation);
        Ok((request, kept))
    }

    /// The request, and the bytes of those of its tensors that stood in the JSON.
    fn decode_json(
        &self,
        body: &Bytes,
        json_length: usize,
        has_header: bool,
        shared_memory: &SharedMemory,
        options: &mut OutputOptions,
    ) -> Result<(InferRequest, usize)> {
        let max = self.max_input_size;
        BodyLimit::Json(max).check(json_length)?;
        let message = parse(&body[..json_length], max)?;
        let mut request = self.request(message.id, message.controls, options);
        let mut binary_inputs = BinaryInputs::new(body.slice(json_length..), has_header, &self.interface.model_name);
        let mut from_text = 0;
        for input in message.inputs {
            if let Content::Data(bytes) = &input.content {
                from_text += bytes.len();
            }
            request.inputs.push(self.tensor(input, &mut binary_inputs, shared_memory)?);
        }
        binary_inputs.finish()?;
        for output in message.outputs {
            let spec = self.interface.output(&output.name);
            let name = spec.map_or_else(|| Name::from(&*output.name), |spec| spec.name.clone());
            let Output { is_binary, classification, region, .. } = output;
            let window = region.map(|region| shared_memory.output(&region.part())).transpose()?;
            let form = match &window {
                Some(_) => Form::InRegion,
                None if is_binary => Form::Binary,
                None => Form::Json,
            };
            options.named.push(OutputOption { name: name.clone(), form, classification });
            request.outputs.push(RequestedOutput { name, classification, window });
        }
        Ok((request, from_text))
    }

    fn decode_raw(&self, body: Bytes, options: &mut OutputOptions) -> Result<InferRequest> {
        BodyLimit::Raw(self.max_input_size).check(body.len())?;
        let controls = Controls { binary_data_output: true, ..Controls::default() };
        let mut request = self.request(String::new(), controls, options);
        request.inputs.push(deduce_raw(&self.interface, "", body)?);
        Ok(request)
    }

    /// A request without its tensors.
    fn request(&self, id: String, controls: Controls, options: &mut OutputOptions) -> InferRequest {
        options.is_binary_by_default = controls.binary_data_output;
        let (is_start, is_end) = (controls.is_sequence_start, controls.is_sequence_end);
        let sequence_id = controls.sequence_id.map(|id| match id {
            SequenceId::Number(number) => CorrelationId::Number(number),
            SequenceId::Text(text) => CorrelationId::Text(text),
        });
        let sequence = Sequence::of(sequence_id, is_start, is_end);
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
            callers: None,
            trace: None,
        }
    }

    fn tensor(
        &self,
        input: Input<'_>,
        binary_inputs: &mut BinaryInputs<'_>,
        shared_memory: &SharedMemory,
    ) -> Result<Tensor> {
        let Input { name, data_type, shape, content } = input;
        let data = match content {
            Content::Data(bytes) => Buffer::unique(bytes),
            Content::Binary(size) => Buffer::unique(binary_inputs.take(&name, size)?),
            Content::SharedMemory(region) => shared_memory.input(&region.part(), Some(data_type))?,
        };
        let name = self.interface.input(&name).map_or_else(|| Name::from(&*name), |spec| spec.name.clone());
        Ok(Tensor { name, data_type, shape, data })
    }
}

impl Region {
    fn part(&self) -> RegionPart<'_> {
        RegionPart { region: &self.name, offset: self.offset, byte_size: self.byte_size }
    }
}

#[cfg(test)]
mod tests {
    use server_core::{
        byte_budget::ByteBudget,
        error::Code,
        interface::{InputSpec, OutputSpec},
        tensor::DataType,
    };

    use super::*;

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
                takes_any_shape: false,
            }],
            outputs: vec![OutputSpec {
                name: "OUT".into(),
                data_type: DataType::Uint8,
                dims: dims(),
                reshape: None,
                labels: vec![],
            }],
            is_decoupled: false,
            has_sequences: false,
        };
        Source {
            interface: Arc::new(interface),
            version: VersionChoice::Latest,
            json_length: None,
            encoding: Encoding::Identity,
            max_input_size,
            received_at: Instant::now(),
        }
    }

    fn decode_with_budget(
        source: &Source,
        body: Bytes,
        budget: &Arc<ByteBudget>,
    ) -> Result<(InferRequest, OutputOptions, Option<Reservation>)> {
        let mut options = OutputOptions::default();
        let reservation = budget.reserve(body.len()).unwrap();
        let (request, kept) =
            source.decode(Received { bytes: body, reservation }, &SharedMemory::default(), &mut options)?;
        Ok((request, options, kept))
    }

    fn decode(source: &Source, body: &str, json_length: Option<usize>) -> Result<(InferRequest, OutputOptions)> {
        let source = with_header(source, json_length);
        let body = Bytes::copy_from_slice(body.as_bytes());
        let (request, options, _) = decode_with_budget(&source, body, &Arc::new(ByteBudget::new(0)))?;
        Ok((request, options))
    }

    fn with_header(source: &Source, json_length: Option<usize>) -> Source {
        let interface = source.interface.clone();
        Source { interface, json_length: json_length.map(|length| length as i32), ..*source }
    }

    const BINARY: &str = r#"{"id":"a","parameters":{"sequence_id":"s","sequence_end":true,"timeout":7,"binary_data_output":true},"inputs":[{"name":"IN","shape":[4],"datatype":"UINT8","parameters":{"binary_data_size":4}}]"#;

    #[test]
    fn binary_inputs_share_the_bodys_memory_and_the_models_names() {
        let source = source(1000);
        let json = format!("{BINARY},\"outputs\":[{{\"name\":\"OUT\"}}]}}");
        let body = Bytes::from(format!("{json}wxyz"));
        let source = with_header(&source, Some(json.len()));
        let (request, options, _) = decode_with_budget(&source, body.clone(), &Arc::new(ByteBudget::new(0))).unwrap();
        let input = &request.inputs[0];
        assert_eq!(input.data.as_host().unwrap().as_ptr(), body[json.len()..].as_ptr());
        assert!(Arc::ptr_eq(&input.name, &source.interface.inputs[0].name));
        assert!(Arc::ptr_eq(&request.outputs[0].name, &source.interface.outputs[0].name));
        assert_eq!(request.id, "a");
        assert_eq!(request.timeout, Some(Duration::from_micros(7)));
        let sequence = Sequence { id: CorrelationId::Text("s".into()), is_start: false, is_end: true };
        assert_eq!(request.sequence, Some(sequence));
        assert_eq!(options.named[0].form, Form::Json, "naming outputs overrides the default");
    }

    #[test]
    fn a_raw_body_is_the_only_input() {
        let (request, options) = decode(&source(1000), "wxyz", Some(0)).unwrap();
        assert_eq!(request.inputs[0].data.as_host().unwrap(), b"wxyz");
        assert_eq!(request.inputs[0].shape.as_slice(), [4]);
        assert!(options.is_binary_by_default);
    }

    #[test]
    fn limits_hold_for_json_and_raw_bodies_but_not_for_binary_data() {
        let json = format!("{BINARY}}}");
        decode(&source(json.len()), &format!("{json}wxyz"), Some(json.len())).unwrap();
        let error = decode(&source(10), &format!("{json}wxyz"), Some(json.len())).unwrap_err();
        assert_eq!(
            error.message,
            format!(
                "request JSON size of {} bytes exceeds the maximum allowed input size of 10 bytes. Use \
                 --http-max-input-size to increase the limit.",
                json.len()
            )
        );
        let error = decode(&source(3), "wxyz", Some(0)).unwrap_err();
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
        let error = decode(&source(1000), body, None).unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::NotFound, "Unable to find shared memory region: 'r'"));
        let body = r#"{"inputs":[],"outputs":[{"name":"OUT","parameters":{"shared_memory_region":"r"}}]}"#;
        assert_eq!(decode(&source(1000), body, None).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn missing_and_additional_binary_data_are_refused() {
        let json = format!("{BINARY}}}");
        let error = decode(&source(1000), &format!("{json}wx"), Some(json.len())).unwrap_err();
        assert_eq!(error.message, "unexpected size for input 'IN', expecting 2 additional bytes for model 'm'");
        let error = decode(&source(1000), &format!("{json}wxyz!"), Some(json.len())).unwrap_err();
        assert_eq!(error.message, "unexpected additional input data for model 'm'");
        let error = decode(&source(1000), &json, None).unwrap_err();
        assert!(error.message.starts_with("must specify valid 'Infer-Header-Content-Length'"));
    }

    #[test]
    fn limits_are_known_before_the_body() {
        let limit = |json_length: Option<i32>, encoding| Source { json_length, encoding, ..source(100) }.limit();
        assert_eq!(limit(None, Encoding::Identity), Ok(BodyLimit::Json(100)));
        assert_eq!(limit(Some(-1), Encoding::Identity), Ok(BodyLimit::Json(100)));
        assert_eq!(limit(Some(0), Encoding::Identity), Ok(BodyLimit::Raw(100)));
        assert_eq!(limit(Some(100), Encoding::Identity), Ok(BodyLimit::None));
        assert_eq!(limit(Some(7), Encoding::Gzip), Ok(BodyLimit::Inflated(100)));
        let error = limit(Some(101), Encoding::Identity).unwrap_err();
        assert!(error.message.starts_with("request JSON size of 101 bytes exceeds"), "{error}");
    }

    #[test]
    fn the_budget_is_held_for_the_tensors_and_no_longer_for_the_text() {
        let budget = Arc::new(ByteBudget::new(100_000));
        let data = ["255"; 10_000].join(",");
        let text =
            format!("{{\"inputs\":[{{\"name\":\"IN\",\"shape\":[10000],\"datatype\":\"UINT8\",\"data\":[{data}]}}]}}");
        let (request, _, kept) = decode_with_budget(&source(1 << 20), text.into(), &budget).unwrap();
        assert!(kept.is_none(), "the tensor holds its own bytes");
        assert_eq!(budget.in_use(), 10_000);
        drop(request);
        assert_eq!(budget.in_use(), 0);
        // eight bytes of a tensor from two of text
        let text = format!(
            "{{\"inputs\":[{{\"name\":\"IN\",\"shape\":[20000],\"datatype\":\"FP64\",\"data\":[{}]}}]}}",
            ["1"; 20_000].join(",")
        );
        let error = decode_with_budget(&source(1 << 20), text.into(), &budget).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "it would not fit if it were alone");
    }
}
