//! The `tensorrt` backend with stand-ins for TensorRT 10 and the CUDA driver: everything but the kernels of a GPU.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unsafe_code,
    reason = "helpers of tests count as tests, and ask stand-ins"
)]

#[path = "fixtures/tensorrt/mod.rs"]
mod models;
#[cfg(test)]
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use all of it")]
mod testing;

use std::{sync::Arc, time::Instant};

use models::{Folder, StandIns, TWICE, on_gpu, stand_ins};
use server_core::{
    backend::{Device, Health, Instance},
    batch::{Batch, Pending},
    completion::{Completion, RequestRecord},
    error::{Code, Error},
    request::InferRequest,
    responder::DEFAULT_SLOT_BYTES,
    response::Outputs,
    tensor::{DataType, Tensor},
};
use testing::{Recorder, bytes, floats, only_reply, output, request, run_batch, run_one, tensor, values};

const VERSION: [u8; 4] = [10, 15, 1, 29];

/// An instance of a model with that plan; it goes before the stand-ins are for the next test.
struct Loaded {
    instance: Box<dyn Instance>,
    stand_ins: StandIns,
}

fn with(text: &str, config: &str) -> Option<Loaded> {
    let stand_ins = stand_ins(10)?;
    let instance = Folder::plan(VERSION, text).instance(&*stand_ins.backend(), config).unwrap();
    Some(Loaded { instance, stand_ins })
}

impl Loaded {
    fn run(&mut self, count: u32, request: InferRequest) -> Result<Outputs, Error> {
        run_batch(&mut *self.instance, vec![(count, request)]).0.remove(0)
    }
}

fn rows(count: i64, first: f32) -> Tensor {
    let content: Vec<f32> = (0..count * 3).map(|index| first + index as f32).collect();
    floats("x", &[count, 3], &content)
}

#[track_caller]
fn is_twice(outputs: &Outputs, count: i64, first: f32) {
    let answered = output(outputs, "y");
    assert_eq!(answered.shape.as_slice(), [count, 3]);
    assert_eq!(values(answered), (0..count * 3).map(|index| 2.0 * (first + index as f32)).collect::<Vec<_>>());
}

#[test]
fn the_configuration_is_the_engines() {
    let Some(stand_ins) = stand_ins(10) else { return };
    let (_, config) = Folder::plan(VERSION, TWICE).open(&*stand_ins.backend(), "").unwrap();
    assert_eq!(
        (config.max_batch_size, &*config.input[0].dims, &*config.output[0].dims),
        (8, [3].as_slice(), [3].as_slice())
    );
    assert_eq!(config.input[0].data_type, DataType::Fp32.to_config() as i32);
}

#[test]
fn each_request_of_a_batch_gets_its_rows() {
    let Some(mut loaded) = with(TWICE, "") else { return };
    for _ in 0..3 {
        let (replies, _) =
            run_batch(&mut *loaded.instance, vec![(2, request([rows(2, 1.0)])), (3, request([rows(3, 100.0)]))]);
        is_twice(replies[0].as_ref().unwrap(), 2, 1.0);
        is_twice(replies[1].as_ref().unwrap(), 3, 100.0);
        is_twice(&run_batch(&mut *loaded.instance, vec![(1, request([rows(1, 7.0)]))]).0.remove(0).unwrap(), 1, 7.0);
    }
}

#[test]
fn further_batches_are_taken_while_one_runs_and_each_gets_its_own_answers() {
    let Some(mut loaded) = with(TWICE, "") else { return };
    let mut callers = Vec::new();
    let mut batch = |count: u32, first: f32| {
        let request = request([rows(i64::from(count), first)]);
        let record = RequestRecord { received_at: request.received_at, queued_at: Instant::now(), batch_size: count };
        let (completion, replies) = Completion::new(record, Arc::new(Recorder::default()), DEFAULT_SLOT_BYTES);
        callers.push((count, first, replies));
        Batch::new(vec![Pending { request, completion }], Instant::now())
    };
    let first = batch(2, 1.0);
    let mut waiting = vec![batch(1, 400.0), batch(8, 300.0), batch(3, 200.0), batch(2, 100.0)];
    loaded.instance.execute_with_more(first, &mut || waiting.pop());
    assert!(waiting.is_empty(), "it asks as long as there is one");
    for (count, first, replies) in callers {
        is_twice(&only_reply(replies).unwrap(), i64::from(count), first);
    }
}

