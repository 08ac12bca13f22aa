//! Sums by row.

use std::sync::Arc;

use server_core::{
    backend::{Health, Instance},
    config::{ModelConfig, from_text},
    error::Error,
    request::InferRequest,
    tensor::{DataType, Tensor},
};

use crate::testing::{bytes, no_host, on_cpu, output, request, run_batch, source, tensor};

pub(crate) const CONTROLS: &str = "
    control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
    control_input { name: 'READY' control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } }";

fn config(more: &str) -> ModelConfig {
    from_text(&format!(
        "name: 'm' max_batch_size: 4 input {{ name: 'INPUT' data_type: TYPE_INT32 dims: 1 }}
         output {{ name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }} {more}"
    ))
    .unwrap()
}

fn load(config: ModelConfig) -> Result<Box<dyn Instance>, Error> {
    let backend = super::backend(Default::default());
    let mut config = config;
    let mut model = backend.open(&source("m"), &mut config, true, &no_host())?;
    model.configure(&Arc::new(config))?;
    model.instance(&on_cpu(), &Health::default())
}

/// A number as a tensor of one row.
pub(crate) fn number(name: &str, value: i32) -> Tensor {
    tensor(name, DataType::Int32, &[1, 1], value.to_le_bytes().to_vec())
}

fn row(value: i32, starts: bool, is_ready: bool) -> (u32, InferRequest) {
    let start = tensor("START", DataType::Fp32, &[1, 1], f32::from(u8::from(starts)).to_le_bytes().to_vec());
    let ready = tensor("READY", DataType::Bool, &[1, 1], vec![u8::from(is_ready)]);
    (1, request([number("INPUT", value), start, ready]))
}

fn run(instance: &mut dyn Instance, rows: Vec<(u32, InferRequest)>) -> Vec<i32> {
    let (replies, _) = run_batch(instance, rows);
    let value = |outputs| i32::from_le_bytes(bytes(output(&outputs, "OUTPUT")).try_into().unwrap());
    replies.into_iter().map(|reply| value(reply.unwrap())).collect()
}

#[test]
fn every_row_has_a_sum_of_its_own() {
    let mut instance = load(config(&format!("sequence_batching {{ {CONTROLS} }}"))).unwrap();
    assert_eq!(run(&mut *instance, vec![row(1, true, true), row(10, true, true)]), [1, 10]);
    assert_eq!(run(&mut *instance, vec![row(2, false, true), row(7, false, false)]), [3, 0]);
    assert_eq!(run(&mut *instance, vec![row(5, true, true), row(20, false, true)]), [5, 30]);
    assert_eq!(run(&mut *instance, vec![row(i32::MAX, false, true)]), [i32::MIN + 4]);
}

#[test]
fn what_a_configuration_lacks_is_named() {
    let message = |config: ModelConfig| load(config).err().map(|error| error.message.into_owned()).unwrap();
    assert_eq!(message(config("")), "model 'm' must use sequence batching");
    assert_eq!(message(config("sequence_batching { }")), "expected a control input named START, there is none");
    let mut floats = config(&format!("sequence_batching {{ {CONTROLS} }}"));
    floats.input[0].data_type = DataType::Fp32.to_config() as i32;
    assert_eq!(message(floats), "expected INPUT datatype to be INT32, got TYPE_FP32");
}
