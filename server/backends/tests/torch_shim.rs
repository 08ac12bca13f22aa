//! A process without a shim of PyTorch that will do: models that need it fail and say why. Nothing here opens libtorch.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests count as tests")]

#[cfg(test)]
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use all of it")]
mod testing;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use server_backends::all;
use server_core::{
    backend::{Backends, Settings},
    config::ModelConfig,
    error::{Code, Error},
};

#[track_caller]
fn refusal(library: &Path) -> Error {
    let settings = Settings::from([("library".to_owned(), library.display().to_string())]);
    let settings = BTreeMap::from([("pytorch".to_owned(), settings)]);
    let backend = all(&settings).find("pytorch", "", &testing::source("m")).unwrap();
    let mut config = ModelConfig { default_model_filename: "model.pt".into(), ..ModelConfig::default() };
    backend.open(&testing::source("m"), &mut config, true, &testing::no_host()).err().unwrap()
}

/// Compiles a shim that says of itself what it is told to; `None` if there is no compiler.
fn shim(folder: &Path, interface: u32, compiled_for: &str, found: &str) -> Option<PathBuf> {
    let header =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/shims/torch/triton_torch_shim.h"));
    let header = header.unwrap();
    let declared = header.match_indices("triton_torch_").filter_map(|(start, _)| {
        let name: String =
            header[start..].chars().take_while(|&letter| letter.is_alphanumeric() || letter == '_').collect();
        header[start + name.len()..].starts_with('(').then_some(name)
    });
    let own = ["triton_torch_interface", "triton_torch_compiled_for", "triton_torch_found"];
    let others = declared.filter(|name| !own.contains(&name.as_str()));
    let mut source: String = others.map(|name| format!("int {name}(void) {{ return 1; }}\n")).collect();
    source += &format!("unsigned triton_torch_interface(void) {{ return {interface}; }}\n");
    for (name, version) in [("compiled_for", compiled_for), ("found", found)] {
        source += &format!("const char *triton_torch_{name}(void) {{ return \"{version}\"; }}\n");
    }
    compiled(folder, &source)
}

fn compiled(folder: &Path, source: &str) -> Option<PathBuf> {
    let (text, library) = (folder.join("shim.c"), folder.join("libtriton_torch_shim.so"));
    fs::write(&text, source).unwrap();
    let compiler = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &text]).status();
    if compiler.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    println!("skipped: no C compiler");
    None
}

#[test]
fn a_missing_shim_is_named_with_places_and_cure() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path());
    assert_eq!(error.code, Code::InvalidArgument);
    let expect = format!(
        "unable to find backend library for backend 'pytorch': library libtriton_torch_shim.so not found, searched: {}; compile it for \
         the libtorch of this machine with deploy/shims/build torch, or name its file with --backend-config=pytorch,library=PATH or \
         TORCH_SHIM_PATH",
        folder.path().display()
    );
    assert_eq!(error.message, expect);
}

#[test]
fn a_shim_whose_libtorch_is_missing_comes_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("libtriton_torch_shim.so"), "not a library").unwrap();
    let error = refusal(folder.path());
    assert_eq!(error.code, Code::Internal);
    let end = "; install the libtorch that it was compiled for, or build it again with deploy/shims/build torch";
    assert!(error.message.contains("cannot be opened: ") && error.message.ends_with(end), "{error}");
}

#[test]
fn a_library_that_is_no_shim_is_not_suitable() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = compiled(folder.path(), "int nothing(void) { return 0; }") else { return };
    let error = refusal(&library);
    assert!(error.message.ends_with("is not suitable: it does not export triton_torch_interface"), "{error}");
}

#[test]
fn a_shim_of_another_interface_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = shim(folder.path(), 77, "2.12.1", "2.12.1") else { return };
    let end = "its interface has version 77, and this server needs 1: build it again with deploy/shims/build torch";
    let error = refusal(&library);
    assert!(error.message.ends_with(end), "{error}");
}

#[test]
fn a_shim_that_meets_another_libtorch_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = shim(folder.path(), 1, "2.12.1", "2.9.0+cpu") else { return };
    let end = "it was compiled for libtorch 2.12.1, and the loader has found 2.9.0+cpu: build it again with deploy/shims/build torch";
    let error = refusal(&library);
    assert!(error.message.ends_with(end), "{error}");
}
