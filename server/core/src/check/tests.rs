//! Every message of the checks, word for word, and the property that what fits passes and what does not fit never does.

use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;

use super::{check, deduce_raw};
use crate::{
    buffer::Buffer,
    error::Code,
    interface::{InputSpec, Interface, OutputSpec},
    request::{InferRequest, RequestedOutput, VersionChoice},
    tensor::{DataType, Shape, Tensor, element_count, strings},
};

fn input(name: &str, data_type: DataType, dims: &[i64]) -> InputSpec {
    InputSpec {
        name: name.into(),
        data_type,
        dims: Shape::from_slice(dims),
        reshape: None,
        is_optional: false,
        allow_ragged_batch: false,
        takes_any_shape: false,
    }
}

fn interface(max_batch_size: u32, inputs: Vec<InputSpec>) -> Interface {
    let output = |name: &str| OutputSpec {
        name: name.into(),
        data_type: DataType::Fp32,
        dims: Shape::from_slice(&[1]),
        reshape: None,
        labels: vec![],
    };
    Interface {
        model_name: "m".into(),
        version: 1,
        max_batch_size,
        inputs,
        outputs: vec![output("x"), output("y")],
        is_decoupled: false,
        has_sequences: false,
    }
}

/// Two FP32 inputs of 16, batches of up to 4.
fn adder() -> Interface {
    interface(4, vec![input("a", DataType::Fp32, &[16]), input("b", DataType::Fp32, &[16])])
}

/// One input without a batch dimension.
fn single(data_type: DataType, dims: &[i64]) -> Interface {
    interface(0, vec![input("a", data_type, dims)])
}

fn tensor(name: &str, data_type: DataType, shape: &[i64], data: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), data_type, shape: Shape::from_slice(shape), data: data.into() }
}

/// A tensor whose bytes fit its shape, elements of BYTES being `ab`.
fn fitting(name: &str, data_type: DataType, shape: &[i64]) -> Tensor {
    let count = usize::try_from(element_count(shape).unwrap_or(0)).unwrap();
    let data = match data_type.byte_size() {
        Some(size) => vec![0; count * size],
        None => strings::join(std::iter::repeat_n(b"ab".as_slice(), count)),
    };
    tensor(name, data_type, shape, data)
}

fn fp32(name: &str, shape: &[i64]) -> Tensor {
    fitting(name, DataType::Fp32, shape)
}

fn request(inputs: impl IntoIterator<Item = Tensor>) -> InferRequest {
    InferRequest {
        model_name: "m".into(),
        model_version: VersionChoice::Latest,
        id: "7".into(),
        inputs: inputs.into_iter().collect(),
        outputs: Default::default(),
        parameters: vec![],
        sequence: None,
        priority: 0,
        timeout: None,
        received_at: Instant::now(),
        callers: None,
        trace: None,
    }
}

fn asking(outputs: &[&str]) -> InferRequest {
    let mut request = request([fp32("a", &[1, 16]), fp32("b", &[1, 16])]);
    request.outputs = outputs.iter().map(|&name| RequestedOutput::values(name)).collect();
    request
}

#[track_caller]
fn passes(interface: &Interface, mut request: InferRequest, rows: u32) -> InferRequest {
    assert_eq!(check(interface, &mut request), Ok(rows));
    request
}

#[track_caller]
fn fails(interface: &Interface, mut request: InferRequest, message: &str) {
    let error = check(interface, &mut request).unwrap_err();
    assert_eq!(error.message, message);
    assert_eq!(error.code, Code::InvalidArgument);
}

const NOTE: &str = "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting max_batch_size to zero. See the model configuration docs for more info on max_batch_size.";

// === names and counts ===

#[test]
fn a_request_that_fits_passes_in_any_order() {
    passes(&adder(), request([fp32("a", &[1, 16]), fp32("b", &[1, 16])]), 1);
    passes(&adder(), request([fp32("b", &[4, 16]), fp32("a", &[4, 16])]), 4);
    passes(&adder(), asking(&["y", "x"]), 1);
    passes(&single(DataType::Int8, &[-1, 2]), request([fitting("a", DataType::Int8, &[5, 2])]), 1);
}

