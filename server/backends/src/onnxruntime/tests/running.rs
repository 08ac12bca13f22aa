//! What models answer: batches, types, shapes, and requests that fail.

use super::*;

#[test]
fn a_batch_is_taken_apart_in_order() {
    let Some(loaded) = Loaded::new("add_sub") else { return };
    let mut instance = loaded.instance();
    for _ in 0..2 {
        let row = |start: f32, rows: usize| (0..rows * 4).map(|index| start + index as f32).collect::<Vec<_>>();
        let ask = |start: f32, rows: usize| {
            let shape = [rows as i64, 4];
            request([floats("B", &shape, &vec![1.0; rows * 4]), floats("A", &shape, &row(start, rows))])
        };
        let requests = vec![(1, ask(10.0, 1)), (2, asking_for(&["DIFFERENCE"], ask(20.0, 2))), (1, ask(30.0, 1))];
        let (replies, _) = run_batch(&mut *instance, requests);
        let replies: Vec<_> = replies.into_iter().map(Result::unwrap).collect();
        assert_eq!(output(&replies[0], "SUM").shape.as_slice(), [1, 4]);
        assert_eq!(values(output(&replies[0], "SUM")), row(11.0, 1));
        assert_eq!(values(output(&replies[0], "DIFFERENCE")), row(9.0, 1));
        assert_eq!(replies[1].tensors.len(), 1);
        assert_eq!(output(&replies[1], "DIFFERENCE").shape.as_slice(), [2, 4]);
        assert_eq!(values(output(&replies[1], "DIFFERENCE")), row(19.0, 2));
        assert_eq!(values(output(&replies[2], "SUM")), row(31.0, 1));
    }
}

fn some_of(data_type: DataType, rows: usize, seed: u8) -> Vec<u8> {
    match data_type.byte_size() {
        Some(size) if data_type == DataType::Bool => {
            (0..rows * 2 * size).map(|index| (index as u8 + seed) % 2).collect()
        }
        Some(size) => (0..rows * 2 * size).map(|index| (index as u8).wrapping_mul(7).wrapping_add(seed)).collect(),
        None => strings::join((0..rows * 2).map(|index| &b"abcdefgh"[..(index + usize::from(seed)) % 8])),
    }
}

fn one_of_each(rows: usize, seed: u8) -> Vec<Tensor> {
    let input = |data_type: DataType| {
        let name = format!("IN_{data_type}");
        tensor(&name, data_type, &[rows as i64, 2], some_of(data_type, rows, seed))
    };
    DataType::ALL.map(input).into()
}

#[test]
fn every_type_comes_back_alone_and_in_a_batch() {
    let Some(loaded) = Loaded::new("every_type") else { return };
    for (loaded, sizes) in [(Loaded::new("every_type").unwrap().unbatched(), vec![3]), (loaded, vec![1, 2, 1])] {
        let mut instance = loaded.instance();
        let seeded = sizes.iter().enumerate().map(|(seed, &rows)| (rows as usize, seed as u8));
        let requests = seeded.clone().map(|(rows, seed)| (rows as u32, request(one_of_each(rows, seed)))).collect();
        let (replies, _) = run_batch(&mut *instance, requests);
        for (reply, (rows, seed)) in replies.iter().zip(seeded) {
            let reply = reply.as_ref().unwrap();
            for data_type in DataType::ALL {
                let output = output(reply, &format!("OUT_{data_type}"));
                assert_eq!(output.data_type, data_type);
                assert_eq!(output.shape.as_slice(), [rows as i64, 2]);
                assert_eq!(bytes(output), some_of(data_type, rows, seed), "{data_type}");
            }
        }
    }
}

#[test]
fn strings_may_hold_any_bytes() {
    let Some(loaded) = Loaded::new("strings") else { return };
    let mut instance = loaded.instance();
    let parts: [&[u8]; 3] = [b"", b"nul\0inside", &[0xff, 0xfe]];
    let long = vec![b'x'; 70_000];
    let requests = vec![
        (1, request([tensor("TEXT", DataType::Bytes, &[1, 3], text(&parts))])),
        (1, request([tensor("TEXT", DataType::Bytes, &[1, 3], text(&[&long, b"b", b"c"]))])),
    ];
    let (replies, _) = run_batch(&mut *instance, requests);
    let first = replies[0].as_ref().unwrap();
    assert_eq!(bytes(output(first, "SAME")), text(&parts));
    assert_eq!(output(first, "TWICE").shape.as_slice(), [1, 6]);
    assert_eq!(bytes(output(first, "TWICE")), text(&[parts, parts].concat()));
    let second = replies[1].as_ref().unwrap();
    assert_eq!(bytes(output(second, "SAME")), text(&[&long, b"b", b"c"]));
}

