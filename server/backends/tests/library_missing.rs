//! A process without ONNX Runtime: models that need it fail and say why, the others load. Each case is a test of its own
//! process-wide state, so nothing here ever opens the real library.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests count as tests")]

#[cfg(test)]
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use all of it")]
mod testing;

use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::Arc};

use server_backends::all;
use server_core::{
    backend::{Backend, Backends, Settings},
    config::ModelConfig,
    error::{Code, Error},
};

fn backend(name: &str, library: &Path) -> Arc<dyn Backend> {
    let settings = Settings::from([("library".to_owned(), library.display().to_string())]);
    let settings = BTreeMap::from([("onnxruntime".to_owned(), settings)]);
    all(&settings).find(name, "", &testing::source("m")).unwrap()
}

#[track_caller]
fn refusal(library: &Path) -> Error {
    let config = ModelConfig { default_model_filename: "add_sub.onnx".into(), ..ModelConfig::default() };
    let backend = backend("onnxruntime", library);
    let open = |may_complete| {
        let mut config = config.clone();
        backend.open(&testing::source("m"), &mut config, may_complete, &testing::no_host()).err().unwrap()
    };
    let error = open(true);
    assert_eq!(open(false), error);
    error
}

/// Compiles a library from C; `None` if there is no compiler.
fn compiled(folder: &Path, source: &str) -> Option<std::path::PathBuf> {
    let (text, library) = (folder.join("library.c"), folder.join("libonnxruntime.so"));
    fs::write(&text, source).unwrap();
    let compiler = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &text]).status();
    if compiler.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    println!("skipped: no C compiler");
    None
}

#[test]
fn a_missing_library_is_named_with_places_and_cure() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path());
    assert_eq!(error.code, Code::InvalidArgument);
    let expect = format!(
        "unable to find backend library for backend 'onnxruntime': library libonnxruntime.so not found, searched: {}; \
         install ONNX Runtime into one of these places, or name its file with \
         --backend-config=onnxruntime,library=PATH or ORT_DYLIB_PATH",
        folder.path().display()
    );
    assert_eq!(error.message, expect);
}

#[test]
fn models_that_need_no_library_load_without_one() {
    let backend = backend("identity", Path::new("/nowhere"));
    let mut config = ModelConfig::default();
    let mut model = backend.open(&testing::source("m"), &mut config, true, &testing::no_host()).unwrap();
    assert!(model.configure(&Arc::new(config)).is_ok());
}

#[test]
fn a_file_the_loader_refuses_is_named_with_the_loaders_words() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libonnxruntime.so.1.23.2");
    fs::write(&library, "not a library").unwrap();
    let error = refusal(folder.path());
    assert_eq!(error.code, Code::Internal);
    let start = format!(
        "unable to load backend library for backend 'onnxruntime': library {} cannot be opened: ",
        library.display()
    );
    assert!(error.message.starts_with(&start), "{error}");
}

#[test]
fn a_library_that_is_another_one_is_not_suitable() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = compiled(folder.path(), "int nothing(void) { return 0; }") else { return };
    let error = refusal(&library);
    assert!(error.message.ends_with("libonnxruntime.so is not suitable: it does not export OrtGetApiBase"), "{error}");
}

#[test]
fn a_library_that_is_too_old_is_not_suitable() {
    let folder = tempfile::tempdir().unwrap();
    let old = r#"
        static const void *api(unsigned version) { (void)version; return 0; }
        static const char *text(void) { return "1.16.3"; }
        static const struct { const void *(*get)(unsigned); const char *(*version)(void); } base = { api, text };
        const void *OrtGetApiBase(void) { return &base; }
    "#;
    let Some(library) = compiled(folder.path(), old) else { return };
    let error = refusal(&library);
    let end = "is not suitable: it is ONNX Runtime 1.16.3, and 1.17 is the oldest that works";
    assert!(error.message.ends_with(end), "{error}");
}