#[test]
fn names_given_twice_are_refused() {
    let twice = request([fp32("a", &[1, 16]), fp32("a", &[1, 16])]);
    fails(&adder(), twice, "[request id: 7] input 'a' already exists in request");
    fails(&adder(), asking(&["x", "x"]), "[request id: 7] output 'x' already exists in request");

    let mut many = request((0..1000).map(|number| fp32(&format!("i{number}"), &[1, 16])));
    many.inputs.push(fp32("i500", &[1, 16]));
    fails(&adder(), many, "[request id: 7] input 'i500' already exists in request");
}

#[test]
fn a_request_without_an_id_says_so() {
    let mut request = asking(&["x", "x"]);
    request.id.clear();
    fails(&adder(), request, "[request id: <id_unknown>] output 'x' already exists in request");
}

#[test]
fn unknown_names_are_refused_without_the_id() {
    fails(&adder(), asking(&["x", "z"]), "unexpected inference output 'z' for model 'm'");
    let unknown = request([fp32("a", &[1, 16]), fp32("c", &[1, 16])]);
    fails(&adder(), unknown, "unexpected inference input 'c' for model 'm'");
}

#[test]
fn a_wrong_number_of_inputs_names_what_came_and_what_is_missing() {
    let tail = "Please provide all required input(s).";
    for (names, expected) in [
        (
            vec!["a"],
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['a'], but missing required input(s) ['b']. ",
        ),
        (
            vec![],
            "expected 2 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['a','b']. ",
        ),
        (
            vec!["b", "a", "c"],
            "expected 2 inputs but got 3 inputs for model 'm'. Got input(s) ['b','a','c'], but missing required input(s) ]. ",
        ),
    ] {
        let request = request(names.into_iter().map(|name| fp32(name, &[1, 16])));
        fails(&adder(), request, &format!("[request id: 7] {expected}{tail}"));
    }
}

#[test]
fn optional_inputs_may_be_absent_and_required_ones_may_not() {
    let mut model = interface(
        4,
        vec![input("a", DataType::Fp32, &[1]), input("b", DataType::Fp32, &[1]), input("c", DataType::Fp32, &[1])],
    );
    model.inputs[1].is_optional = true;
    model.inputs[2].is_optional = true;
    passes(&model, request([fp32("a", &[2, 1])]), 2);
    passes(&model, request([fp32("c", &[2, 1]), fp32("a", &[2, 1])]), 2);
    let tail = "Please provide all required input(s).";
    fails(
        &model,
        request([]),
        &format!(
            "[request id: 7] expected number of inputs between 1 and 3 but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['a']. {tail}"
        ),
    );
    fails(
        &model,
        request([fp32("b", &[1, 1]), fp32("c", &[1, 1])]),
        &format!(
            "[request id: 7] expected number of inputs between 1 and 3 but got 2 inputs for model 'm'. Got input(s) ['b','c'], but missing required input(s) ['a']. {tail}"
        ),
    );
    model.inputs[0].is_optional = true;
    fails(&model, request([]), "[request id: 7] out of bounds index 0: request has 0 inputs");
    passes(&Interface { max_batch_size: 0, ..model.clone() }, request([]), 1);
    passes(&Interface { has_sequences: true, ..model }, request([]), 1);
    passes(&interface(4, vec![]), request([]), 1);
}

// === batch dimension ===