#[test]
fn a_shape_that_no_profile_allows_fails_its_request_alone() {
    let Some(mut loaded) = with(
        "io x in 0 0 0 -1,-1\nio y out 0 0 0 -1,-1\nrange 0 x min 1,2\nrange 0 x opt 4,3\nrange 0 x max 8,4\n",
        "",
    ) else {
        return;
    };
    let wide = floats("x", &[1, 5], &[0.0; 5]);
    let (mut replies, _) = run_batch(&mut *loaded.instance, vec![(1, request([wide])), (1, request([rows(1, 1.0)]))]);
    is_twice(&replies.remove(1).unwrap(), 1, 1.0);
    let text = "request specifies invalid shape for input 'x' for m_0. Error details: model expected the shape of dimension 1 to be between 2 and 4 \
                but received 5";
    assert_eq!(replies[0].as_ref().unwrap_err().message, text);
}

#[test]
fn graphs_run_the_batches_that_they_were_captured_for() {
    let graphs =
        "optimization { cuda { graphs: true graph_spec { batch_size: 4 graph_lower_bound { batch_size: 2 } } } }";
    let Some(mut loaded) = with(TWICE, graphs) else { return };
    let mut run = |count: u32, first: f32| {
        let before = loaded.stand_ins.ask("libcuda.so.1", "standin_launches");
        is_twice(&loaded.run(count, request([rows(i64::from(count), first)])).unwrap(), i64::from(count), first);
        loaded.stand_ins.ask("libcuda.so.1", "standin_launches") - before
    };
    // A batch of three takes the graph for four, and has three rows.
    assert_eq!((run(4, 1.0), run(3, 50.0), run(1, 9.0), run(5, 2.0), run(4, 3.0)), (1, 1, 0, 0, 1));
}

#[test]
fn a_gpu_that_has_failed_is_told_with_what_to_do_and_the_instance_is_not_healthy() {
    let Some(stand_ins) = stand_ins(10) else { return };
    let (model, config) = Folder::plan(VERSION, TWICE).open(&*stand_ins.backend(), "").unwrap();
    let health = Health::default();
    let instance = model.instance(&on_gpu(&config), &health).unwrap();
    let mut loaded = Loaded { instance, stand_ins };
    loaded.stand_ins.fail(700);
    let error = loaded.run(1, request([rows(1, 1.0)])).unwrap_err();
    loaded.stand_ins.fail(0);
    let text = "failed to run TRT inference for m_0: an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS); no model runs on this \
                GPU until the server is restarted";
    assert_eq!(error, Error::internal(text));
    assert!(!health.is_healthy() && health.reason().unwrap().contains("restart the server"));
}

#[test]
fn a_gpu_that_fails_while_tensorrt_starts_a_run_makes_the_instance_unhealthy() {
    let Some(stand_ins) = stand_ins(10) else { return };
    let text = TWICE.replace("io y", "io broken");
    let (model, config) = Folder::plan(VERSION, &text).open(&*stand_ins.backend(), "").unwrap();
    let health = Health::default();
    let instance = model.instance(&on_gpu(&config), &health).unwrap();
    let mut loaded = Loaded { instance, stand_ins };
    let error = loaded.run(1, request([rows(1, 1.0)])).unwrap_err();
    loaded.stand_ins.fail(0);
    assert!(error.message.contains("(CUDA_ERROR_ILLEGAL_ADDRESS); no model runs on this GPU"), "{error}");
    assert!(!health.is_healthy() && health.reason().unwrap().contains("restart the server"));
}

