//! Entry points for fuzzing: each takes any bytes, reads them as the server does, and checks what must hold whatever they are.
//! `server/fuzz` runs them; a test runs them over its corpus. Only with the feature `fuzzing`.

use std::{fs, path::Path};

use crate::{
    check,
    config::{self, Machine, ModelConfig},
    interface::{Interface, Labels},
    request::InferRequest,
    tensor::{DataType, byte_count, element_count},
};

/// Calls `target` with each file of its corpus, and says which one it was if that panics.
///
/// `corpus` is the folder; a target without one is a mistake.
pub fn replay(corpus: &Path, target: fn(&[u8])) {
    let files = fs::read_dir(corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut count = 0;
    for file in files {
        let path = file.expect("a folder that was opened can be listed").path();
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "{} makes its target fail", path.display());
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", corpus.display());
}

/// The model that requests are made for: an input of every type that JSON has, one of bytes, and one of a fixed shape.
///
/// Its version is 1, and it batches up to 8.
pub fn interface() -> Interface {
    let config = config::from_text(MODEL).expect("the text above is a configuration");
    Interface::new(&config, 1, Labels::default()).expect("its types are known")
}

const MODEL: &str = r#"
name: "m"
max_batch_size: 8
input { name: "a" data_type: TYPE_FP32 dims: -1 optional: true }
input { name: "b" data_type: TYPE_STRING dims: -1 optional: true }
input { name: "c" data_type: TYPE_INT8 dims: 2 optional: true }
input { name: "d" data_type: TYPE_FP64 dims: [ 2, -1 ] optional: true }
input { name: "e" data_type: TYPE_UINT64 dims: 1 reshape { } optional: true }
input { name: "f" data_type: TYPE_BOOL dims: -1 optional: true }
input { name: "g" data_type: TYPE_FP16 dims: -1 optional: true }
input { name: "h" data_type: TYPE_INT64 dims: -1 optional: true }
output { name: "x" data_type: TYPE_FP32 dims: -1 }
output { name: "y" data_type: TYPE_STRING dims: 3 }
"#;

/// Checks a request that was decoded against its model. One that passes has inputs whose bytes fill their shapes.
pub fn check_request(interface: &Interface, request: &mut InferRequest) {
    let Ok(rows) = check::check(interface, request) else { return };
    assert!((1..=interface.max_batch_size).contains(&rows), "{rows} rows");
    for input in &request.inputs {
        let bytes = input.data.as_host().expect("requests lie in host memory");
        let spec = interface.input(&input.name).expect("only inputs of the model pass");
        assert_eq!(spec.data_type, input.data_type, "{}", input.name);
        let count = element_count(&input.shape).expect("shapes that overflow do not pass");
        match input.data_type {
            DataType::Bytes => assert_eq!(strings(bytes), usize::try_from(count).ok(), "{}", input.name),
            fixed => assert_eq!(byte_count(fixed, &input.shape), Some(bytes.len()), "{}", input.name),
        }
    }
}

/// How many strings with their lengths in front the bytes are; `None` if they are no such strings.
fn strings(mut bytes: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        bytes = rest.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?;
        count += 1;
    }
    Some(count)
}

/// A configuration in protobuf's text format, as `config.pbtxt` has it.
pub fn config_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::from_text(text) {
        Ok(config) => check_config(config),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A configuration in JSON, as load requests have it.
pub fn config_json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::from_json(text) {
        Ok(config) => check_config(config),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Either form gives back what was written; completing, normalising and verifying end, and normalising is final.
fn check_config(mut config: ModelConfig) {
    same(&config);
    let machine = Machine::default();
    let _ = config::complete(&mut config, "m", &["model.onnx".to_owned()]);
    let _ = config::verify_before_opening(&config, "m");
    config::normalize(&mut config, &machine);
    let problems = config::verify(&config, "m", &machine);
    let mut again = config.clone();
    config::normalize(&mut again, &machine);
    assert_eq!(format!("{again:?}"), format!("{config:?}"), "normalising is final");
    if problems.is_empty() {
        same(&config);
        let _ = Interface::new(&config, 1, Labels::default());
    }
}

/// Compared as text, for a number may be none that equals itself.
fn same(config: &ModelConfig) {
    let expected = format!("{config:?}");
    let text = config::to_text(config);
    let read = config::from_text(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(format!("{read:?}"), expected, "{text}");
    let json = config::to_json(config).to_string();
    let read = config::from_json(&json).unwrap_or_else(|error| panic!("{error}\n{json}"));
    assert_eq!(format!("{read:?}"), expected, "{json}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_targets_is_a_good_one() {
        let mut config = config::from_text(MODEL).unwrap();
        config.backend = "identity".into();
        config::normalize(&mut config, &Machine::default());
        assert_eq!(config::verify(&config, "m", &Machine::default()), []);
        assert_eq!(interface().inputs.len(), 8);
    }

    #[test]
    fn every_input_of_the_corpus_is_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        replay(&corpus.join("config_text"), config_text);
        replay(&corpus.join("config_json"), config_json);
    }
}