#[test]
fn batch_dimensions_must_be_there_and_agree_and_fit() {
    for (shapes, message) in [
        ([&[][..], &[1, 16]], "input 'a' has no shape but model requires batch dimension for 'm'"),
        ([&[1, 16], &[2, 16]], "input 'b' batch size does not match other inputs for 'm'"),
        ([&[5, 16], &[5, 16]], "inference request batch-size must be <= 4 for 'm'"),
        ([&[-1, 16], &[-1, 16]], "inference request batch-size must be <= 4 for 'm'"),
        ([&[1 << 32, 16], &[1 << 32, 16]], "inference request batch-size must be <= 4 for 'm'"),
        ([&[0, 16], &[0, 16]], "input byte size mismatch for input 'a' for model 'm'. Expected 64, got 0"),
        ([&[0, 16], &[2, 16]], "input byte size mismatch for input 'a' for model 'm'. Expected 128, got 0"),
    ] {
        let data =
            |shape: &[i64]| tensor("", DataType::Fp32, shape, vec![0; if shape.first() == Some(&0) { 0 } else { 64 }]);
        let [a, b] = shapes.map(data);
        let request = request([Tensor { name: "a".into(), ..a }, Tensor { name: "b".into(), ..b }]);
        fails(&adder(), request, &format!("[request id: 7] {message}"));
    }
}

#[test]
fn an_empty_batch_filled_like_the_others_is_one_of_theirs() {
    let mut request = request([fp32("a", &[1, 16]), fp32("b", &[1, 16])]);
    request.inputs[0].shape[0] = 0;
    assert_eq!(check(&adder(), &mut request), Ok(1));
    assert_eq!(request.inputs[0].shape.as_slice(), [1, 16], "what runs sees the batch as it is");
}

#[test]
fn an_empty_batch_of_empty_rows_is_refused_too() {
    let model = interface(4, vec![input("a", DataType::Fp32, &[-1])]);
    let message = "[request id: 7] inference request batch-size must be >= 1 for 'm'";
    fails(&model, request([fp32("a", &[0, 0])]), message);
    passes(&model, request([fp32("a", &[3, 0])]), 3);
}

// === types and shapes ===

#[test]
fn a_wrong_type_is_refused_with_both_names() {
    for want in DataType::ALL {
        for got in DataType::ALL.into_iter().filter(|&got| got != want) {
            let message =
                format!("[request id: 7] inference input 'a' data-type is '{got}', but model 'm' expects '{want}'");
            fails(&single(want, &[2]), request([fitting("a", got, &[2])]), &message);
        }
        passes(&single(want, &[2]), request([fitting("a", want, &[2])]), 1);
    }
}

#[test]
fn wrong_shapes_are_refused_with_the_note_only_when_batching() {
    for (dims, shape, expected) in [
        (&[16][..], &[1, 17][..], "Expected [-1,16], got [1,17]"),
        (&[16], &[1], "Expected [-1,16], got [1]"),
        (&[16], &[1, 16, 1], "Expected [-1,16], got [1,16,1]"),
        (&[-1, 2], &[1, 9, 3], "Expected [-1,-1,2], got [1,9,3]"),
        (&[], &[1, 1], "Expected [-1], got [1,1]"),
    ] {
        let model = interface(4, vec![input("a", DataType::Fp32, dims)]);
        let message = format!("[request id: 7] unexpected shape for input 'a' for model 'm'. {expected}. {NOTE}");
        fails(&model, request([fp32("a", shape)]), &message);
    }
    for (dims, shape, expected) in [
        (&[16][..], &[17][..], "Expected [16], got [17]"),
        (&[1, 16], &[16], "Expected [1,16], got [16]"),
        (&[16], &[], "Expected [16], got []"),
        (&[], &[1], "Expected [], got [1]"),
        (&[16], &[-2], "Expected [16], got [-2]"),
    ] {
        let message = format!("[request id: 7] unexpected shape for input 'a' for model 'm'. {expected}. ");
        fails(&single(DataType::Fp32, dims), request([fp32("a", shape)]), &message);
    }
}

