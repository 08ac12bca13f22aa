//! The config corpus: each `configs/NAME.pbtxt` goes the way of a load, and what comes out is `configs/NAME.out`: the
//! normal form and the fields without effect, or the problems. `UPDATE_EXPECT=1 cargo test` writes the `.out` files.
//!
//! Lines `#! KEY: VALUE` in a file tell its surroundings: `files` of the version, `gpus` of the machine, `directory`
//! if it is not NAME.

#![allow(clippy::unwrap_used)] // a test: helpers outside #[test] functions too

use std::{collections::BTreeSet, env, fs, path::Path};

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value};
use server_core::config::{
    Machine, ModelConfig, complete, from_json, from_text, normalize, to_json, to_text, unsupported_fields, verify,
};

fn corpus() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pbtxt"));
    files.sort();
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix("#! ")?.strip_prefix(key)?.strip_prefix(": "))
}

/// What a load makes of the file, as text.
fn load(name: &str, text: &str) -> String {
    let files: Vec<String> = setting(text, "files").unwrap_or("").split_whitespace().map(str::to_owned).collect();
    let machine = Machine { gpus: setting(text, "gpus").map_or(0, |gpus| gpus.parse().unwrap()) };
    let directory = setting(text, "directory").unwrap_or(name);

    let mut config = match from_text(text) {
        Ok(config) => config,
        Err(error) => return format!("not a configuration: {error}\n"),
    };
    if let Err(error) = complete(&mut config, directory, &files) {
        return format!("cannot be completed: {error}\n");
    }
    normalize(&mut config, &machine);
    let problems = verify(&config, directory, &machine);
    if !problems.is_empty() {
        let list: String = problems.iter().map(|problem| format!("  {problem}\n")).collect();
        return format!("problems:\n{list}");
    }
    let by_backend: &[&str] = match config.backend.as_str() {
        "onnxruntime" => &["batch_input", "batch_output", "model_operations", "sequence_batching.state"],
        _ => &[],
    };
    let unsupported: String =
        unsupported_fields(&config, by_backend).iter().map(|path| format!("  {path}\n")).collect();
    let unsupported = if unsupported.is_empty() { unsupported } else { format!("\nunsupported:\n{unsupported}") };
    to_text(&config) + &unsupported
}

#[test]
fn every_config_comes_out_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    let mut wrong = Vec::new();
    for (name, text) in corpus() {
        let path = folder.join(format!("{name}.out"));
        let result = load(&name, &text);
        if env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &result).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if result != expected {
            wrong.push(format!("=== {name}: expected\n{expected}=== {name}: got\n{result}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_config_survives_text_and_json() {
    for (name, text) in corpus() {
        let Ok(config) = from_text(&text) else { continue };
        assert_eq!(from_text(&to_text(&config)).unwrap(), config, "{name}");
        assert_eq!(from_json(&to_json(&config).to_string()).unwrap(), config, "{name}");
    }
}

#[test]
fn the_corpus_sets_every_field_of_the_schema() {
    let mut set = BTreeSet::new();
    let mut schema = None;
    for config in corpus().iter().filter_map(|(_, text)| from_text(text).ok()) {
        let message = reflected(&config);
        collect_set(&message, &mut set);
        schema = Some(message.descriptor());
    }
    let mut declared = BTreeSet::new();
    collect_declared(&schema.expect("the corpus is not empty"), &mut declared);
    let missing: Vec<_> = declared.difference(&set).collect();
    assert!(missing.is_empty(), "no config sets {missing:?}");
}

fn reflected(config: &ModelConfig) -> DynamicMessage {
    let schema = server_proto::descriptor_pool().get_message_by_name("inference.ModelConfig").unwrap();
    let mut message = DynamicMessage::new(schema);
    message.transcode_from(config).unwrap();
    message
}

fn collect_set(message: &DynamicMessage, names: &mut BTreeSet<String>) {
    for (field, value) in message.fields() {
        names.insert(field.full_name().to_owned());
        let items: Vec<&Value> = match value {
            Value::List(items) => items.iter().collect(),
            Value::Map(entries) => entries.values().collect(),
            one => vec![one],
        };
        for item in items {
            if let Value::Message(inner) = item {
                collect_set(inner, names);
            }
        }
    }
}

fn collect_declared(message: &MessageDescriptor, names: &mut BTreeSet<String>) {
    for field in message.fields() {
        let has_only_zero = field.kind().as_enum().is_some_and(|kind| kind.values().len() == 1);
        if has_only_zero {
            continue; // set or not, it reads the same
        }
        names.insert(field.full_name().to_owned());
        match field.kind() {
            Kind::Message(entry) if entry.is_map_entry() => {
                if let Kind::Message(value) = entry.map_entry_value_field().kind() {
                    collect_declared(&value, names);
                }
            }
            Kind::Message(inner) => collect_declared(&inner, names),
            _ => {}
        }
    }
}
