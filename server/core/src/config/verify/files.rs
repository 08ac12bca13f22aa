//! Files a configuration names: all of them lie in the model's folder. A configuration can arrive over the network, so
//! it must not be able to point elsewhere.

use std::path::{Component, Path};

use super::Findings;
use crate::config::ModelConfig;

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
    let libraries = config.model_operations.iter().flat_map(|operations| &operations.op_library_filename);
    for (index, library) in libraries.enumerate() {
        let path = format!("model_operations.op_library_filename[{index}]");
        check_file(&path, library, model_folder, findings);
    }
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
    use super::stays_inside;

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