#[test]
fn scalars_are_one_to_the_caller() {
    let Some(loaded) = Loaded::new("scalar") else { return };
    assert_eq!((loaded.config.max_batch_size, &*loaded.config.input[0].dims), (0, [1].as_slice()));
    let outputs = run_one(&mut *loaded.instance(), request([floats("X", &[1], &[2.5])])).unwrap();
    assert_eq!(output(&outputs, "NEGATIVE").shape.as_slice(), [1]);
    assert_eq!(values(output(&outputs, "NEGATIVE")), [-2.5]);
}

#[test]
fn scalars_have_every_shape_of_ones_and_one_value_per_run() {
    let Some(mut loaded) = Loaded::new("scalar") else { return };
    loaded.config.input[0].dims = vec![1, 1];
    loaded.config.output[0].dims = vec![1, 1, 1];
    let outputs = run_one(&mut *loaded.instance(), request([floats("X", &[1, 1], &[2.5])])).unwrap();
    assert_eq!(output(&outputs, "NEGATIVE").shape.as_slice(), [1, 1, 1]);

    let Some(mut loaded) = Loaded::new("scalar_offset") else { return };
    assert_eq!(loaded.config.max_batch_size, 0, "a scalar has no rows");
    loaded.config.max_batch_size = 8;
    loaded.config.input[0].dims = vec![2];
    loaded.config.output[0].dims = vec![2];
    let mut instance = loaded.instance();
    let ask = |offsets: &[f32]| {
        let rows = offsets.len() as i64;
        request([floats("X", &[rows, 2], &vec![1.0; 2 * offsets.len()]), floats("OFFSET", &[rows, 1], offsets)])
    };
    let requests = vec![(1, ask(&[10.0])), (2, ask(&[20.0, 20.0])), (2, ask(&[1.0, 2.0]))];
    let (replies, _) = run_batch(&mut *instance, requests);
    let of = |number: usize, name: &str| values(output(replies[number].as_ref().unwrap(), name));
    assert_eq!((of(0, "Y"), of(0, "TOTAL")), (vec![11.0; 2], vec![22.0]));
    assert_eq!((of(1, "Y"), of(1, "TOTAL")), (vec![21.0; 4], vec![84.0; 2]));
    assert_eq!(output(replies[1].as_ref().unwrap(), "TOTAL").shape.as_slice(), [2, 1]);
    let text = "input 'OFFSET' is a scalar of the model: give it the same value in every row of a request";
    assert_eq!(replies[2].as_ref().unwrap_err(), &Error::invalid_argument(text));
}

#[test]
fn ragged_requests_run_together_and_learn_where_each_lies() {
    let Some(settings) = onnxruntime_settings() else { return };
    let config = from_text(
        "name: 'm' backend: 'onnxruntime' default_model_filename: 'ragged.onnx' max_batch_size: 8
         input { name: 'X' data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }
         output [ { name: 'DOUBLED' data_type: TYPE_FP32 dims: -1 },
                  { name: 'END' data_type: TYPE_FP32 dims: 1 reshape { shape: [ ] } } ]
         batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: 'COUNT' data_type: TYPE_FP32 source_input: 'X' }
         batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: 'DOUBLED' source_input: 'X' }",
    );
    let loaded = Loaded { backend: crate::onnxruntime::backend(settings), config: config.unwrap() };
    let mut instance = loaded.instance();
    let ask = |values: &[f32]| request([floats("X", &[1, values.len() as i64], values)]);
    for _ in 0..2 {
        let requests = vec![(1, ask(&[1.0, 2.0, 3.0])), (1, ask(&[4.0])), (1, ask(&[5.0, 6.0]))];
        let (replies, _) = run_batch(&mut *instance, requests);
        let of = |number: usize, name: &str| {
            let tensor = output(replies[number].as_ref().unwrap(), name);
            (tensor.shape.to_vec(), values(tensor))
        };
        assert_eq!(of(0, "DOUBLED"), (vec![1, 3], vec![2.0, 4.0, 6.0]));
        assert_eq!(of(1, "DOUBLED"), (vec![1, 1], vec![8.0]));
        assert_eq!(of(2, "DOUBLED"), (vec![1, 2], vec![10.0, 12.0]));
        assert_eq!([of(0, "END").1, of(1, "END").1, of(2, "END").1], [[3.0], [4.0], [6.0]]);
    }
}

