//! Files a configuration names: all of them lie in the model's folder, but for libraries of operators, which a
//! configuration on disk may name by an absolute path. One that arrives over the network must not point elsewhere.

use std::path::{Component, Path};

use server_proto::inference::{
    model_config::SchedulingChoice, model_sequence_batching::initial_state::StateData,
    model_warmup::input::InputDataType,
};

use super::findings::Findings;
use crate::config::{ModelConfig, Problem};

pub(super) fn check(config: &ModelConfig, findings: &mut Findings<'_>) {
    let version_folder = 1;
    check_file("default_model_filename", &config.default_model_filename, version_folder, findings);
    for (capability, file) in &config.cc_model_filenames {
        check_file(&format!("cc_model_filenames[{capability:?}]"), file, version_folder, findings);
    }
    let model_folder = 0;
    for (index, output) in config.output.iter().enumerate() {
        check_file(&format!("output[{index}].label_filename"), &output.label_filename, model_folder, findings);
    }
    for (path, library) in libraries(config).filter(|(_, library)| !Path::new(library).is_absolute()) {
        check_file(&path, library, model_folder, findings);
    }
    let folder_in_model_folder = 1;
    for (index, warmup) in config.model_warmup.iter().enumerate() {
        for (name, input) in &warmup.inputs {
            if let Some(InputDataType::InputDataFile(file)) = &input.input_data_type {
                let path = format!("model_warmup[{index}].inputs[{name:?}].input_data_file");
                check_file(&path, file, folder_in_model_folder, findings);
            }
        }
    }
    if let Some(SchedulingChoice::SequenceBatching(sequence)) = &config.scheduling_choice {
        let states = sequence.state.iter().enumerate().flat_map(|(index, state)| {
            state.initial_state.iter().enumerate().map(move |(number, initial)| (index, number, initial))
        });
        for (index, number, initial) in states {
            if let Some(StateData::DataFile(file)) = &initial.state_data {
                let path = format!("sequence_batching.state[{index}].initial_state[{number}].data_file");
                check_file(&path, file, folder_in_model_folder, findings);
            }
        }
    }
}

/// What a configuration may not name if it came over the network instead of from the model's folder: callers must not
/// choose which libraries of the machine are opened.
pub fn verify_override(config: &ModelConfig) -> Vec<Problem> {
    let absolute = libraries(config).filter(|(_, library)| Path::new(library).is_absolute());
    let refused = |(path, library): (String, &String)| {
        let text = format!(
            "file '{library}' must lie in the model's folder when the configuration comes with a load request: copy it \
             there and name it relative to the folder, or name it in the model's config.pbtxt"
        );
        Problem::new(path, text)
    };
    absolute.map(refused).collect()
}

/// Libraries with operators, each with its path in the configuration.
fn libraries(config: &ModelConfig) -> impl Iterator<Item = (String, &String)> {
    let libraries = config.model_operations.iter().flat_map(|operations| &operations.op_library_filename).enumerate();
    libraries.map(|(index, library)| (format!("model_operations.op_library_filename[{index}]"), library))
}

/// `depth` is how far below the model's folder the file is looked for.
fn check_file(path: &str, file: &str, depth: usize, findings: &mut Findings<'_>) {
    if !stays_inside(file, depth) {
        findings.add_for_model(path, format!("file '{file}' must lie in the model's folder"));
    }
}

fn stays_inside(file: &str, mut depth: usize) -> bool {
    Path::new(file).components().all(|component| match component {
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::ParentDir => depth.checked_sub(1).is_some_and(|higher| {
            depth = higher;
            true
        }),
        Component::RootDir | Component::Prefix(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::{stays_inside, verify_override};
    use crate::config::from_text;

    #[test]
    fn an_override_may_not_name_libraries_of_the_machine() {
        let text = "model_operations { op_library_filename: [ 'own.so', '/usr/lib/any.so' ] }";
        let problems = verify_override(&from_text(text).unwrap());
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].path, "model_operations.op_library_filename[1]");
        assert_eq!(
            problems[0].message,
            "file '/usr/lib/any.so' must lie in the model's folder when the configuration comes with a load request: \
             copy it there and name it relative to the folder, or name it in the model's config.pbtxt"
        );
    }

    #[test]
    fn a_file_may_lie_in_another_version_and_not_in_another_model() {
        assert!(stays_inside("", 0));
        assert!(stays_inside("model.onnx", 1));
        assert!(stays_inside("./a/b.onnx", 1));
        assert!(stays_inside("../1/model.onnx", 1));
        assert!(!stays_inside("../../other/1/model.onnx", 1));
        assert!(!stays_inside("../labels.txt", 0));
        assert!(!stays_inside("a/../../labels.txt", 0));
        assert!(!stays_inside("/etc/passwd", 1));
    }
}
