//! Which file is a backend: beside the model, in the backend directory, chosen by a setting.

#![allow(clippy::unwrap_used)] // helpers of tests: a failure here is the test's

mod harness;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use harness::{NothingBuiltIn, compile};
use server_capi::Libraries;
use server_core::{
    backend::{Backends, ModelSource, Settings},
    error::Error,
};

struct Places {
    folder: tempfile::TempDir,
    source: ModelSource,
}

fn places() -> Places {
    let folder = tempfile::tempdir().unwrap();
    let model_dir = folder.path().join("models/m");
    let source = ModelSource { version_dir: model_dir.join("1"), model_dir, name: "m".into(), version: 1 };
    fs::create_dir_all(&source.version_dir).unwrap();
    fs::create_dir_all(folder.path().join("backends/b")).unwrap();
    Places { folder, source }
}

impl Places {
    /// The text of the error, or the file that was found.
    fn find(&self, settings: &[(&str, &str)], runtime: &str) -> Result<String, String> {
        let settings: Settings = settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let settings = BTreeMap::from([("b".to_owned(), settings)]);
        let libraries = Libraries::new(Arc::new(NothingBuiltIn), settings, self.folder.path().join("backends"), true);
        let text = |error: Error| error.message.into_owned();
        libraries.find("b", runtime, &self.source).map(|backend| backend.library()).map_err(text)
    }

    fn put(&self, place: &str, name: &str) -> PathBuf {
        compile("late", name, &self.folder.path().join(place))
    }
}

#[test]
fn the_folder_of_the_version_comes_first_and_the_backend_directory_last() {
    let places = places();
    let nothing = places.find(&[], "").unwrap_err();
    assert_eq!(nothing, "unable to find backend library for backend 'b'");
    // what is no library shows which file is looked at
    for place in ["backends/b", "models/m", "models/m/1"] {
        let file = places.folder.path().join(place).join("libtriton_b.so");
        fs::write(&file, place).unwrap();
        let error = places.find(&[], "").unwrap_err();
        assert!(error.contains(&format!("library {} cannot be opened", file.display())), "{error}");
    }
    places.put("models/m/1", "b");
    assert_eq!(places.find(&[], "").unwrap(), "libtriton_b.so");
}

#[test]
fn a_configuration_may_name_another_file_and_no_other_folder() {
    let places = places();
    places.put("backends/b", "other");
    assert_eq!(places.find(&[], "libtriton_other.so").unwrap(), "libtriton_other.so");
    for runtime in ["/etc/passwd", "libnone.so"] {
        let error = places.find(&[], runtime).unwrap_err();
        assert!(
            error.starts_with(&format!("unable to find backend library '{runtime}' for model 'm', searched: '")),
            "{error}"
        );
    }
    let error = places.find(&[], "../b/libtriton_other.so").unwrap_err();
    let directory = places.folder.path().join("backends/b");
    let text = format!(
        "backend library name '../b/libtriton_other.so' escapes backend directory '{}', for model 'm', check model config runtime field",
        directory.display()
    );
    assert_eq!(error, text);
}

#[test]
fn a_setting_names_a_file_by_its_name_or_its_path() {
    let places = places();
    places.put("backends/b", "mine");
    assert_eq!(places.find(&[("library", "libtriton_mine.so")], "").unwrap(), "libtriton_mine.so");
    let elsewhere = places.put("models", "far");
    assert_eq!(places.find(&[("library", elsewhere.to_str().unwrap())], "").unwrap(), "libtriton_far.so");
    let error = places.find(&[("library", "libtriton_gone.so")], "").unwrap_err();
    assert!(
        error.starts_with("unable to find backend library 'libtriton_gone.so' for model 'm', searched: '"),
        "{error}"
    );
    let error = places.find(&[("library", "libtriton_mine.so"), ("run-inline", "yes")], "").unwrap_err();
    assert_eq!(error, "the setting 'run-inline' of backend 'b' must be 'true' or 'false', and is 'yes'");
    // a library that is no backend of Triton's is the setting of a backend that is built in
    for other in ["/opt/libonnxruntime.so", "/opt/libtriton_torch_shim.so"] {
        let error = places.find(&[("library", other)], "").unwrap_err();
        assert_eq!(error, "unable to find backend library for backend 'b'");
    }
}
