//! Through the contract: what goes in comes out.

use std::{sync::Arc, time::Duration};

use server_core::{
    backend::{Health, Instance},
    config::ModelConfig,
    error::Error,
    request::Parameter,
    tensor::{DataType, strings},
};
use server_proto::inference::{ModelInput, ModelOutput, ModelParameter};

use crate::testing::{asking_for, bytes, no_host, on_cpu, output, request, run_batch, run_one, source, tensor};

fn config(types: &[DataType]) -> ModelConfig {
    let number = |data_type: &DataType| data_type.to_config() as i32;
    let input = |(index, data_type)| ModelInput {
        name: format!("INPUT{index}"),
        data_type: number(data_type),
        dims: vec![-1],
        optional: true,
        ..ModelInput::default()
    };
    let output = |(index, data_type)| ModelOutput {
        name: format!("OUTPUT{index}"),
        data_type: number(data_type),
        dims: vec![-1],
        ..ModelOutput::default()
    };
    ModelConfig {
        name: "m".into(),
        input: types.iter().enumerate().map(input).collect(),
        output: types.iter().enumerate().map(output).collect(),
        ..ModelConfig::default()
    }
}

fn parameter(config: &mut ModelConfig, key: &str, value: &str) {
    config.parameters.insert(key.into(), ModelParameter { string_value: value.into() });
}

fn load(config: ModelConfig) -> Result<Box<dyn Instance>, Error> {
    let backend = super::backend(Default::default());
    let mut config = config;
    let mut model = backend.open(&source("m"), &mut config, true, &no_host())?;
    model.configure(&Arc::new(config))?;
    model.instance(&on_cpu(), &Health::default())
}

#[test]
fn every_type_comes_back_without_a_copy() {
    let mut instance = load(config(&DataType::ALL)).unwrap();
    let inputs = DataType::ALL.iter().enumerate().map(|(index, &data_type)| {
        let content = vec![index as u8; 2 * data_type.byte_size().unwrap_or(4)];
        tensor(&format!("INPUT{index}"), data_type, &[2], content)
    });
    let request = request(inputs);
    let sent: Vec<*const u8> = request.inputs.iter().map(|tensor| bytes(tensor).as_ptr()).collect();
    let outputs = run_one(&mut *instance, request).unwrap();
    for (index, data_type) in DataType::ALL.into_iter().enumerate() {
        let output = output(&outputs, &format!("OUTPUT{index}"));
        assert_eq!((output.data_type, output.shape.as_slice()), (data_type, [2].as_slice()));
        assert_eq!(bytes(output).as_ptr(), sent[index]);
    }
}

#[test]
fn responses_carry_the_parameters_clients_try_out() {
    let mut instance = load(config(&[DataType::Int8])).unwrap();
    let outputs = run_one(&mut *instance, request([tensor("INPUT0", DataType::Int8, &[1], vec![7])])).unwrap();
    let expect = [
        ("param0".to_owned(), Parameter::String("an example string parameter".into())),
        ("param1".to_owned(), Parameter::Int(42)),
        ("param2".to_owned(), Parameter::Bool(false)),
        ("param3".to_owned(), Parameter::Double(123.123)),
    ];
    assert_eq!(*outputs.parameters, expect);
}

#[test]
fn each_request_gets_its_own_and_only_what_it_asked_for() {
    let mut batching = config(&[DataType::Uint8, DataType::Uint8]);
    batching.max_batch_size = 4;
    let mut instance = load(batching).unwrap();
    let both = |content: &[u8]| {
        let shape = [content.len() as i64, 1];
        ["INPUT0", "INPUT1"].map(|name| tensor(name, DataType::Uint8, &shape, content.to_vec()))
    };
    let requests = vec![(1, request(both(&[1]))), (2, asking_for(&["OUTPUT1"], request(both(&[2, 3]))))];
    let (replies, _) = run_batch(&mut *instance, requests);
    let first = replies[0].as_ref().unwrap();
    assert_eq!(bytes(output(first, "OUTPUT0")), [1]);
    assert_eq!(bytes(output(first, "OUTPUT1")), [1]);
    let second = replies[1].as_ref().unwrap();
    assert_eq!(second.tensors.len(), 1);
    assert_eq!(
        (output(second, "OUTPUT1").shape.as_slice(), bytes(output(second, "OUTPUT1"))),
        ([2, 1].as_slice(), [2, 3].as_slice())
    );
}

