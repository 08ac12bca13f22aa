//! The `tensorrt` backend with NVIDIA's own library, on a machine without a GPU: what is refused, with what to do. The driver is a stand-in, which
//! TensorRT does not take for one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unsafe_code,
    reason = "helpers of tests count as tests, and ask stand-ins"
)]

#[path = "fixtures/tensorrt/mod.rs"]
#[allow(dead_code, reason = "shared")]
mod models;
#[cfg(test)]
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use all of it")]
mod testing;

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use models::{Folder, TWICE, backend, stand_ins};
use server_core::{
    backend::{Backend, Settings},
    error::{Code, Error},
};

/// The version that `e2e/runtimes/tensorrt` installs.
const VERSION: [u8; 4] = [10, 15, 1, 29];

/// The backend on the real library: of `TENSORRT_DYLIB_PATH`, or what the project's set-up installed. Without it the test is skipped with a line
/// that says so; where `CI` promises it, it fails.
fn real() -> Option<Arc<dyn Backend>> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/runtimes/tensorrt/libnvinfer.so.10");
    let library =
        env::var_os("TENSORRT_DYLIB_PATH").map(PathBuf::from).or_else(|| installed.exists().then_some(installed));
    let Some(library) = library else {
        let is_promised = env::var("CI").is_ok_and(|value| value == "true") && cfg!(target_arch = "x86_64");
        assert!(!is_promised, "TensorRT is missing: e2e/runtimes/tensorrt installs it");
        println!("skipped: no TensorRT: e2e/runtimes/tensorrt installs it");
        return None;
    };
    // As a plugin, the stand-in is open before the driver is looked for.
    let driver = stand_ins(10)?.folder().join("libcuda.so.1");
    Some(backend(Settings::from([
        ("library".to_owned(), library.display().to_string()),
        ("plugins".to_owned(), driver.display().to_string()),
    ])))
}

#[track_caller]
fn refused(folder: &Folder, config: &str) -> Option<Error> {
    let backend = real()?;
    Some(folder.open(&*backend, config).err().expect("it is refused"))
}

#[test]
fn a_plan_of_another_version_is_refused_with_both_versions_and_the_cure() {
    let Some(error) = refused(&Folder::plan([10, 3, 0, 26], TWICE), "") else { return };
    let text = "was made by TensorRT 10.3.0.26, and this is 10.15.1.29; build it again on this kind of GPU with the TensorRT that the server uses \
                (deploy/trt/build)";
    assert!(error.code == Code::InvalidArgument && error.message.contains(text), "{error}");
}

#[test]
fn what_is_no_plan_is_refused() {
    let message = |plan: &[u8]| refused(&Folder::with(plan), "").map(|error| error.message);
    let Some(empty) = message(b"") else { return };
    assert!(empty.contains("model.plan' is empty"), "{empty}");
    let other = message(b"\x08\x08\x12\x07pytorch and more of an ONNX file").unwrap();
    assert!(other.contains("is no TensorRT plan"), "{other}");
    let truncated = message(b"ftrt\0\0\0\0").unwrap();
    assert!(truncated.contains("is truncated"), "{truncated}");
}

#[test]
fn instances_on_the_cpu_are_refused_with_the_cure() {
    let config = "instance_group { kind: KIND_CPU }";
    let Some(error) = refused(&Folder::plan(VERSION, TWICE), config) else { return };
    let text = "unable to load model 'm', TensorRT backend supports only GPU device: run the server where it can see an NVIDIA GPU";
    assert!(error.message.starts_with(text), "{error}");
}

#[test]
fn a_driver_that_tensorrt_does_not_work_with_is_told_in_its_words() {
    let Some(error) = refused(&Folder::plan(VERSION, TWICE), "") else { return };
    assert_eq!(error.code, Code::Internal);
    let start = "unable to create TensorRT runtime: createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: ";
    assert!(error.message.starts_with(start), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let Some(backend) = real() else { return };
    let error = Folder::plan(VERSION, TWICE).open(&*backend, "default_model_filename: 'other.plan'").err().unwrap();
    assert!(error.code == Code::Unavailable && error.message.contains("other.plan' for model instance 'm'"), "{error}");
}
