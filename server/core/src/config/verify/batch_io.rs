//! Inputs computed from a batch and outputs taken apart by it: what they name must exist.

use std::collections::BTreeSet;

use server_proto::inference::{DataType, batch_input, batch_output};

use super::findings::Findings;
use crate::config::ModelConfig;

pub(super) fn check(config: &ModelConfig, findings: &mut Findings<'_>) {
    let inputs: BTreeSet<&str> = config.input.iter().map(|input| input.name.as_str()).collect();
    let outputs: BTreeSet<&str> = config.output.iter().map(|output| output.name.as_str()).collect();

    for (index, item) in config.batch_input.iter().enumerate() {
        let path = format!("batch_input[{index}]");
        match batch_input::Kind::try_from(item.kind) {
            Ok(kind) => check_sources("input", kind.as_str_name(), &item.source_input, &inputs, &path, findings),
            Err(_) => {
                findings.add_for_model(format!("{path}.kind"), format!("unknown batch input kind '{}'", item.kind))
            }
        }
        match item.data_type() {
            DataType::TypeInt32 | DataType::TypeFp32 => {}
            DataType::TypeInvalid => {
                findings.add(format!("{path}.data_type"), "unexpected batch input data type 'TYPE_INVALID'");
            }
            _ => {
                let message = "batch input data type must be TYPE_INT32 or TYPE_FP32";
                findings.add_for_model(format!("{path}.data_type"), message);
            }
        }
    }

    for (index, item) in config.batch_output.iter().enumerate() {
        let path = format!("batch_output[{index}]");
        match batch_output::Kind::try_from(item.kind) {
            Ok(kind) => check_sources("output", kind.as_str_name(), &item.source_input, &inputs, &path, findings),
            Err(_) => {
                findings.add_for_model(format!("{path}.kind"), format!("unknown batch output kind '{}'", item.kind));
            }
        }
        let mut targets = BTreeSet::new(); // of several entries for one output the first counts, as in Triton
        for (index, target) in item.target_name.iter().enumerate() {
            let path = format!("{path}.target_name[{index}]");
            if !outputs.contains(target.as_str()) {
                findings.add_for_model(path, format!("unknown target output name '{target}'"));
            } else if !targets.insert(target) {
                findings.add_for_model(path, format!("target output name '{target}' can only be specified once"));
            }
        }
    }
}

fn check_sources(
    side: &str,
    kind: &str,
    sources: &[String],
    inputs: &BTreeSet<&str>,
    path: &str,
    findings: &mut Findings<'_>,
) {
    if sources.len() != 1 {
        let message = format!("batch {side} kind '{kind}' expects 1 source input, got {}", sources.len());
        findings.add_for_model(format!("{path}.source_input"), message);
    }
    for (index, source) in sources.iter().enumerate().filter(|(_, source)| !inputs.contains(source.as_str())) {
        let message = format!("unknown source input name '{source}'");
        findings.add_for_model(format!("{path}.source_input[{index}]"), message);
    }
}