#[test]
fn an_absent_input_is_zeros() {
    let mut config = config(&[DataType::Int32, DataType::Bytes]);
    config.output[0].dims = vec![2, -1];
    let mut instance = load(config).unwrap();
    let outputs = run_one(&mut *instance, request([])).unwrap();
    assert_eq!(output(&outputs, "OUTPUT0").shape.as_slice(), [2, 1]);
    assert_eq!(bytes(output(&outputs, "OUTPUT0")), [0; 8]);
    assert_eq!(strings::elements(bytes(output(&outputs, "OUTPUT1"))).collect::<Vec<_>>(), [Ok([].as_slice())]);
}

#[test]
fn zeros_for_an_absent_input_are_not_made_without_limit() {
    let mut config = config(&[DataType::Int32]);
    config.output[0].dims = vec![1 << 40];
    let mut instance = load(config).unwrap();
    let error = run_one(&mut *instance, request([])).unwrap_err();
    let text = "output 'OUTPUT0' of shape [1099511627776] exceeds 2147483647 bytes: give its input, or configure smaller 'dims'";
    assert_eq!(error, Error::invalid_argument(text));
}

#[test]
fn an_execution_takes_the_configured_time() {
    let mut slow = config(&[DataType::Int8]);
    parameter(&mut slow, "execute_delay_ms", "3");
    let mut instance = load(slow).unwrap();
    let (_, marks) = run_batch(&mut *instance, vec![(1, request([tensor("INPUT0", DataType::Int8, &[1], vec![7])]))]);
    assert!(marks.output_start - marks.input_end >= Duration::from_millis(3));
}

#[test]
fn names_that_do_not_pair_up_are_refused() {
    let message = |config: ModelConfig| load(config).err().map(|error| error.message.into_owned()).unwrap();
    let mut odd = config(&[DataType::Int8]);
    odd.input[0].name = "IN".into();
    assert_eq!(message(odd), "expected input name to follow INPUT<index> pattern, got 'IN'");
    let mut odd = config(&[DataType::Int8]);
    odd.output[0].name = "OUTPUTx".into();
    assert_eq!(message(odd), "expected output name to follow OUTPUT<index> pattern, got 'OUTPUTx'");
    let mut odd = config(&[DataType::Int8]);
    odd.output[0].name = "OUTPUT1".into();
    assert_eq!(message(odd), "output 'OUTPUT1' of model 'm' has no input");
    let mut odd = config(&[DataType::Int8]);
    parameter(&mut odd, "execute_delay_ms", "soon");
    assert!(message(odd).starts_with("unexpected value 'soon' of 'execute_delay_ms'"));
}

#[test]
fn the_bytes_of_inputs_are_counted_for_the_metrics_page() {
    let backend = super::backend(Default::default());
    let mut config = config(&[DataType::Int8, DataType::Int32]);
    let mut model = backend.open(&source("m"), &mut config, true, &no_host()).unwrap();
    model.configure(&Arc::new(config)).unwrap();
    let mut instance = model.instance(&on_cpu(), &Health::default()).unwrap();
    run_one(&mut *instance, request([tensor("INPUT0", DataType::Int8, &[3], vec![7; 3])])).unwrap();
    run_one(&mut *instance, request([tensor("INPUT1", DataType::Int32, &[1], vec![0; 4])])).unwrap();
    let counted: Vec<_> = model.counters().iter().map(|counter| (counter.name, counter.value)).collect();
    assert_eq!(counted, [("input_byte_size_counter", 7)]);
}
