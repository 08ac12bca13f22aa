//! Model repositories in temporary folders, made of models that give back what they get.

use std::{fs, path::Path};

use tempfile::TempDir;

/// An empty repository.
pub(crate) fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A repository with one model `echo`.
pub(crate) fn with_echo() -> TempDir {
    let repository = empty();
    add(repository.path(), "echo", "");
    repository
}

/// Adds a model of the identity backend; `more` goes at the end of its configuration.
pub(crate) fn add(repository: &Path, name: &str, more: &str) {
    let config = format!(
        r#"name: "{name}"
backend: "identity"
max_batch_size: 4
input [ {{ name: "INPUT0" data_type: TYPE_INT32 dims: [ 2 ] }} ]
output [ {{ name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 2 ] }} ]
{more}
"#
    );
    add_with_config(repository, name, &config);
}

/// Adds a model whose configuration is that text.
pub(crate) fn add_with_config(repository: &Path, name: &str, config: &str) {
    let folder = repository.join(name);
    fs::create_dir_all(folder.join("1")).unwrap();
    fs::write(folder.join("config.pbtxt"), config).unwrap();
}

/// One entry of `parameters`.
pub(crate) fn parameter(key: &str, value: &str) -> String {
    format!(r#"parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}"#)
}

/// An inference request for such a model.
pub(crate) fn infer_body(values: [i32; 2]) -> String {
    let [a, b] = values;
    format!(r#"{{"inputs":[{{"name":"INPUT0","shape":[1,2],"datatype":"INT32","data":[{a},{b}]}}]}}"#)
}