#[test]
fn wildcards_belong_to_configurations() {
    let wildcard = "All input dimensions should be specified for input 'a' for model 'm', got";
    let model = interface(4, vec![input("a", DataType::Fp32, &[-1, 2])]);
    fails(&model, request([fp32("a", &[1, -1, 2])]), &format!("[request id: 7] {wildcard} [1,-1,2]"));
    fails(&single(DataType::Fp32, &[2]), request([fp32("a", &[-1])]), &format!("[request id: 7] {wildcard} [-1]"));
    // The rank is looked at first.
    let rank = "[request id: 7] unexpected shape for input 'a' for model 'm'. Expected [2], got [-1,2]. ";
    fails(&single(DataType::Fp32, &[2]), request([fp32("a", &[-1, 2])]), rank);
}

#[test]
fn an_input_of_any_shape_keeps_its_batch_dimension() {
    let any = |max_batch_size| {
        interface(max_batch_size, vec![input("a", DataType::Fp32, &[-1])]).with_any_shape(&["a".into()])
    };
    let check = |max_batch_size, shape: &[i64]| {
        let mut request = request([fp32("a", shape)]);
        super::check(&any(max_batch_size), &mut request)
    };
    for shape in [[].as_slice(), &[6], &[2, 3], &[1, 2, 3]] {
        assert_eq!(check(0, shape).unwrap(), 1, "{shape:?}");
    }
    assert_eq!(check(4, &[2, 3, 5]).unwrap(), 2);
    assert!(check(4, &[5, 3]).is_err());
    assert!(check(4, &[]).is_err());
    assert!(check(0, &[-1, 3]).is_err());
}

#[test]
fn shapes_without_a_size_are_refused() {
    let huge = i64::MAX;
    for (data_type, shape, message) in [
        (DataType::Fp32, &[-2, 1][..], "tensor 'a' contains an invalid dimension [-2,1]"),
        (DataType::Bytes, &[-2, 1], "tensor 'a' contains an invalid dimension in shape [-2,1]"),
        (DataType::Fp32, &[huge, huge], "byte size for tensor 'a' exceeds maximum size of 9223372036854775807"),
        (DataType::Bytes, &[huge, 2], "element count for tensor 'a' exceeds maximum size of 9223372036854775807"),
    ] {
        let request = request([tensor("a", data_type, shape, vec![])]);
        fails(&single(data_type, &[-1, -1]), request, message);
    }
}

// === bytes ===

#[test]
fn bytes_must_fill_the_shape_exactly() {
    for data_type in DataType::ALL {
        let Some(size) = data_type.byte_size() else { continue };
        for length in [0, size - 1, 3 * size - 1, 3 * size + 1, 4 * size] {
            if length == 3 * size {
                continue;
            }
            let expected = 3 * size;
            let message = format!(
                "[request id: 7] input byte size mismatch for input 'a' for model 'm'. Expected {expected}, got {length}"
            );
            fails(&single(data_type, &[-1]), request([tensor("a", data_type, &[3], vec![0; length])]), &message);
        }
    }
    passes(&single(DataType::Fp32, &[]), request([tensor("a", DataType::Fp32, &[], vec![0; 4])]), 1);
}

#[test]
fn string_elements_must_be_whole_and_as_many_as_the_shape_says() {
    let three = strings::join([b"x".as_slice(), b"", b"yz"]);
    let cut = |length: usize| three[..length].to_vec();
    for (data, message) in [
        (vec![], "expected 3 string elements for inference input 'a' for model 'm', got 0"),
        (cut(9), "expected 3 string elements for inference input 'a' for model 'm', got 2"),
        (
            cut(11),
            "incomplete string length indicator for inference input 'a' for model 'm', expecting 4 bytes but only 2 bytes available. Please make sure the string length indicator is in one buffer.",
        ),
        (
            cut(14),
            "incomplete string element for inference input 'a' for model 'm', expecting 2 bytes but only 1 bytes available.",
        ),
        (
            [three.clone(), strings::join([b"".as_slice()])].concat(),
            "unexpected number of string elements 4 for inference input 'a' for model 'm', expecting 3",
        ),
        (
            [three.clone(), vec![0xff; 4]].concat(),
            "unexpected number of string elements 4 for inference input 'a' for model 'm', expecting 3",
        ),
        (
            [three.clone(), vec![0; 3]].concat(),
            "incomplete string length indicator for inference input 'a' for model 'm', expecting 4 bytes but only 3 bytes available. Please make sure the string length indicator is in one buffer.",
        ),
    ] {
        let request = request([tensor("a", DataType::Bytes, &[3], data)]);
        fails(&single(DataType::Bytes, &[3]), request, &format!("[request id: 7] {message}"));
    }
    passes(&single(DataType::Bytes, &[3]), request([tensor("a", DataType::Bytes, &[3], three)]), 1);
    passes(&single(DataType::Bytes, &[-1]), request([tensor("a", DataType::Bytes, &[0], vec![])]), 1);
}

