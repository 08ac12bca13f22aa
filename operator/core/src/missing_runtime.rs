//! A server that lacks the runtime of a model: which one, and which images have it. Read from the server's own words, for only the
//! server knows what is in its image.

use crate::Reason;

/// A runtime that an image may lack.
struct Runtime {
    /// Value of `backend`.
    backend: &'static str,
    name: &'static str,
    /// Values of `spec.image.variant` whose images have it.
    variants: &'static str,
}

#[rustfmt::skip] // a table
const RUNTIMES: [Runtime; 6] = [
    Runtime { backend: "onnxruntime", name: "ONNX Runtime", variants: "onnx" },
    Runtime { backend: "python",      name: "Python",       variants: "python, pytorch, full or pytorch-cuda" },
    Runtime { backend: "pytorch",     name: "PyTorch",      variants: "pytorch, full or pytorch-cuda" },
    Runtime { backend: "tensorflow",  name: "TensorFlow",   variants: "tensorflow or full" },
    Runtime { backend: "openvino",    name: "OpenVINO",     variants: "openvino or full" },
    Runtime { backend: "tensorrt",    name: "TensorRT",     variants: "tensorrt" },
];

/// What a server says of a backend without its library, up to the name of the backend.
const NO_LIBRARY: &str = "unable to find backend library for backend '";
/// What it says of a Python model where there is no Python.
const NO_PYTHON: &str = "no Python interpreter: ";
/// What it says of a PyTorch model in Python where its Python lacks PyTorch.
const NO_TORCH: &str = " has no torch, which ";

/// Why a load failed whose `message` is the server's: `UnsupportedBackend`, with the cure before the server's words, if the server
/// lacks the runtime of the model; `None` if it has it, or if no image of ours has that backend.
pub fn explain(message: &str) -> Option<(Reason, String)> {
    let backend = match message.split_once(NO_LIBRARY) {
        Some((_, rest)) => rest.split_once('\'')?.0,
        None if message.contains(NO_PYTHON) => "python",
        None if message.contains(NO_TORCH) => "pytorch",
        None => return None,
    };
    let Runtime { name, variants, .. } = RUNTIMES.iter().find(|runtime| runtime.backend == backend)?;
    let explained = format!(
        "the server's image has no {name}: set spec.image.variant of the TritonServer to {variants}; {message}"
    );
    Some((Reason::UnsupportedBackend, explained))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, expect: Option<&str>) {
        let explained = explain(message);
        assert!(explained.iter().all(|(reason, _)| *reason == Reason::UnsupportedBackend));
        let beginning =
            explained.map(|(_, text)| text.strip_suffix(message).unwrap().trim_end_matches("; ").to_owned());
        assert_eq!(beginning.as_deref(), expect);
    }

    #[test]
    fn a_missing_runtime_is_named_with_the_images_that_have_it() {
        check(
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Invalid argument: unable to find backend library for \
             backend 'tensorflow': library libtensorflow_cc.so.2 not found, searched: /opt/triton/bin;",
            Some(
                "the server's image has no TensorFlow: set spec.image.variant of the TritonServer to tensorflow or full",
            ),
        );
        check(
            "no Python interpreter: 'python3' is in none of the folders of PATH ('/bin'); install Python 3.8 or later",
            Some(
                "the server's image has no Python: set spec.image.variant of the TritonServer to python, pytorch, full or pytorch-cuda",
            ),
        );
    }

    #[test]
    fn a_python_without_torch_lacks_pytorch() {
        check(
            "the Python interpreter '/usr/bin/python3' (3.11.2) has no torch, which a PyTorch model in Python needs",
            Some(
                "the server's image has no PyTorch: set spec.image.variant of the TritonServer to pytorch, full or pytorch-cuda",
            ),
        );
    }

    #[test]
    fn a_backend_of_the_users_has_no_image_of_ours() {
        check(
            "unable to find backend library for backend 'mine', try specifying runtime on the model configuration.",
            None,
        );
    }

    #[test]
    fn other_failures_are_left_alone() {
        check("load failed for model 'm': no such op", None);
        check("unable to load backend library for backend 'openvino': library /x cannot be opened: too old", None);
        check("unable to find backend library for backend '", None);
    }
}
