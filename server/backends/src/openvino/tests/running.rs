//! What models answer: batches, types, shapes, and requests that fail.

use super::*;

#[test]
fn a_batch_is_taken_apart_in_order() {
    let Some(loaded) = Loaded::new("add_sub.onnx") else { return };
    let mut instance = loaded.instance();
    for _ in 0..3 {
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
        assert_eq!(values(output(&replies[1], "DIFFERENCE")), row(19.0, 2));
        assert_eq!(values(output(&replies[2], "SUM")), row(31.0, 1));
        let (alone, _) = run_batch(&mut *instance, vec![(1, ask(40.0, 1))]);
        assert_eq!(values(output(alone[0].as_ref().unwrap(), "SUM")), row(41.0, 1));
    }
}

fn some_of(data_type: DataType, rows: usize, seed: u8) -> Vec<u8> {
    match data_type.byte_size() {
        Some(size) if data_type == DataType::Bool => {
            (0..rows * 2 * size).map(|index| (index as u8 + seed) % 2).collect()
        }
        // OpenVINO computes these in 32 bits on the CPU.
        Some(_) if matches!(data_type, DataType::Int64 | DataType::Uint64) => {
            (0..rows as i64 * 2).flat_map(|index| (index * 70_000 + i64::from(seed)).to_le_bytes()).collect()
        }
        Some(_) if data_type == DataType::Fp64 => {
            (0..rows * 2).flat_map(|index| (index as f64 - f64::from(seed) / 4.0).to_le_bytes()).collect()
        }
        Some(size) => (0..rows * 2 * size).map(|index| (index as u8).wrapping_mul(7).wrapping_add(seed)).collect(),
        None => Vec::new(),
    }
}

#[test]
fn every_type_comes_back_alone_and_in_a_batch() {
    let Some(loaded) = Loaded::new("every_type.xml") else { return };
    let mut instance = loaded.instance();
    for sizes in [vec![3], vec![1, 2, 1]] {
        let seeded = sizes.iter().enumerate().map(|(seed, &rows)| (rows as usize, seed as u8));
        let of_all = |rows: usize, seed: u8| -> Vec<Tensor> {
            let of_one = |data_type: DataType| {
                let name = format!("IN_{data_type}");
                tensor(&name, data_type, &[rows as i64, 2], some_of(data_type, rows, seed))
            };
            numbers().map(of_one).collect()
        };
        let requests = seeded.clone().map(|(rows, seed)| (rows as u32, request(of_all(rows, seed)))).collect();
        let (replies, _) = run_batch(&mut *instance, requests);
        for (reply, (rows, seed)) in replies.iter().zip(seeded) {
            let reply = reply.as_ref().unwrap();
            for data_type in numbers() {
                let output = output(reply, &format!("OUT_{data_type}"));
                assert_eq!(output.data_type, data_type);
                assert_eq!(output.shape.as_slice(), [rows as i64, 2]);
                assert_eq!(bytes(output), some_of(data_type, rows, seed), "{data_type}");
            }
        }
    }
}

#[test]
fn answers_outlive_requests_instance_and_model() {
    let Some(loaded) = Loaded::new("transpose.onnx") else { return };
    let model = loaded.model().unwrap();
    let mut instance = model.instance(&on_cpu(), &Health::default()).unwrap();
    let ask = |start: i32, count: i32| {
        let numbers: Vec<u8> = (0..count).flat_map(|index| (start + index).to_le_bytes()).collect();
        request([tensor("X", DataType::Int32, &[1, i64::from(count), 1], numbers)])
    };
    // Large enough to be shared; of several sizes, so that tensors are used again with other shapes.
    let sizes: Vec<i32> = (0..12).map(|index| 5_000 + 1_000 * (index % 3)).collect();
    let kept: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(index, &count)| {
            let start = index as i32 * 100_000;
            let (replies, _) = run_batch(&mut *instance, vec![(1, ask(start, count))]);
            (start, replies.into_iter().next().unwrap().unwrap())
        })
        .collect();
    drop((instance, model));
    for ((start, outputs), count) in kept.iter().zip(sizes) {
        let output = output(outputs, "TURNED");
        assert_eq!(output.shape.as_slice(), [1, 1, i64::from(count)]);
        let numbers: Vec<i32> =
            bytes(output).chunks_exact(4).map(|chunk| i32::from_le_bytes(chunk.try_into().unwrap())).collect();
        assert_eq!(numbers, (*start..start + count).collect::<Vec<_>>());
    }
}

#[test]
fn tensors_are_used_again_once_nobody_reads_them() {
    let Some(loaded) = Loaded::new("transpose.onnx") else { return };
    let mut instance = loaded.instance();
    let mut addresses = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let ask = request([tensor("X", DataType::Int32, &[1, 5_000, 1], vec![1; 20_000])]);
        let (replies, _) = run_batch(&mut *instance, vec![(1, ask)]);
        addresses.insert(bytes(output(replies[0].as_ref().unwrap(), "TURNED")).as_ptr());
    }
    assert!(addresses.len() <= 2, "{} tensors were made", addresses.len());
}

