use server_core::{error::Code, request::Parameter, tensor::DataType};

use super::*;

const MAX: usize = 1 << 20;

#[track_caller]
fn refused(text: &str, code: Code, expect: &str) {
    let error = parse(text.as_bytes(), MAX).unwrap_err();
    assert_eq!((error.code, &*error.message), (code, expect), "{text}");
}

/// A request with one input of these members.
fn with_input(members: &str) -> String {
    format!("{{\"inputs\":[{{{members}}}]}}")
}

fn floats(values: &[f32]) -> Content {
    Content::Data(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

#[test]
fn a_full_request_is_understood() {
    let text = r#" {"id":"7","parameters":{"sequence_id":3,"sequence_start":true,"sequence_end":false,"priority":2,
        "timeout":500,"binary_data_output":true,"mine":"x","count":-4,"big":18446744073709551615,"part":0.5},
        "inputs":[{"name":"A","shape":[1,2],"datatype":"FP32","data":[[1.5,2]]},
                  {"name":"B","shape":[2],"datatype":"INT8","parameters":{"binary_data_size":2}}],
        "outputs":[{"name":"C","parameters":{"binary_data":true}},{"name":"D","parameters":{"classification":3}}],
        "unknown":{"deep":[1,2,{}]}} "#;
    let message = parse(text.as_bytes(), MAX).unwrap();
    let expect = Message {
        id: "7".into(),
        controls: Controls {
            sequence_id: Some(SequenceId::Number(3)),
            is_sequence_start: true,
            is_sequence_end: false,
            priority: 2,
            timeout_us: 500,
            binary_data_output: true,
            custom: vec![
                ("mine".into(), Parameter::String("x".into())),
                ("count".into(), Parameter::Int(-4)),
                ("big".into(), Parameter::Uint(u64::MAX)),
                ("part".into(), Parameter::Double(0.5)),
            ],
        },
        inputs: smallvec::smallvec![
            Input {
                name: "A".into(),
                data_type: DataType::Fp32,
                shape: smallvec::smallvec![1, 2],
                content: floats(&[1.5, 2.0])
            },
            Input {
                name: "B".into(),
                data_type: DataType::Int8,
                shape: smallvec::smallvec![2],
                content: Content::Binary(2)
            },
        ],
        outputs: smallvec::smallvec![
            Output { name: "C".into(), is_binary: true, classification: 0, region: None },
            Output { name: "D".into(), is_binary: false, classification: 3, region: None },
        ],
    };
    assert_eq!(message, expect);
}