#[test]
fn runs_are_captured_on_inputs_that_name_places_of_any_table() {
    let plan = TWICE.replace("in 0", "in 3").replace("out 0", "out 3");
    let Some(mut loaded) = with(&plan, "optimization { cuda { graphs: true } }") else { return };
    let before = loaded.stand_ins.ask("libcuda.so.1", "standin_launches");
    let places: Vec<u8> = [5_i32, 6, 7].into_iter().flat_map(i32::to_le_bytes).collect();
    let answered = loaded.run(1, request([tensor("x", DataType::Int32, &[1, 3], places)]));
    loaded.stand_ins.fail(0);
    let expect: Vec<u8> = [10_i32, 12, 14].into_iter().flat_map(i32::to_le_bytes).collect();
    assert_eq!(bytes(output(&answered.unwrap(), "y")), expect);
    assert_eq!(loaded.stand_ins.ask("libcuda.so.1", "standin_launches"), before + 1);
}

#[test]
fn the_profile_that_fits_best_runs() {
    let text = format!("{TWICE}range 1 x min 8,3\nrange 1 x opt 32,3\nrange 1 x max 64,3\n");
    let Some(mut loaded) = with(&text, "instance_group { profile: [ '0', '1' ] }") else { return };
    for count in [1, 8, 40] {
        let outputs = run_batch(&mut *loaded.instance, vec![(count, request([rows(i64::from(count), 5.0)]))])
            .0
            .remove(0)
            .unwrap();
        is_twice(&outputs, i64::from(count), 5.0);
    }
}

#[test]
fn shape_tensors_have_the_batch_size_in_front() {
    let text = "io x in 0 0 0 -1,3\nio s in 3 1 1 3\nio y out 0 0 0 -1,3\nio t out 8 1 1 2\nrange 0 x min 1,3\nrange 0 x opt 4,3\nrange 0 x max 8,3\n\
                range 0 s min 3\nrange 0 s opt 3\nrange 0 s max 3\nvalues 0 s min 1,1,1\nvalues 0 s opt 4,4,4\nvalues 0 s max 8,16,16\n";
    let Some(mut loaded) = with(text, "") else { return };
    let with_values = |values: [i32; 4]| {
        let values: Vec<u8> = values.into_iter().flat_map(i32::to_le_bytes).collect();
        request([rows(2, 1.0), tensor("s", DataType::Int32, &[2, 2], values)])
    };
    let outputs = run_batch(&mut *loaded.instance, vec![(2, with_values([5, 6, 5, 6]))]).0.remove(0).unwrap();
    is_twice(&outputs, 2, 1.0);
    // The stand-in answers the shape of x: [2,3], of which the caller sees what is behind the batch size, for each row.
    let shape = output(&outputs, "t");
    assert_eq!((shape.data_type, shape.shape.as_slice()), (DataType::Int64, [2, 1].as_slice()));
    assert_eq!(bytes(shape), [3_i64, 3].into_iter().flat_map(i64::to_le_bytes).collect::<Vec<u8>>());
    let error = run_batch(&mut *loaded.instance, vec![(2, with_values([5, 17, 5, 17]))]).0.remove(0).unwrap_err();
    assert!(
        error.message.ends_with("The shape value at index 2 is expected to be in range from 1 to 16, Got: 17"),
        "{error}"
    );
}

#[test]
fn a_plan_whose_profiles_lay_a_tensor_out_differently_is_refused() {
    let Some(stand_ins) = stand_ins(10) else { return };
    let text = format!("{TWICE}range 1 x min 8,3\nrange 1 x opt 32,3\nrange 1 x max 64,3\nformat 1 x 3\n");
    let error = Folder::plan(VERSION, &text).open(&*stand_ins.backend(), "").err().unwrap();
    let text = "input 'x' has another memory format in profile 1 than in profile 0: build the plan again with one format for all profiles";
    assert!(error.message.contains(text), "{error}");
}

#[test]
fn outputs_whose_size_depends_on_data_get_their_memory_while_they_run() {
    let text = "io x in 0 0 0 -1\nio nonzero out 0 0 0 -1\nrange 0 x min 1\nrange 0 x opt 4\nrange 0 x max 4096\n";
    let Some(mut loaded) = with(text, "max_batch_size: 0 input { name: 'x' dims: -1 }") else { return };
    for content in [vec![0.0, 3.0, 0.0, 5.0], vec![1.0; 4096], vec![0.0; 16]] {
        let outputs =
            run_one(&mut *loaded.instance, request([floats("x", &[content.len() as i64], &content)])).unwrap();
        let expect: Vec<f32> = content.into_iter().filter(|value| *value != 0.0).collect();
        assert_eq!(values(output(&outputs, "nonzero")), expect);
    }
}