#[test]
fn scalars_reshapes_and_any_ranks_meet_the_model() {
    let Some(loaded) = Loaded::new("scalar.onnx") else { return };
    let outputs = run_one(&mut *loaded.instance(), request([floats("X", &[1], &[2.5])])).unwrap();
    assert_eq!(output(&outputs, "NEGATIVE").shape.as_slice(), [1]);
    assert_eq!(values(output(&outputs, "NEGATIVE")), [-2.5]);

    let loaded = Loaded::new("row_sum.onnx").unwrap();
    let mut instance = loaded.instance();
    let ask = |rows: i64| request([floats("X", &[rows, 2], &vec![1.5; rows as usize * 2])]);
    let (replies, _) = run_batch(&mut *instance, vec![(1, ask(1)), (2, ask(2))]);
    let second = replies[1].as_ref().unwrap();
    assert_eq!(output(second, "TOTAL").shape.as_slice(), [2, 1]);
    assert_eq!(values(output(second, "TOTAL")), [3.0, 3.0]);

    let mut loaded = Loaded::new("any_rank.onnx").unwrap();
    for shape in [[6].as_slice(), &[2, 3], &[1, 2, 3]] {
        loaded.config.input[0].dims = vec![-1; shape.len()];
        loaded.config.output[0].dims = vec![-1; shape.len()];
        let outputs = run_one(&mut *loaded.instance(), request([floats("X", shape, &[1.0; 6])])).unwrap();
        assert_eq!(output(&outputs, "Y").shape.as_slice(), shape);
        assert_eq!(values(output(&outputs, "Y")), [-1.0; 6]);
    }
}

#[test]
fn tensors_without_elements_are_tensors() {
    let Some(loaded) = Loaded::new("transpose.onnx") else { return };
    let mut instance = loaded.instance();
    let ask = || request([tensor("X", DataType::Int32, &[1, 3, 0], Vec::new())]);
    let (replies, _) = run_batch(&mut *instance, vec![(1, ask()), (1, ask())]);
    for reply in &replies {
        let outputs = reply.as_ref().unwrap();
        assert_eq!(output(outputs, "TURNED").shape.as_slice(), [1, 0, 3]);
        assert!(bytes(output(outputs, "TURNED")).is_empty());
    }
}

#[test]
fn ragged_requests_run_together_and_learn_where_each_lies() {
    let Some(settings) = settings() else { return };
    let config = from_text(
        "name: 'm' backend: 'openvino' default_model_filename: 'ragged.onnx' max_batch_size: 8
         instance_group { kind: KIND_CPU count: 1 }
         input { name: 'X' data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }
         output [ { name: 'DOUBLED' data_type: TYPE_FP32 dims: -1 },
                  { name: 'END' data_type: TYPE_FP32 dims: 1 reshape { shape: [ ] } } ]
         batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: 'COUNT' data_type: TYPE_FP32 source_input: 'X' }
         batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: 'DOUBLED' source_input: 'X' }",
    );
    let loaded = Loaded { backend: crate::openvino::backend(settings), source: source("m"), config: config.unwrap() };
    let mut instance = loaded.instance();
    let ask = |values: &[f32]| request([floats("X", &[1, values.len() as i64], values)]);
    for _ in 0..2 {
        let requests = vec![(1, ask(&[1.0, 2.0, 3.0])), (1, ask(&[4.0])), (1, ask(&[5.0, 6.0]))];
        let (replies, _) = run_batch(&mut *instance, requests);
        let of = |number: usize, name: &str| values(output(replies[number].as_ref().unwrap(), name));
        assert_eq!(
            [of(0, "DOUBLED"), of(1, "DOUBLED"), of(2, "DOUBLED")],
            [vec![2.0, 4.0, 6.0], vec![8.0], vec![10.0, 12.0]]
        );
        assert_eq!([of(0, "END"), of(1, "END"), of(2, "END")], [[3.0], [4.0], [6.0]]);
    }
}

