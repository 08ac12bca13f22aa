//! Sequence batching: control inputs and the two strategies.

use std::collections::BTreeSet;

use server_proto::inference::{
    DataType, ModelSequenceBatching,
    model_sequence_batching::{Control, StrategyChoice, control::Kind},
};

use super::findings::Findings;

pub(super) fn check(batching: &ModelSequenceBatching, max_batch_size: i32, findings: &mut Findings<'_>) {
    let mut tensors = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for (index, input) in batching.control_input.iter().enumerate() {
        let path = format!("sequence_batching.control_input[{index}]");
        if input.name.is_empty() {
            findings.add_for_model(format!("{path}.name"), "sequence batching control tensor must have a name");
        } else if !tensors.insert(&input.name) {
            findings.add_for_model(
                format!("{path}.name"),
                format!("sequence batching control tensor '{}' is specified for multiple control kinds", input.name),
            );
        }
        for (index, control) in input.control.iter().enumerate() {
            let path = format!("{path}.control[{index}]");
            let kind = control.kind();
            if !kinds.insert(kind.as_str_name()) {
                let message = format!("sequence batching specifies multiple {} tensors", kind.as_str_name());
                findings.add_for_model(path, message);
            } else if kind == Kind::ControlSequenceCorrid {
                check_identity(control, &path, findings);
            } else {
                check_signal(control, &path, findings);
            }
        }
    }
    for (index, state) in batching.state.iter().enumerate() {
        if state.use_growable_memory && !state.use_same_buffer_for_input_output {
            let message = format!(
                "In order to 'use_growable_memory', you must also enable 'use_single_buffer' for state input name '{}'.",
                state.input_name
            );
            findings.add(format!("sequence_batching.state[{index}].use_growable_memory"), message);
        }
    }
    check_strategy(batching, max_batch_size, findings);
}

/// A yes or no: one pair of values, in one type.
fn check_signal(control: &Control, path: &str, findings: &mut Findings<'_>) {
    let kind = control.kind().as_str_name();
    let pairs = [
        ("int32_false_true", control.int32_false_true.len()),
        ("fp32_false_true", control.fp32_false_true.len()),
        ("bool_false_true", control.bool_false_true.len()),
    ];
    let given: Vec<_> = pairs.into_iter().filter(|(_, entries)| *entries > 0).collect();
    match given.as_slice() {
        [] => findings.add_for_model(
            path,
            format!(
                "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for \
                 {kind}"
            ),
        ),
        [(_, 2)] => {}
        [(name, _)] => findings.add_for_model(
            format!("{path}.{name}"),
            format!("sequence batching control '{name}' must have exactly 2 entries for {kind}"),
        ),
        _ => findings.add_for_model(
            path,
            format!(
                "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and \
                 'bool_false_true' for {kind}"
            ),
        ),
    }
}

/// The identity of a sequence: a type, and no values.
fn check_identity(control: &Control, path: &str, findings: &mut Findings<'_>) {
    let kind = Kind::ControlSequenceCorrid.as_str_name();
    let Control { int32_false_true, fp32_false_true, bool_false_true, .. } = control;
    if !(int32_false_true.is_empty() && fp32_false_true.is_empty() && bool_false_true.is_empty()) {
        findings.add_for_model(
            path,
            format!(
                "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' \
                 for {kind}"
            ),
        );
    }
    let allowed =
        [DataType::TypeUint64, DataType::TypeInt64, DataType::TypeUint32, DataType::TypeInt32, DataType::TypeString];
    if !allowed.contains(&control.data_type()) {
        let model = findings.model;
        findings.add(
            format!("{path}.data_type"),
            format!(
                "unexpected data type for control {kind} for {model}. Allowed data types are TYPE_UINT64, TYPE_INT64, \
                 TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
            ),
        );
    }
}

fn check_strategy(batching: &ModelSequenceBatching, max_batch_size: i32, findings: &mut Findings<'_>) {
    match &batching.strategy_choice {
        Some(StrategyChoice::Oldest(oldest)) => {
            for (index, &size) in oldest.preferred_batch_size.iter().enumerate() {
                let path = format!("sequence_batching.oldest.preferred_batch_size[{index}]");
                if size <= 0 {
                    findings.add_for_model(path, "sequence batching preferred batch size must be positive");
                } else if size > max_batch_size {
                    findings.add_for_model(path, "sequence batching preferred batch size must be <= max batch size");
                }
            }
        }
        // 0 is what a field left out reads as
        Some(StrategyChoice::Direct(direct)) if !(0.0..=1.0).contains(&direct.minimum_slot_utilization) => {
            findings.add_for_model(
                "sequence_batching.direct.minimum_slot_utilization",
                "sequence batching minimum slot utilization must be in range (0.0, 1.0]",
            );
        }
        Some(StrategyChoice::Direct(_)) | None => {}
    }
}