#[test]
fn members_may_come_in_any_order() {
    let text = with_input(r#""data":[1,[2.5]],"datatype":"FP32","shape":[2],"name":"A""#);
    assert_eq!(parse(text.as_bytes(), MAX).unwrap().inputs[0].content, floats(&[1.0, 2.5]));
    let text = r#"{"outputs":[],"inputs":[],"id":""}"#;
    assert_eq!(parse(text.as_bytes(), MAX).unwrap(), Message::default());
}

#[test]
fn of_two_members_with_one_name_the_first_counts() {
    let text = r#"{"id":"a","id":"b","inputs":[]}"#;
    assert_eq!(parse(text.as_bytes(), MAX).unwrap().id, "a");
}

#[test]
fn strings_and_scalars_are_tensors_too() {
    let text = with_input(r#""name":"A","shape":[],"datatype":"INT32","data":[5]"#);
    let message = parse(text.as_bytes(), MAX).unwrap();
    assert_eq!(message.inputs[0].content, Content::Data(5i32.to_le_bytes().to_vec()));
    let text = with_input(r#""name":"A","shape":[1],"datatype":"BYTES","data":["h\u00e9"]"#);
    let message = parse(text.as_bytes(), MAX).unwrap();
    assert_eq!(message.inputs[0].content, Content::Data(vec![3, 0, 0, 0, b'h', 0xc3, 0xa9]));
}

#[test]
fn missing_and_mistyped_members_are_named() {
    for (text, expect) in [
        ("{}", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ("[]", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ("{\"inputs\":{}}", "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ("{\"inputs\":[],\"id\":1}", "Unable to parse 'id': attempt to access JSON non-string as string"),
        ("{\"inputs\":[],\"outputs\":1}", "Unable to parse 'outputs': attempt to access JSON non-array as array"),
        (
            "{\"inputs\":[],\"outputs\":[{}]}",
            "Unable to parse 'name': attempt to access non-existing object member 'name'",
        ),
        (
            "{\"inputs\":[],\"parameters\":{\"timeout\":-1}}",
            "Unable to parse 'timeout': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        (
            "{\"inputs\":[],\"parameters\":{\"sequence_start\":1}}",
            "Unable to parse 'sequence_start': attempt to access JSON non-boolean as boolean",
        ),
        (
            "{\"inputs\":[],\"parameters\":{\"sequence_id\":1.5}}",
            "Unable to parse 'sequence_id': attempt to access JSON non-string as string",
        ),
    ] {
        refused(text, Code::Internal, expect);
    }
    for (members, expect) in [
        ("\"data\":[1]", "Unable to parse 'name': attempt to access non-existing object member 'name'"),
        (
            "\"name\":\"A\",\"data\":[1]",
            "Unable to parse 'datatype': attempt to access non-existing object member 'datatype'",
        ),
        (
            "\"name\":\"A\",\"datatype\":\"FP32\",\"data\":[1]",
            "Unable to parse 'shape': attempt to access non-existing object member 'shape'",
        ),
        (
            "\"name\":\"A\",\"datatype\":\"FP32\",\"shape\":[-1],\"data\":[1]",
            "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        (
            "\"name\":\"A\",\"datatype\":\"FP32\",\"shape\":[1],\"parameters\":{\"binary_data_size\":\"4\"}",
            "Unable to parse 'binary_data_size': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        (
            "\"name\":\"A\",\"datatype\":\"FP32\",\"shape\":[2],\"data\":[1]",
            "Failed to parse 'data' field: shape does not match true shape",
        ),
        (
            "\"name\":\"A\",\"datatype\":\"FP32\",\"shape\":[2],\"data\":[1,2,3]",
            "Unable to parse 'data': Shape does not match true shape of 'data' field",
        ),
        (
            "\"name\":\"A\",\"datatype\":\"FP32\",\"shape\":[2],\"data\":[1,\"2\"]",
            "Unable to parse 'data': attempt to access JSON non-number as double",
        ),
    ] {
        refused(&with_input(members), Code::Internal, expect);
    }
}

#[test]
fn values_without_sense_are_refused() {
    let one = "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', \
               'shared_memory_region' in 'parameters'. But";
    for (members, expect) in [
        ("\"name\":\"A\",\"datatype\":\"FP32\",\"shape\":[1]", format!("{one} no field is set")),
        (
            "\"name\":\"A\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[1],\"parameters\":{\"binary_data_size\":4}",
            format!("{one} set 'data' 'binary_data_size'"),
        ),
        (
            "\"name\":\"A\",\"datatype\":\"FP16\",\"shape\":[1],\"data\":[1]",
            "receiving FP16 data via JSON is not supported. Please use the binary data format for input A".into(),
        ),
        ("\"name\":\"A\",\"datatype\":\"FP99\",\"shape\":[1],\"data\":[1]", "invalid datatype for input A".into()),
        (
            "\"name\":\"A\",\"datatype\":\"INT8\",\"shape\":[18446744073709551615],\"data\":[1]",
            "invalid shape for input 'A': shape [-1] contains one or more invalid dimensions".into(),
        ),
        (
            "\"name\":\"A\",\"datatype\":\"INT8\",\"shape\":[9223372036854775807,2],\"data\":[1]",
            "invalid shape for input 'A': shape [9223372036854775807,2] causes total element count to exceed maximum \
             size of 9223372036854775807"
                .into(),
        ),
        (
            "\"name\":\"A\",\"datatype\":\"INT64\",\"shape\":[9223372036854775807],\"data\":[1]",
            "byte size overflow for input 'A': element count (9223372036854775807) * data type size (8) exceeds \
             maximum allowed size (9223372036854775807)"
                .into(),
        ),
        (
            "\"name\":\"A\",\"datatype\":\"INT64\",\"shape\":[131073],\"data\":[1]",
            "JSON input 'A' has a byte_size (1048584 bytes) that exceeds the maximum allowed value of 1048576 bytes. \
             Use --http-max-input-size to increase the limit."
                .into(),
        ),
    ] {
        refused(&with_input(members), Code::InvalidArgument, &expect);
    }
    refused(
        "{\"inputs\":[],\"parameters\":{\"triton_x\":1}}",
        Code::InvalidArgument,
        "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
    );
    refused(
        "{\"inputs\":[],\"parameters\":{\"x\":[1]}}",
        Code::InvalidArgument,
        "parameter 'x' has invalid type. It should be either 'int', 'bool', or 'string'.",
    );
    let output =
        |parameters: &str| format!("{{\"inputs\":[],\"outputs\":[{{\"name\":\"O\",\"parameters\":{parameters}}}]}}");
    refused(
        &output("{\"shared_memory_region\":\"r\",\"classification\":1}"),
        Code::InvalidArgument,
        "Output can't set both 'shared_memory_region' and 'classification'",
    );
    refused(
        &output("{\"shared_memory_region\":\"r\",\"binary_data\":true}"),
        Code::InvalidArgument,
        "Output can't set both 'shared_memory_region' and 'binary_data'",
    );
    refused(
        &format!("{{\"inputs\":[],\"parameters\":{{\"sequence_id\":\"{}\"}}}}", "x".repeat(129)),
        Code::Unsupported,
        "string correlation ID cannot be longer than 128 characters",
    );
}

#[test]
fn malformed_text_is_reported_before_a_wrong_value() {
    refused("{\"id\":5,\"inputs\":[}", Code::Internal, "failed to parse the request JSON buffer: Invalid value. at 18");
    refused(
        "{\"inputs\":[{\"name\":\"A\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[\"x\"]}",
        Code::Internal,
        "failed to parse the request JSON buffer: Missing a comma or ']' after an array element. at 66",
    );
}

#[test]
fn an_empty_tensor_needs_no_data() {
    let text = with_input(r#""name":"A","shape":[0,4],"datatype":"FP32","data":["ignored"]"#);
    assert_eq!(parse(text.as_bytes(), MAX).unwrap().inputs[0].content, Content::Data(vec![]));
}
