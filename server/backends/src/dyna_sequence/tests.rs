//! Sums by identity.

use std::sync::Arc;

use server_core::{
    backend::{Health, Instance},
    config::from_text,
    request::{CorrelationId, InferRequest, Sequence},
    tensor::{DataType, Tensor},
};

use crate::testing::{bytes, no_host, on_cpu, output, request, run_batch, source, tensor};

fn load() -> Box<dyn Instance> {
    let backend = super::backend(Default::default());
    let mut config = from_text(
        "name: 'm' max_batch_size: 4 input { name: 'INPUT' data_type: TYPE_INT32 dims: 1 }
         output { name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 } sequence_batching { oldest { }
         control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
         control_input { name: 'END' control { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } }
         control_input { name: 'READY' control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }
         control_input { name: 'CORRID' control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } } }",
    )
    .unwrap();
    let mut model = backend.open(&source("m"), &mut config, true, &no_host()).unwrap();
    model.configure(&Arc::new(config)).unwrap();
    model.instance(&on_cpu(), &Health::default()).unwrap()
}

fn number(name: &str, value: i32) -> Tensor {
    tensor(name, DataType::Int32, &[1, 1], value.to_le_bytes().to_vec())
}

fn asked(value: i32, id: Tensor, flags: &str) -> (u32, InferRequest) {
    let flag = |name, letter| number(name, i32::from(flags.contains(letter)));
    let inputs = [number("INPUT", value), flag("START", 'S'), flag("END", 'E'), number("READY", 1), id];
    let sequence = Sequence { id: CorrelationId::Number(1), is_start: false, is_end: flags.contains('E') };
    (1, InferRequest { sequence: Some(sequence), ..request(inputs) })
}

fn run(instance: &mut dyn Instance, rows: Vec<(u32, InferRequest)>) -> Vec<i32> {
    let (replies, _) = run_batch(instance, rows);
    let value = |outputs| i32::from_le_bytes(bytes(output(&outputs, "OUTPUT")).try_into().unwrap());
    replies.into_iter().map(|reply| value(reply.unwrap())).collect()
}

#[test]
fn a_sum_follows_its_identity_whatever_row_it_is_in() {
    let mut instance = load();
    let id = |id: u64| tensor("CORRID", DataType::Uint64, &[1, 1], id.to_le_bytes().to_vec());
    assert_eq!(run(&mut *instance, vec![asked(1, id(7), "S"), asked(10, id(8), "S")]), [1, 10]);
    assert_eq!(run(&mut *instance, vec![asked(20, id(8), ""), asked(2, id(7), "E")]), [30, 3 + 7]);
    assert_eq!(run(&mut *instance, vec![asked(5, id(7), "")]), [5], "its sum has gone with its end");
}

#[test]
fn an_identity_of_digits_is_a_number_too() {
    let mut instance = load();
    let id = |text: &str| {
        let content = [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        tensor("CORRID", DataType::Bytes, &[1, 1], content)
    };
    assert_eq!(run(&mut *instance, vec![asked(1, id("42"), "SE"), asked(1, id("many"), "SE")]), [43, 1]);
}