#[test]
fn a_model_of_any_rank_takes_what_the_configuration_says() {
    let Some(mut loaded) = Loaded::new("any_rank") else { return };
    assert_eq!(&*loaded.config.input[0].dims, [-1]);
    for shape in [[6].as_slice(), &[2, 3], &[1, 2, 3]] {
        loaded.config.input[0].dims = vec![-1; shape.len()];
        loaded.config.output[0].dims = vec![-1; shape.len()];
        let outputs = run_one(&mut *loaded.instance(), request([floats("X", shape, &[1.0; 6])])).unwrap();
        assert_eq!(output(&outputs, "Y").shape.as_slice(), shape);
        assert_eq!(values(output(&outputs, "Y")), [-1.0; 6]);
    }
}

#[test]
fn one_number_per_row_has_the_configured_shape() {
    let Some(loaded) = Loaded::new("row_sum") else { return };
    assert_eq!(loaded.config.output[0].reshape, Some(ModelTensorReshape::default()));
    let mut instance = loaded.instance();
    let ask = |rows: i64| request([floats("X", &[rows, 2], &vec![1.5; rows as usize * 2])]);
    let (replies, _) = run_batch(&mut *instance, vec![(1, ask(1)), (2, ask(2))]);
    let second = replies[1].as_ref().unwrap();
    assert_eq!(output(second, "TOTAL").shape.as_slice(), [2, 1]);
    assert_eq!(values(output(second, "TOTAL")), [3.0, 3.0]);
}

#[test]
fn reshaped_inputs_and_outputs_meet_the_model() {
    let reshape = |shape: &[i64]| Some(ModelTensorReshape { shape: shape.to_vec() });
    let Some(mut loaded) = Loaded::new("add_fixed") else { return };
    loaded.config.output[0].dims = vec![2, 2];
    loaded.config.output[0].reshape = reshape(&[4]);
    let ask = request(["A", "B"].map(|name| floats(name, &[4], &[1.0, 2.0, 3.0, 4.0])));
    let outputs = run_one(&mut *loaded.instance(), ask).unwrap();
    assert_eq!(output(&outputs, "SUM").shape.as_slice(), [2, 2]);
    assert_eq!(values(output(&outputs, "SUM")), [2.0, 4.0, 6.0, 8.0]);
}

#[test]
fn tensors_without_elements_are_tensors() {
    let Some(loaded) = Loaded::new("transpose") else { return };
    let ask = request([tensor("X", DataType::Int32, &[1, 3, 0], Vec::new())]);
    let (replies, _) = run_batch(&mut *loaded.instance(), vec![(1, ask)]);
    let outputs = replies[0].as_ref().unwrap();
    assert_eq!(output(outputs, "TURNED").shape.as_slice(), [1, 0, 3]);
    assert!(bytes(output(outputs, "TURNED")).is_empty());

    let Some(loaded) = Loaded::new("strings") else { return };
    let ask = request([tensor("TEXT", DataType::Bytes, &[0, 3], Vec::new())]);
    let outputs = run_one(&mut *loaded.unbatched().instance(), ask).unwrap();
    assert_eq!(output(&outputs, "TWICE").shape.as_slice(), [0, 6]);
}

