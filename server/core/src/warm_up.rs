//! Warm-up requests: what `model_warmup` of a configuration says, made into requests that are ready to run. Files are read
//! by whoever calls; who runs the requests, and when, is the engine's to say.
//!
//! Source: Triton model configuration, "Model Warmup"; the sentences are those of a Triton 2.51.

use std::{collections::BTreeSet, time::Instant};

use bytes::Bytes;
use server_proto::inference::{
    ModelConfig, ModelWarmup,
    model_warmup::{Input, input::InputDataType},
};
use smallvec::SmallVec;

use crate::{
    buffer::Buffer,
    check,
    error::{Error, Result},
    interface::Interface,
    request::{CorrelationId, InferRequest, VersionChoice},
    sequence::{controls::Position, settings::ExtraInputs},
    tensor::{DataType, Shape, Tensor, byte_count, element_count},
};

/// Most bytes of one input: no protocol carries more, and the configuration can ask for it.
const MOST_BYTES: usize = i32::MAX as usize;

/// Requests of one kind that run before a version serves.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its name, for messages.
    pub name: String,
    /// How often it runs, at least once.
    pub count: u32,
    /// Requests that run together, at least one.
    pub batch_size: u32,
    /// One of them, checked and complete. They are all alike.
    pub request: InferRequest,
    /// Inputs that the configuration does not know. They are passed on, for only the model can say what they are.
    pub unknown: Vec<String>,
}

