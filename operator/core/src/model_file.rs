//! Model files by the endings of their names: which format one is of, which backend runs it, and what that looks for in a version's
//! folder.

use crds::parts::source::ModelFormat;

/// What a model file may be called elsewhere, and what its backend looks for in a version's folder.
#[derive(Debug)]
pub struct Kind {
    /// Format of the model.
    pub format: ModelFormat,
    /// End of the file's name, its dot included.
    pub ending: &'static str,
    /// Name in the version's folder.
    pub file: &'static str,
}

/// The folder of a TensorFlow SavedModel.
pub const SAVED_MODEL: &str = "model.savedmodel";

/// Of two that fit, the first decides; the first of a format is the one that its backend looks for by itself.
///
/// Source: Triton model repository, "Model Files".
#[rustfmt::skip] // a table
const KINDS: [Kind; 14] = [
    Kind { format: ModelFormat::Onnx,       ending: ".onnx",        file: "model.onnx" },
    Kind { format: ModelFormat::Tensorrt,   ending: ".plan",        file: "model.plan" },
    Kind { format: ModelFormat::Tensorrt,   ending: ".engine",      file: "model.plan" },
    Kind { format: ModelFormat::Tensorrt,   ending: ".trt",         file: "model.plan" },
    Kind { format: ModelFormat::Pytorch,    ending: ".pt",          file: "model.pt" },
    Kind { format: ModelFormat::Pytorch,    ending: ".pth",         file: "model.pt" },
    Kind { format: ModelFormat::Pytorch,    ending: ".torchscript", file: "model.pt" },
    Kind { format: ModelFormat::Pytorch,    ending: ".pt2",         file: "model.pt2" },
    Kind { format: ModelFormat::Tensorflow, ending: ".savedmodel",  file: SAVED_MODEL },
    Kind { format: ModelFormat::Tensorflow, ending: ".graphdef",    file: "model.graphdef" },
    Kind { format: ModelFormat::Tensorflow, ending: ".pb",          file: "model.graphdef" },
    Kind { format: ModelFormat::Openvino,   ending: ".xml",         file: "model.xml" },
    Kind { format: ModelFormat::Python,     ending: ".py",          file: "model.py" },
    Kind { format: ModelFormat::Pytorch,    ending: ".py",          file: "model.py" },
];

/// The formats that have files, and their backends.
const BACKENDS: [(ModelFormat, &str); 6] = [
    (ModelFormat::Onnx, "onnxruntime"),
    (ModelFormat::Tensorrt, "tensorrt"),
    (ModelFormat::Pytorch, "pytorch"),
    (ModelFormat::Tensorflow, "tensorflow"),
    (ModelFormat::Openvino, "openvino"),
    (ModelFormat::Python, "python"),
];

/// The kinds of files that a model may have, of that format if it is known.
pub fn kinds(format: Option<ModelFormat>) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| format.is_none_or(|format| format == kind.format))
}

/// What a name says by its ending; `format`: that of the model, if it is known.
pub fn kind_of(name: &str, format: Option<ModelFormat>) -> Option<&'static Kind> {
    kinds(format).find(|kind| name.ends_with(kind.ending))
}

/// The backend that runs models of a format; an ensemble has none.
pub fn backend_of(format: ModelFormat) -> Option<&'static str> {
    BACKENDS.iter().find(|(of, _)| *of == format).map(|(_, backend)| *backend)
}

/// The format of the models that a backend runs.
pub fn format_of_backend(backend: &str) -> Option<ModelFormat> {
    BACKENDS.iter().find(|(_, of)| *of == backend).map(|(format, _)| *format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_of_a_format_is_known_and_looks_for_a_file() {
        for (backend, file) in [
            ("onnxruntime", "model.onnx"),
            ("tensorrt", "model.plan"),
            ("pytorch", "model.pt"),
            ("tensorflow", SAVED_MODEL),
            ("openvino", "model.xml"),
            ("python", "model.py"),
        ] {
            let format = format_of_backend(backend).unwrap();
            assert_eq!((backend_of(format), kinds(Some(format)).next().unwrap().file), (Some(backend), file));
        }
        assert_eq!((format_of_backend("mine"), backend_of(ModelFormat::Ensemble)), (None, None));
    }

    #[test]
    fn a_name_ends_in_what_it_is() {
        let format = |name: &str| kind_of(name, None).map(|kind| kind.format);
        assert_eq!(format("net.v2.pt2"), Some(ModelFormat::Pytorch));
        assert_eq!([format("notes.txt"), format("onnx"), format("")], [None; 3]);
        assert_eq!(format("model.py"), Some(ModelFormat::Python), "a module of PyTorch only where somebody says so");
        assert_eq!(kind_of("model.py", Some(ModelFormat::Pytorch)).unwrap().file, "model.py");
        assert!(kind_of("net.xml", Some(ModelFormat::Onnx)).is_none());
    }
}