// === reshape ===

#[test]
fn reshape_replaces_the_extents_and_keeps_the_batch() {
    for (max_batch_size, dims, reshape, shape, expected) in [
        (4, &[1][..], &[][..], &[3, 1][..], &[3][..]),
        (4, &[4, -1], &[-1, 2, 2], &[2, 4, 5], &[2, 5, 2, 2]),
        (4, &[-1, 6, -1], &[6, -1, -1], &[1, 2, 6, 3], &[1, 6, 2, 3]),
        (0, &[1, 2], &[2], &[1, 2], &[2]),
        (0, &[1], &[], &[1], &[]),
    ] {
        let mut model = interface(max_batch_size, vec![input("a", DataType::Int16, dims)]);
        model.inputs[0].reshape = Some(Shape::from_slice(reshape));
        let rows = if max_batch_size == 0 { 1 } else { u32::try_from(shape[0]).unwrap() };
        let passed = passes(&model, request([fitting("a", DataType::Int16, shape)]), rows);
        assert_eq!(passed.inputs[0].shape[..], *expected);
    }
}

// === raw ===

#[test]
fn a_bare_body_finds_its_shape() {
    for (max_batch_size, data_type, dims, length, expected) in [
        (0, DataType::Fp32, &[2, 3][..], 24, &[2, 3][..]),
        (4, DataType::Fp32, &[2, 3], 24, &[1, 2, 3]),
        (4, DataType::Int16, &[2, -1], 12, &[1, 2, 3]),
        (0, DataType::Uint8, &[-1], 0, &[0]),
        (0, DataType::Fp64, &[-1], 17, &[2]),
        (0, DataType::Fp64, &[-1, 0], 17, &[0, 0]),
    ] {
        let model = interface(max_batch_size, vec![input("a", data_type, dims)]);
        let tensor = deduce_raw(&model, "", vec![1; length].into()).unwrap();
        assert_eq!((&*tensor.name, tensor.data_type, tensor.data.len()), ("a", data_type, length));
        assert_eq!(tensor.shape[..], *expected);
    }
    let text =
        deduce_raw(&interface(4, vec![input("a", DataType::Bytes, &[1])]), "", Bytes::from_static(b"hey")).unwrap();
    assert_eq!((&text.shape[..], text.data.as_host()), (&[1, 1][..], Some(b"\x03\0\0\0hey".as_slice())));
}

#[test]
fn a_body_that_cannot_be_understood_says_why() {
    for (inputs, message) in [
        (
            vec![input("a", DataType::Fp32, &[1]), input("b", DataType::Fp32, &[1])],
            "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'm' model configuration",
        ),
        (
            vec![],
            "Raw request must only have 1 input (found 1) to be deduced but got 0 inputs in 'm' model configuration",
        ),
        (
            vec![input("a", DataType::Fp32, &[-1, -1])],
            "The shape of the raw input 'a' can not be deduced because there are more than one variable-sized dimension",
        ),
        (
            vec![input("a", DataType::Bytes, &[-1])],
            "For BYTE datatype raw input 'a', the model must have input shape [1]",
        ),
        (
            vec![input("a", DataType::Bytes, &[2])],
            "For BYTE datatype raw input 'a', the model must have input shape [1]",
        ),
    ] {
        let error = deduce_raw(&interface(0, inputs), "7", Bytes::new()).unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::InvalidArgument, &*format!("[request id: 7] {message}")));
    }
}