#[test]
fn requests_that_cannot_run_together_run_one_by_one() {
    let Some(loaded) = Loaded::new("transpose") else { return };
    let ask = |shape: [i64; 3]| {
        let count = shape.iter().product::<i64>() as usize;
        request([tensor("X", DataType::Int32, &shape, vec![1; count * 4])])
    };
    let requests = vec![(1, ask([1, 2, 3])), (1, ask([1, 4, 5])), (1, request([]))];
    let (replies, _) = run_batch(&mut *loaded.instance(), requests);
    assert_eq!(output(replies[0].as_ref().unwrap(), "TURNED").shape.as_slice(), [1, 3, 2]);
    assert_eq!(output(replies[1].as_ref().unwrap(), "TURNED").shape.as_slice(), [1, 5, 4]);
    assert_eq!(replies[2].as_ref().unwrap_err().message, "input 'X' is missing");
    let requests = vec![(1, ask([1, 2, 3])), (1, ask([1, 4, 5]))];
    let (replies, _) = run_batch(&mut *loaded.instance(), requests);
    assert_eq!(output(replies[0].as_ref().unwrap(), "TURNED").shape.as_slice(), [1, 3, 2]);
    assert_eq!(output(replies[1].as_ref().unwrap(), "TURNED").shape.as_slice(), [1, 5, 4]);
}

#[test]
fn bytes_need_not_be_aligned() {
    let Some(loaded) = Loaded::new("add_sub") else { return };
    let mut body = vec![0u8];
    body.extend([1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()));
    let body = Bytes::from(body);
    let start = usize::from(body.as_ptr().addr().is_multiple_of(4));
    let inputs = ["A", "B"].map(|name| {
        let data = if start == 1 { body.slice(1..17) } else { Bytes::copy_from_slice(&body[1..17]) };
        tensor(name, DataType::Fp32, &[1, 4], Buffer::from(data))
    });
    let (replies, _) = run_batch(&mut *loaded.instance(), vec![(1, request(inputs))]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "SUM")), [2.0, 4.0, 6.0, 8.0]);
}

#[test]
fn a_constant_of_the_model_may_be_replaced_by_a_request() {
    let Some(mut loaded) = Loaded::new("default_bias") else { return };
    let mut bias = loaded.config.input[0].clone();
    (bias.name, bias.optional) = ("BIAS".into(), true);
    loaded.config.input.push(bias);
    let mut instance = loaded.instance();
    let x = || floats("X", &[2], &[1.0, 2.0]);
    let outputs = run_one(&mut *instance, request([x()])).unwrap();
    assert_eq!(values(output(&outputs, "Y")), [101.0, 202.0]);
    let outputs = run_one(&mut *instance, request([floats("BIAS", &[2], &[0.5, 0.5]), x()])).unwrap();
    assert_eq!(values(output(&outputs, "Y")), [1.5, 2.5]);
}

#[test]
fn what_a_model_fails_on_fails_alone_in_its_batch_and_the_instance_goes_on() {
    let Some(loaded) = Loaded::new("lookup") else { return };
    let mut instance = loaded.instance();
    let ask = |index: i64| request([tensor("INDEX", DataType::Int64, &[1, 1], index.to_le_bytes().to_vec())]);
    let asked = [0, 7, 2, 1, 9];
    let (replies, _) = run_batch(&mut *instance, asked.map(|index| (1, ask(index))).into());
    for (index, reply) in asked.into_iter().zip(replies) {
        match (index, reply) {
            (0..=2, reply) => assert_eq!(values(output(&reply.unwrap(), "VALUE")), [(index as f32 + 1.0) * 10.0]),
            (_, reply) => {
                let error = reply.unwrap_err();
                assert_eq!(error.code, Code::Internal);
                assert!(error.message.starts_with("onnx runtime error 2: Non-zero status code returned"), "{error}");
            }
        }
    }
    let (replies, _) = run_batch(&mut *instance, vec![(1, ask(2))]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "VALUE")), [30.0]);
}

#[test]
fn a_bad_request_of_a_ragged_batch_fails_alone() {
    let Some(settings) = onnxruntime_settings() else { return };
    let config = from_text(
        "name: 'm' default_model_filename: 'ragged_lookup.onnx' max_batch_size: 8
         input { name: 'INDEX' data_type: TYPE_INT64 dims: -1 allow_ragged_batch: true }
         output { name: 'VALUE' data_type: TYPE_FP32 dims: -1 }
         batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: 'VALUE' source_input: 'INDEX' }",
    );
    let loaded = Loaded { backend: crate::onnxruntime::backend(settings), config: config.unwrap() };
    let ask = |indices: &[i64]| {
        let bytes: Vec<u8> = indices.iter().flat_map(|index| index.to_le_bytes()).collect();
        (1, request([tensor("INDEX", DataType::Int64, &[1, indices.len() as i64], bytes)]))
    };
    let requests = vec![ask(&[0, 1, 2]), ask(&[1, 9]), ask(&[2]), ask(&[0, 0])];
    let (replies, _) = run_batch(&mut *loaded.instance(), requests);
    let of = |number: usize| values(output(replies[number].as_ref().unwrap(), "VALUE"));
    assert_eq!((of(0), of(2), of(3)), (vec![10.0, 20.0, 30.0], vec![30.0], vec![10.0; 2]));
    assert!(replies[1].as_ref().unwrap_err().message.contains("idx=9"), "{replies:?}");
}