#[test]
fn types_of_the_configuration_are_converted_to_those_of_the_model() {
    let config = "input { name: 'X' data_type: TYPE_INT32 dims: [ 1, 3 ] } output { name: 'Y' data_type: TYPE_FP64 dims: [ 1, 2 ] }";
    let Some(loaded) = Loaded::with("dense.xml", config) else { return };
    let numbers: Vec<u8> = [1_i32, 0, 2].iter().flat_map(|number| number.to_le_bytes()).collect();
    let ask = request([tensor("X", DataType::Int32, &[1, 3], numbers)]);
    let outputs = run_one(&mut *loaded.instance(), ask).unwrap();
    let expect: Vec<u8> = [11.0_f64, 14.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    assert_eq!(bytes(output(&outputs, "Y")), expect);
}

#[test]
fn a_batch_of_another_size_than_the_models_is_filled_up_or_refused() {
    let config = "max_batch_size: 4 input { name: 'X' data_type: TYPE_FP32 dims: [ 2, 2 ] }
                  output { name: 'Y' data_type: TYPE_FP32 dims: 4 }";
    let Some(loaded) = Loaded::with("four_rows.xml", config) else { return };
    let row = |start: f32, rows: usize| (0..rows * 4).map(|index| start + index as f32).collect::<Vec<_>>();
    let ask = |start: f32, rows: usize| request([floats("X", &[rows as i64, 2, 2], &row(start, rows))]);
    let mut instance = loaded.instance();
    let (replies, _) = run_batch(&mut *instance, vec![(1, ask(0.0, 1)), (3, ask(4.0, 3))]);
    assert_eq!(values(output(replies[1].as_ref().unwrap(), "Y")), row(4.0, 3));
    let (replies, _) = run_batch(&mut *instance, vec![(3, ask(0.0, 3))]);
    let text = "expected requests with batch size '4', got '3'... this error can be avoided by setting 'ENABLE_BATCH_PADDING' \
                parameter in model configuration to 'YES' at a performance cost.";
    assert_eq!(replies[0].as_ref().unwrap_err(), &Error::internal(text));

    let mut instance = loaded.parameter("ENABLE_BATCH_PADDING", "YES").instance();
    for rows in [3, 1, 4, 2] {
        let (replies, _) = run_batch(&mut *instance, vec![(rows as u32, ask(1.0, rows))]);
        let output = output(replies[0].as_ref().unwrap(), "Y");
        assert_eq!((output.shape.as_slice(), values(output)), ([rows as i64, 4].as_slice(), row(1.0, rows)));
    }
    // The same of a model that could run any number, where the configuration says so.
    let fixed = Loaded::new("add_sub.onnx").unwrap().parameter("SKIP_OV_DYNAMIC_BATCHSIZE", "YES");
    let ask = request(["A", "B"].map(|name| floats(name, &[1, 4], &[1.0; 4])));
    let (replies, _) = run_batch(&mut *fixed.instance(), vec![(1, ask)]);
    assert!(replies[0].as_ref().unwrap_err().message.starts_with("expected requests with batch size '4', got '1'"));
}

#[test]
fn a_batch_that_cannot_be_taken_apart_fails_with_the_words_of_openvino() {
    let config = "max_batch_size: 4 input { name: 'X' data_type: TYPE_FP32 dims: [ -1, 2 ] }
                  output { name: 'Y' data_type: TYPE_FP32 dims: 4 }";
    let Some(loaded) = Loaded::with("four_rows.xml", config) else { return };
    let mut instance = loaded.instance();
    let ask = |rows: usize, wide: usize| {
        (rows as u32, request([floats("X", &[rows as i64, wide as i64, 2], &vec![1.0; rows * wide * 2])]))
    };
    let (replies, _) = run_batch(&mut *instance, vec![ask(1, 3), ask(2, 3), ask(1, 3)]);
    for reply in replies {
        let error = reply.unwrap_err();
        assert!(error.message.starts_with("openvino error in running inference : "), "{error}");
    }
    let (replies, _) = run_batch(&mut *instance, vec![ask(2, 2), ask(2, 3)]);
    for reply in replies {
        assert_eq!(reply.unwrap_err(), Error::internal("the requests of a batch do not fit each other"));
    }
    let (replies, _) = run_batch(&mut *instance, vec![ask(3, 2), ask(1, 2)]);
    assert!(replies.iter().all(Result::is_ok));
}

#[test]
fn inputs_are_reshaped_where_the_configuration_asks_for_it() {
    let config = "input { name: 'X' data_type: TYPE_FP32 dims: [ -1, 3 ] }
                  parameters { key: 'RESHAPE_IO_LAYERS' value { string_value: 'yes' } }";
    let Some(loaded) = Loaded::with("dense.xml", config) else { return };
    assert_eq!(&*loaded.config.output[0].dims, [-1, 2]);
    let outputs = run_one(&mut *loaded.instance(), request([floats("X", &[2, 3], &[1.0; 6])])).unwrap();
    assert_eq!(values(&outputs.tensors[0]), [9.0, 12.0, 9.0, 12.0]);
}

#[test]
fn instances_run_at_the_same_time() {
    let Some(mut loaded) = Loaded::new("add_sub.onnx") else { return };
    loaded.config.instance_group[0].count = 3;
    let model = loaded.model().unwrap();
    std::thread::scope(|scope| {
        for number in 0..3 {
            let model = &model;
            scope.spawn(move || {
                let mut instance = model.instance(&on_cpu(), &Health::default()).unwrap();
                for round in 0..50 {
                    let start = (number * 1000 + round) as f32;
                    let ask = request(["A", "B"].map(|name| floats(name, &[1, 4], &[start; 4])));
                    let (replies, _) = run_batch(&mut *instance, vec![(1, ask)]);
                    assert_eq!(values(output(replies[0].as_ref().unwrap(), "SUM")), [2.0 * start; 4]);
                }
            });
        }
    });
}
