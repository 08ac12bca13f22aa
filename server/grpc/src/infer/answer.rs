//! The server's response becomes a message. Outputs always travel raw, one entry each, in order.

use std::collections::BTreeMap;

use prost::Message;
use server_core::{
    error::{Error, Result},
    request::Parameter,
    response::InferResponse,
};
use server_proto::inference::{
    InferParameter, ModelInferResponse, infer_parameter::ParameterChoice, model_infer_response::InferOutputTensor,
};

/// More bytes than everything but the tensors takes in a message.
const MAX_HEAD: usize = 1 << 20;

/// Makes a message of a response.
///
/// Errors: `InvalidArgument` if it would be longer than `max_bytes`; `Internal` for a tensor the host cannot read.
pub(crate) fn message(response: InferResponse, max_bytes: usize) -> Result<ModelInferResponse> {
    let mut outputs = Vec::with_capacity(response.outputs.len());
    let mut raw_output_contents = Vec::with_capacity(response.outputs.len());
    let mut raw_bytes = 0;
    for tensor in response.outputs {
        let Some(bytes) = tensor.data.into_host() else {
            return Err(Error::internal(format!("output '{}' does not lie in host memory", tensor.name)));
        };
        raw_bytes += bytes.len();
        raw_output_contents.push(bytes);
        outputs.push(InferOutputTensor {
            name: tensor.name.as_ref().to_owned(),
            datatype: tensor.data_type.wire_name().to_owned(),
            shape: tensor.shape.to_vec(),
            ..Default::default()
        });
    }
    let message = ModelInferResponse {
        model_name: response.model_name.as_ref().to_owned(),
        model_version: response.model_version.to_string(),
        id: response.id,
        parameters: parameters(&response.parameters),
        outputs,
        raw_output_contents,
    };
    // Only a message that is nearly full is measured exactly.
    if raw_bytes > max_bytes.saturating_sub(MAX_HEAD) {
        let bytes = message.encoded_len();
        if bytes > max_bytes {
            return Err(Error::invalid_argument(format!(
                "Response has byte size {bytes} which exceeds gRPC's byte size limit {max_bytes}."
            )));
        }
    }
    Ok(message)
}

fn parameters(parameters: &[(String, Parameter)]) -> BTreeMap<String, InferParameter> {
    parameters.iter().map(|(key, value)| (key.clone(), parameter(value.clone()))).collect()
}

/// One parameter of a response.
pub(crate) fn parameter(value: Parameter) -> InferParameter {
    let choice = match value {
        Parameter::Bool(value) => ParameterChoice::BoolParam(value),
        Parameter::Int(value) => ParameterChoice::Int64Param(value),
        Parameter::Uint(value) => ParameterChoice::Uint64Param(value),
        Parameter::Double(value) => ParameterChoice::DoubleParam(value),
        Parameter::String(value) => ParameterChoice::StringParam(value),
    };
    InferParameter { parameter_choice: Some(choice) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use server_core::tensor::{DataType, Shape, Tensor};

    use super::*;

    fn response(bytes: Bytes) -> InferResponse {
        let tensor = |name: &str, data_type, shape: &[i64], data: Bytes| Tensor {
            name: name.into(),
            data_type,
            shape: Shape::from_slice(shape),
            data: data.into(),
        };
        InferResponse {
            model_name: "m".into(),
            model_version: 3,
            id: "7".into(),
            parameters: vec![
                ("b".into(), Parameter::Bool(true)),
                ("d".into(), Parameter::Double(0.5)),
                ("i".into(), Parameter::Int(-1)),
                ("s".into(), Parameter::String("text".into())),
                ("u".into(), Parameter::Uint(u64::MAX)),
            ]
            .into(),
            outputs: [tensor("x", DataType::Uint8, &[1, -1], bytes), tensor("y", DataType::Bytes, &[0], Bytes::new())]
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn all_fields_of_a_response_are_sent_and_tensors_are_not_copied() {
        let bytes = Bytes::from(vec![1, 2, 3]);
        let message = message(response(bytes.clone()), usize::MAX).unwrap();
        assert_eq!((&*message.model_name, &*message.model_version, &*message.id), ("m", "3", "7"));
        assert_eq!(message.raw_output_contents, [bytes.clone(), Bytes::new()]);
        assert_eq!(message.raw_output_contents[0].as_ptr(), bytes.as_ptr());
        let outputs: Vec<_> =
            message.outputs.iter().map(|output| (&*output.name, &*output.datatype, &output.shape[..])).collect();
        assert_eq!(outputs, [("x", "UINT8", &[1, -1][..]), ("y", "BYTES", &[0])]);
        assert!(message.outputs.iter().all(|output| output.contents.is_none()));
        let choices: Vec<_> =
            message.parameters.into_iter().map(|(key, value)| (key, value.parameter_choice.unwrap())).collect();
        assert_eq!(
            choices,
            [
                ("b".to_owned(), ParameterChoice::BoolParam(true)),
                ("d".to_owned(), ParameterChoice::DoubleParam(0.5)),
                ("i".to_owned(), ParameterChoice::Int64Param(-1)),
                ("s".to_owned(), ParameterChoice::StringParam("text".into())),
                ("u".to_owned(), ParameterChoice::Uint64Param(u64::MAX)),
            ]
        );
    }

    #[test]
    fn a_message_over_the_limit_is_refused_with_its_length() {
        let length = message(response(Bytes::from(vec![0; 100])), usize::MAX).unwrap().encoded_len();
        assert!(message(response(Bytes::from(vec![0; 100])), length).is_ok());
        let error = message(response(Bytes::from(vec![0; 101])), length).unwrap_err();
        let text = format!("Response has byte size {} which exceeds gRPC's byte size limit {length}.", length + 1);
        assert_eq!(error, Error::invalid_argument(text));
    }
}