#[test]
fn inputs_larger_than_their_memory_never_reach_it() {
    let Some(mut loaded) = with(TWICE, "max_batch_size: 2") else { return };
    // The server lets no such batch through; the backend does not rely on it.
    let error = run_batch(&mut *loaded.instance, vec![(8, request([rows(8, 1.0)]))]).0.remove(0).unwrap_err();
    assert_eq!(error.code, Code::Internal);
}

#[test]
fn values_of_shape_tensors_bound_requests_whichever_width_they_were_built_with() {
    let text = |values: &str| {
        format!(
            "{TWICE}io s in 3 1 1 2\nrange 0 s min 2\nrange 0 s opt 2\nrange 0 s max 2\n\
             {values} 0 s min 1,1\n{values} 0 s opt 4,4\n{values} 0 s max 8,16\n"
        )
    };
    for values in ["values", "narrow"] {
        let Some(mut loaded) = with(&text(values), "") else { return };
        let mut run = |value: i32| {
            let value = tensor("s", DataType::Int32, &[1, 1], value.to_le_bytes().to_vec());
            loaded.run(1, request([rows(1, 1.0), value]))
        };
        is_twice(&run(16).unwrap(), 1, 1.0);
        let error = run(17).unwrap_err();
        assert!(error.message.contains("expected to be in range from 1 to 16, Got: 17"), "{values}: {error}");
    }
    let Some(stand_ins) = stand_ins(10) else { return };
    let without: String =
        text("values").lines().filter(|line| !line.starts_with("values")).collect::<Vec<_>>().join("\n");
    let error = Folder::plan(VERSION, &without).open(&*stand_ins.backend(), "").err().unwrap();
    let text = "TensorRT does not tell the values of shape tensor 's' in profile 0: build the plan again";
    assert!(error.message.contains(text), "{error}");
}

#[test]
fn outputs_larger_than_their_memory_are_never_computed() {
    let text = "io x in 0 0 0 -1\nio inverse out 0 0 0 -1\nrange 0 x min 1\nrange 0 x opt 4\nrange 0 x max 64\n";
    let Some(mut loaded) = with(text, "max_batch_size: 0 input { name: 'x' dims: -1 }") else { return };
    let runs = |loaded: &Loaded| loaded.stand_ins.ask("libnvinfer.so.10", "standin_runs");
    let before = runs(&loaded);
    run_one(&mut *loaded.instance, request([floats("x", &[64], &[1.0; 64])])).unwrap();
    assert_eq!(runs(&loaded), before + 1);
    let error = run_one(&mut *loaded.instance, request([floats("x", &[2], &[1.0; 2])])).unwrap_err();
    let text = "unexpected size for output 'inverse', byte-size 4 is too little for shape [32]";
    assert_eq!(error, Error::internal(text));
    assert_eq!(runs(&loaded), before + 1);
}

#[test]
fn everything_is_given_back_when_a_model_goes() {
    let Some(stand_ins) = stand_ins(10) else { return };
    let held =
        || (stand_ins.ask("libcuda.so.1", "standin_allocated"), stand_ins.ask("libnvinfer.so.10", "standin_alive"));
    let folder = Folder::plan(VERSION, TWICE);
    let backend = stand_ins.backend();
    let load = || {
        let (model, config) = folder.open(&*backend, "optimization { cuda { graphs: true } }").unwrap();
        let mut instances: Vec<_> =
            (0..2).map(|_| model.instance(&on_gpu(&config), &Health::default()).unwrap()).collect();
        for instance in &mut instances {
            is_twice(&run_batch(&mut **instance, vec![(1, request([rows(1, 1.0)]))]).0.remove(0).unwrap(), 1, 1.0);
        }
        let memory = model.memory();
        assert!(matches!(memory.as_slice(), [it] if it.device == Device::Gpu(0) && it.bytes >= 2 << 20), "{memory:?}");
        drop(instances);
        assert!(model.memory()[0].bytes < 1 << 20, "the engine alone is left");
    };
    load();
    let before = held();
    (0..20).for_each(|_| load());
    assert_eq!(held(), before);
    drop(backend);
}