#[test]
fn an_output_that_does_not_come_apart_is_an_error() {
    let Some(loaded) = Loaded::new("flatten") else { return };
    let mut instance = loaded.instance();
    let ask = || request([floats("X", &[1, 2], &[1.0, 2.0])]);
    let (replies, _) = run_batch(&mut *instance, vec![(1, ask())]);
    let error = replies[0].as_ref().unwrap_err();
    assert_eq!(*error, Error::internal("output 'FLAT': shape [2] does not start with the batch size 1"));
}

#[test]
fn answers_outlive_requests_instance_and_model() {
    let Some(loaded) = Loaded::new("pass_through") else { return };
    let loaded = loaded.unbatched();
    let mut instance = loaded.instance();
    let (rows, mut kept) = (5000, Vec::new()); // large enough to be handed out without a copy
    for round in 0..3 {
        let content = vec![round as f32; rows * 2];
        let outputs = run_one(&mut *instance, request([floats("X", &[rows as i64, 2], &content)])).unwrap();
        kept.push(outputs);
    }
    drop((instance, loaded));
    let check = move || {
        for (round, outputs) in kept.iter().enumerate() {
            assert!(values(output(outputs, "X")).iter().all(|value| *value == round as f32));
            assert!(values(output(outputs, "NEGATIVE")).iter().all(|value| *value == -(round as f32)));
        }
    };
    std::thread::spawn(check).join().unwrap();
}

#[test]
fn large_outputs_of_a_batch_are_shared_and_small_ones_are_not() {
    let Some(mut loaded) = Loaded::new("transpose") else { return };
    loaded.config.max_batch_size = 2;
    let mut instance = loaded.instance();
    for side in [2i64, 100] {
        let count = (side * side) as usize;
        let ask = |value: u8| request([tensor("X", DataType::Int32, &[1, side, side], vec![value; count * 4])]);
        let (replies, _) = run_batch(&mut *instance, vec![(1, ask(1)), (1, ask(2))]);
        let parts: Vec<_> = replies.iter().map(|reply| bytes(output(reply.as_ref().unwrap(), "TURNED"))).collect();
        assert!(parts[0].iter().all(|byte| *byte == 1) && parts[1].iter().all(|byte| *byte == 2));
        let is_shared = parts[0].as_ptr_range().end == parts[1].as_ptr();
        assert_eq!(is_shared, side == 100);
    }
}

#[test]
fn what_sessions_hold_is_measured() {
    let Some(loaded) = Loaded::new("transpose") else { return };
    let model = loaded.model().unwrap();
    assert_eq!(model.memory(), [], "it has no instance yet");
    let mut instance = model.instance(&on_cpu(), &Health::default()).unwrap();
    let held = || {
        let used = model.memory();
        assert!(used.iter().all(|used| used.device == Device::Cpu), "{used:?}");
        used.iter().map(|used| used.bytes).sum::<u64>()
    };
    let before = held();
    let side = 2048;
    let large = vec![1; side * side * 4];
    let asked = request([tensor("X", DataType::Int32, &[1, side as i64, side as i64], large)]);
    run_one(&mut *instance, asked).unwrap();
    let grown = held() - before;
    assert!((16 << 20..256 << 20).contains(&grown), "an output of 16 MiB has made {grown} bytes of it");
    drop(instance);
    assert_eq!(model.memory(), [], "what is gone holds nothing");
}

#[test]
fn a_folder_with_weights_beside_the_model_is_a_model() {
    let Some(loaded) = Loaded::new("external_data") else { return };
    let (replies, _) = run_batch(&mut *loaded.instance(), vec![(1, request([floats("X", &[1, 4], &[1.0; 4])]))]);
    assert_eq!(values(output(replies[0].as_ref().unwrap(), "Y")), [1.0, 2.0, 3.0, 4.0]);
}