/// Makes the samples of a verified configuration, in its order. One whose `batch_size` is 0 is left out.
///
/// `read` gives the content of a file in the model's folder `warmup`; `extra` holds the controls and the states of a model
/// with sequences: those that a sample does not give are those of a sequence of one request.
/// Shapes: `dims` of the sample, with a batch dimension of 1 in front where the model has one.
/// Errors: `InvalidArgument` in Triton's words where a sample is incomplete or does not fit the model; whatever `read` says.
pub fn samples(
    config: &ModelConfig,
    interface: &Interface,
    extra: &ExtraInputs,
    now: Instant,
    read: impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<Vec<Sample>> {
    let known = known_inputs(config);
    let samples = config.model_warmup.iter().filter(|warm_up| warm_up.batch_size > 0);
    samples
        .map(|warm_up| {
            let unknown: Vec<String> =
                warm_up.inputs.keys().filter(|name| !known.contains(name.as_str())).cloned().collect();
            let request = request(warm_up, interface, extra, now, &read)
                .map_err(|error| naming_unknown(error, &warm_up.name, &unknown))?;
            let (name, count, batch_size) = (warm_up.name.clone(), warm_up.count.max(1), warm_up.batch_size);
            Ok(Sample { name, count, batch_size, request, unknown })
        })
        .collect()
}

/// The error of a sample, with the names that may be misspelt.
fn naming_unknown(error: Error, sample: &str, unknown: &[String]) -> Error {
    if unknown.is_empty() {
        return error;
    }
    let names: Vec<String> = unknown.iter().map(|name| format!("'{name}'")).collect();
    let text = format!(
        "{} The configuration does not know these inputs of warmup sample '{sample}': {}",
        error.message,
        names.join(", ")
    );
    Error::new(error.code, text)
}

/// All inputs that a model can have by its configuration.
fn known_inputs(config: &ModelConfig) -> BTreeSet<&str> {
    use server_proto::inference::model_config::SchedulingChoice::SequenceBatching;
    let own = config.input.iter().map(|input| input.name.as_str());
    let computed = config.batch_input.iter().flat_map(|input| input.target_name.iter().map(String::as_str));
    let batching = config.scheduling_choice.iter().filter_map(|choice| match choice {
        SequenceBatching(batching) => Some(batching),
        _ => None,
    });
    let of_sequences = batching.flat_map(|batching| {
        let controls = batching.control_input.iter().map(|control| control.name.as_str());
        controls.chain(batching.state.iter().map(|state| state.input_name.as_str()))
    });
    own.chain(computed).chain(of_sequences).collect()
}

fn request(
    warm_up: &ModelWarmup,
    interface: &Interface,
    extra: &ExtraInputs,
    now: Instant,
    read: &impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<InferRequest> {
    for (name, input) in &warm_up.inputs {
        if input.dims.iter().any(|&dim| dim < 0) {
            return Err(Error::invalid_argument(format!(
                "warmup setting expects all variable-size dimensions are specified for input '{name}'"
            )));
        }
    }
    let mut request = InferRequest {
        model_name: interface.model_name.clone(),
        model_version: VersionChoice::Exact(interface.version),
        id: String::new(),
        inputs: SmallVec::new(),
        outputs: SmallVec::new(),
        parameters: Vec::new(),
        sequence: None,
        priority: 0,
        timeout: None,
        received_at: now,
        callers: None,
        trace: None,
    };
    let has_rows = interface.max_batch_size > 0;
    let row = has_rows.then_some(1);
    for spec in &interface.inputs {
        if let Some(input) = warm_up.inputs.get(&*spec.name) {
            let shape = row.into_iter().chain(input.dims.iter().copied()).collect();
            request.inputs.push(tensor(&spec.name, input, shape, Some((interface, spec.data_type)), read)?);
        }
    }
    check::check(interface, &mut request)?;
    // What no request brings is not checked, as in Triton.
    let others = warm_up.inputs.iter().filter(|(name, _)| interface.input(name).is_none());
    for (name, input) in others {
        let shape = row.into_iter().chain(input.dims.iter().copied()).collect();
        request.inputs.push(tensor(name, input, shape, None, read)?);
    }
    let id = CorrelationId::Number(1);
    let alone = Position { id: &id, is_start: true, is_end: true };
    let by_server = extra.controls.tensors(Some(alone)).chain(extra.states.initial().inputs());
    for tensor in by_server.collect::<Vec<_>>() {
        if request.inputs.iter().all(|input| input.name != tensor.name) {
            request.inputs.push(tensor);
        }
    }
    Ok(request)
}

/// One input of a sample. `expect`: the model, and the type it wants.
fn tensor(
    name: &str,
    input: &Input,
    shape: Shape,
    expect: Option<(&Interface, DataType)>,
    read: &impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<Tensor> {
    let invalid = |text: String| Error::invalid_argument(text).with_request_id("");
    let data_type = DataType::from_config(input.data_type).ok_or_else(|| match expect {
        Some((interface, expect)) => invalid(format!(
            "inference input '{name}' data-type is '<invalid>', but model '{}' expects '{expect}'",
            interface.model_name
        )),
        None => invalid(format!("warmup setting expects input '{name}' to have data_type set")),
    })?;
    // An element of a BYTES tensor is at least its length.
    let needed = match data_type {
        DataType::Bytes => element_count(&shape)
            .and_then(|count| usize::try_from(count).ok())
            .and_then(|count| count.checked_mul(size_of::<u32>())),
        _ => byte_count(data_type, &shape),
    };
    let needed = needed.filter(|&needed| needed <= MOST_BYTES).ok_or_else(|| {
        invalid(format!("warmup setting asks for more than {MOST_BYTES} bytes for input '{name}': give smaller 'dims'"))
    })?;
    let data: Buffer = match &input.input_data_type {
        Some(InputDataType::ZeroData(_)) => vec![0; needed].into(),
        Some(InputDataType::RandomData(_)) => random(data_type, needed).into(),
        Some(InputDataType::InputDataFile(file)) => {
            let content = read(file)?;
            if data_type == DataType::Bytes {
                content.into()
            } else if content.len() < needed {
                // As Triton writes it, without the blank.
                return Err(invalid(format!(
                    "warmup setting expects {needed} bytes, but the data provided from {file}only has {} bytes",
                    content.len()
                )));
            } else {
                Bytes::from(content).slice(..needed).into()
            }
        }
        None => return Err(invalid(format!("warmup setting expects input '{name}' to have input_data_type set"))),
    };
    Ok(Tensor { name: name.into(), data_type, shape, data })
}

/// So many bytes that look random, the same ones each time: a load that fails does so again. Strings are empty, as in
/// Triton, and truth values are 0 or 1.
fn random(data_type: DataType, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + size_of::<u64>());
    if data_type == DataType::Bytes {
        bytes.resize(length, 0);
        return bytes;
    }
    let mask = if data_type == DataType::Bool { 0x0101_0101_0101_0101 } else { u64::MAX };
    // SplitMix64
    let mut state = 0_u64;
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&((mixed ^ (mixed >> 31)) & mask).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::from_text,
        interface::Labels,
        sequence::settings::extra_inputs,
        tensor::{shape_text, strings},
    };

    const MODEL: &str = "name: 'm' max_batch_size: 4 input { name: 'A' data_type: TYPE_FP32 dims: [ 2 ] }
        input { name: 'B' data_type: TYPE_STRING dims: [ -1 ] optional: true }
        output { name: 'Y' data_type: TYPE_FP32 dims: [ 2 ] } ";

    fn read(file: &str) -> Result<Vec<u8>> {
        match file {
            "ones" => Ok([1_f32; 3].iter().flat_map(|one| one.to_le_bytes()).collect()),
            "texts" => Ok(strings::join([b"ab".as_slice(), b"c"])),
            _ => Err(Error::internal(format!("there is no {file}"))),
        }
    }

    fn samples_of(config: &str) -> Result<Vec<Sample>> {
        let config = from_text(config).unwrap();
        let interface = Interface::new(&config, 3, Labels::new()).unwrap();
        samples(&config, &interface, &extra_inputs(&config, read)?, Instant::now(), read)
    }

    fn shown(sample: &Sample) -> String {
        let inputs = sample.request.inputs.iter().map(|tensor| {
            let data = tensor.data.as_host().unwrap();
            let data = if data.iter().all(|byte| *byte == 0) { "zeros".into() } else { format!("{data:?}") };
            format!("{} {} {} {data}", tensor.name, tensor.data_type, shape_text(&tensor.shape))
        });
        let inputs: Vec<String> = inputs.collect();
        format!("{} {}x{}: {}", sample.name, sample.count, sample.batch_size, inputs.join("; "))
    }

    /// What the samples are, or the error, for those inputs of one sample.
    #[track_caller]
    fn check(model: &str, inputs: &str, expect: &str) {
        let config = format!("{model} model_warmup {{ name: 's' batch_size: 1 {inputs} }}");
        let result = samples_of(&config).map(|samples| samples.iter().map(shown).collect::<Vec<_>>().join("\n"));
        assert_eq!(result.unwrap_or_else(|error| error.message.into_owned()), expect);
    }

    fn input(name: &str, value: &str) -> String {
        format!("inputs {{ key: '{name}' value {{ {value} }} }} ")
    }

    fn a(value: &str) -> String {
        input("A", &format!("data_type: TYPE_FP32 {value}"))
    }

    #[test]
    fn a_sample_is_a_request_with_a_row() {
        check(MODEL, &a("dims: 2 zero_data: true"), "s 1x1: A FP32 [1,2] zeros");
        check(MODEL, &a("dims: 2 zero_data: false"), "s 1x1: A FP32 [1,2] zeros");
        check(MODEL, &a("dims: 2 input_data_file: 'ones'"), "s 1x1: A FP32 [1,2] [0, 0, 128, 63, 0, 0, 128, 63]");
        let strings = |source| a("dims: 2 zero_data: true") + &input("B", &format!("data_type: TYPE_STRING {source}"));
        let texts = "[2, 0, 0, 0, 97, 98, 1, 0, 0, 0, 99]";
        check(
            MODEL,
            &strings("dims: 2 input_data_file: 'texts'"),
            &format!("s 1x1: A FP32 [1,2] zeros; B BYTES [1,2] {texts}"),
        );
        for source in ["dims: 3 zero_data: true", "dims: 3 random_data: true"] {
            check(MODEL, &strings(source), "s 1x1: A FP32 [1,2] zeros; B BYTES [1,3] zeros");
        }
        let unbatched = MODEL.replace("max_batch_size: 4", "");
        check(&unbatched, &a("dims: 2 zero_data: true"), "s 1x1: A FP32 [2] zeros");
        let reshaped = MODEL.replace("dims: [ 2 ] }\n        input", "dims: [ 2 ] reshape { shape: [ 1, 2 ] } } input");
        check(&reshaped, &a("dims: 2 zero_data: true"), "s 1x1: A FP32 [1,1,2] zeros");
    }

    #[test]
    fn samples_keep_their_order_and_those_without_a_batch_are_left_out() {
        let sample = |name: &str, more: &str| {
            format!("model_warmup {{ name: '{name}' {more} {} }} ", a("dims: 2 zero_data: true"))
        };
        let config =
            [MODEL, &sample("z", "batch_size: 3 count: 2"), &sample("none", ""), &sample("a", "batch_size: 1")];
        let samples: Vec<_> = samples_of(&config.concat()).unwrap().iter().map(shown).collect();
        assert_eq!(samples, ["z 2x3: A FP32 [1,2] zeros", "a 1x1: A FP32 [1,2] zeros"]);
    }

    #[test]
    fn random_data_is_the_same_each_time_and_truth_values_are_0_or_1() {
        let bytes = random(DataType::Uint8, 1001);
        assert_eq!((bytes.len(), &bytes), (1001, &random(DataType::Uint8, 1001)));
        assert!(bytes.iter().collect::<BTreeSet<_>>().len() > 200, "it hardly looks random");
        let truths = random(DataType::Bool, 1001);
        assert!(truths.contains(&0) && truths.contains(&1) && truths.iter().all(|&byte| byte < 2));
    }

    #[test]
    fn what_is_incomplete_is_refused_in_the_words_of_triton() {
        let id = "[request id: <id_unknown>] ";
        check(
            MODEL,
            &a("dims: -1 zero_data: true"),
            "warmup setting expects all variable-size dimensions are specified for input 'A'",
        );
        check(MODEL, &a("dims: 2"), &format!("{id}warmup setting expects input 'A' to have input_data_type set"));
        let short = MODEL.replace("dims: [ 2 ] }", "dims: [ 4 ] }");
        check(
            &short,
            &a("dims: 4 input_data_file: 'ones'"),
            &format!("{id}warmup setting expects 16 bytes, but the data provided from onesonly has 12 bytes"),
        );
        check(MODEL, &a("dims: 2 input_data_file: 'no'"), "there is no no");
        let too_few =
            a("dims: 2 zero_data: true") + &input("B", "data_type: TYPE_STRING dims: 3 input_data_file: 'texts'");
        check(MODEL, &too_few, &format!("{id}expected 3 string elements for inference input 'B' for model 'm', got 2"));
        check(
            MODEL,
            &input("A", "dims: 2 zero_data: true"),
            &format!("{id}inference input 'A' data-type is '<invalid>', but model 'm' expects 'FP32'"),
        );
        check(
            MODEL,
            &input("A", "data_type: TYPE_INT8 dims: 2 zero_data: true"),
            &format!("{id}inference input 'A' data-type is 'INT8', but model 'm' expects 'FP32'"),
        );
        check(
            MODEL,
            &input("X", "data_type: TYPE_INT8 dims: 2 zero_data: true"),
            &format!(
                "{id}expected number of inputs between 1 and 2 but got 0 inputs for model 'm'. Got input(s) [], but \
                 missing required input(s) ['A']. Please provide all required input(s). The configuration does not know \
                 these inputs of warmup sample 's': 'X'"
            ),
        );
        let huge = "[request id: <id_unknown>] warmup setting asks for more than 2147483647 bytes for input 'A': give smaller 'dims'";
        for dims in ["[ 4000000000, 4000000000, 4000000000 ]", "[ 600000000 ]"] {
            check(MODEL, &a(&format!("dims: {dims} zero_data: true")), huge);
        }
    }

    const SEQUENCES: &str = "sequence_batching {
        control_input { name: 'S' control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 7 ] } }
        control_input { name: 'R' control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } }
        state { input_name: 'I' output_name: 'O' data_type: TYPE_INT8 dims: [ 2 ] } } ";

    #[test]
    fn a_model_with_sequences_gets_its_controls_and_states() {
        let model = MODEL.to_owned() + SEQUENCES;
        let zeros = a("dims: 2 zero_data: true");
        check(
            &model,
            &zeros,
            "s 1x1: A FP32 [1,2] zeros; S INT32 [1,1] [7, 0, 0, 0]; R BOOL [1,1] [1]; I INT8 [1,2] zeros",
        );
        let given = zeros + &input("S", "data_type: TYPE_INT32 dims: 1 zero_data: true");
        check(&model, &given, "s 1x1: A FP32 [1,2] zeros; S INT32 [1,1] zeros; R BOOL [1,1] [1]; I INT8 [1,2] zeros");
    }

    #[test]
    fn inputs_that_nobody_knows_are_passed_on_and_named() {
        let inputs = a("dims: 2 zero_data: true") + &input("X", "data_type: TYPE_INT8 dims: 1 zero_data: true");
        let config = format!("{MODEL} {SEQUENCES} model_warmup {{ batch_size: 1 {inputs} }}");
        let sample = samples_of(&config).unwrap().remove(0);
        assert_eq!(sample.unknown, ["X"]);
        assert!(sample.request.inputs.iter().any(|input| &*input.name == "X"));
    }
}