// === properties ===

/// A model of one to three inputs, and extents for every wildcard.
fn any_model() -> impl Strategy<Value = (Interface, u32, Vec<Vec<i64>>)> {
    let dim = prop_oneof![Just(-1i64), 1i64..4];
    let spec = (0..DataType::ALL.len(), prop::collection::vec((dim, 1i64..5), 0..4));
    (0u32..4, 1u32..4, prop::collection::vec(spec, 1..4)).prop_map(|(max_batch_size, rows, specs)| {
        let rows = rows.min(max_batch_size.max(1));
        let mut shapes = Vec::new();
        let inputs = specs
            .into_iter()
            .enumerate()
            .map(|(number, (data_type, dims))| {
                let batch = (max_batch_size > 0).then_some(i64::from(rows));
                let extents = dims.iter().map(|&(dim, extent)| if dim == -1 { extent } else { dim });
                shapes.push(batch.into_iter().chain(extents).collect());
                let dims: Vec<i64> = dims.iter().map(|&(dim, _)| dim).collect();
                input(&format!("input{number}"), DataType::ALL[data_type], &dims)
            })
            .collect();
        (interface(max_batch_size, inputs), rows, shapes)
    })
}

fn request_for(model: &Interface, shapes: &[Vec<i64>]) -> InferRequest {
    let inputs = model.inputs.iter().zip(shapes);
    request(inputs.map(|(spec, shape)| fitting(&spec.name, spec.data_type, shape)))
}

proptest! {
    #[test]
    fn a_request_built_to_fit_always_passes((model, rows, shapes) in any_model(), rotate in 0usize..3) {
        let mut request = request_for(&model, &shapes);
        let rotate = rotate % request.inputs.len();
        request.inputs.rotate_left(rotate);
        let before: Vec<Shape> = request.inputs.iter().map(|input| input.shape.clone()).collect();
        prop_assert_eq!(check(&model, &mut request), Ok(rows));
        let after: Vec<Shape> = request.inputs.iter().map(|input| input.shape.clone()).collect();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn a_request_with_a_changed_shape_never_passes(
        (model, _, shapes) in any_model(),
        which in any::<prop::sample::Index>(),
        position in any::<prop::sample::Index>(),
        extent in -3i64..9,
        change in 0..3,
    ) {
        let mut request = request_for(&model, &shapes);
        let which = which.index(request.inputs.len());
        let shape = &mut request.inputs[which].shape;
        match change {
            0 => shape.insert(position.index(shape.len() + 1), extent),
            1 if !shape.is_empty() => { shape.remove(position.index(shape.len())); }
            _ if !shape.is_empty() => {
                let position = position.index(shape.len());
                prop_assume!(shape[position] != extent);
                // An empty batch among others is taken for one of theirs, as a test above shows.
                prop_assume!(model.max_batch_size == 0 || position > 0 || extent != 0);
                shape[position] = extent;
            }
            _ => shape.push(extent),
        }
        prop_assert!(check(&model, &mut request).is_err());
    }

    #[test]
    fn a_request_with_bytes_cut_or_added_never_passes((model, _, shapes) in any_model(), which in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(), extra in 0usize..3) {
        let mut request = request_for(&model, &shapes);
        let which = which.index(request.inputs.len());
        let tensor = &mut request.inputs[which];
        let mut data = tensor.data.as_host().unwrap().to_vec();
        if extra > 0 { data.extend(std::iter::repeat_n(0, extra)); } else { data.truncate(cut.index(data.len())); }
        tensor.data = Buffer::from(data);
        prop_assert!(check(&model, &mut request).is_err());
    }
}
