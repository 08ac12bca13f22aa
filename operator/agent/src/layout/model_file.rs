//! Which of the files of one version is the model, and the name its backend looks for. Pure: it sees names only.

use std::collections::BTreeMap;

use crds::parts::source::ModelFormat;
use operator_core::model_file::{Kind, SAVED_MODEL, kinds};

/// What lies in the folder of a SavedModel, whatever that is called.
const SAVED_MODEL_FILES: [&str; 2] = ["saved_model.pb", "saved_model.pbtxt"];

/// The name a model file has within its version folder unless the configuration or its own ending says otherwise.
fn default_file_name(format: ModelFormat) -> Option<&'static str> {
    kinds(Some(format)).next().map(|kind| kind.file)
}

/// The new names of those files of one version that their backend would not find under the names they have.
///
/// `files`: paths below the version's folder. `file_name`: the name that the configuration gives the model; none if empty.
/// Of several files that could be the model, all keep their names: the server says what it misses.
/// Errors: a lone file whose name does not say what kind of model it is.
pub(super) fn renames<'a>(
    files: &[&'a str],
    format: Option<ModelFormat>,
    file_name: &str,
) -> Result<BTreeMap<&'a str, String>, String> {
    let is_there = |name: &str| files.iter().any(|file| top(file) == name);
    let wanted =
        |usual: &str| if file_name.is_empty() { Ok(usual.to_owned()) } else { crate::verify::clean_path(file_name) };
    let found_as_it_is = match file_name {
        "" => kinds(format).any(|kind| is_there(kind.file)),
        name => is_there(top(name)),
    };
    if found_as_it_is {
        return Ok(BTreeMap::new());
    }
    if format.is_none_or(|format| format == ModelFormat::Tensorflow)
        && let Some(below) = saved_model(files)
    {
        let folder = wanted(SAVED_MODEL)?;
        let renamed = files.iter().filter_map(|file| Some((*file, format!("{folder}/{}", file.strip_prefix(below)?))));
        return Ok(renamed.collect());
    }
    let mut candidates =
        files.iter().filter(|file| !file.contains('/')).filter_map(|file| Some((*file, kind_of(file, format)?)));
    if let (Some((file, kind)), None) = (candidates.next(), candidates.next()) {
        return Ok(with_weights(files, file, wanted(kind.file)?));
    }
    match files {
        [one] if is_library(one) => Ok(BTreeMap::new()),
        [one] => Ok([(*one, lone_name(one, format, file_name)?)].into()),
        _ => Ok(BTreeMap::new()),
    }
}

/// What a file is; that of a SavedModel is a folder.
fn kind_of(file: &str, format: Option<ModelFormat>) -> Option<&'static Kind> {
    operator_core::model_file::kind_of(file, format).filter(|kind| kind.file != SAVED_MODEL)
}

/// The file in which the weights of an OpenVINO network lie.
pub(super) fn weights_of(network: &str) -> Option<String> {
    Some(format!("{}.bin", network.strip_suffix(".xml")?))
}

/// The folder, with its slash, that is a SavedModel: all of the files, or a folder among them.
fn saved_model<'a>(files: &[&'a str]) -> Option<&'a str> {
    let mut found = files.iter().filter_map(|file| {
        let (folder, name) = file.rfind('/').map_or(("", *file), |slash| file.split_at(slash + 1));
        (SAVED_MODEL_FILES.contains(&name) && folder.matches('/').count() <= 1).then_some(folder)
    });
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

/// The model file under its new name and, of an OpenVINO network, its weights, which it looks for under its own name.
fn with_weights<'a>(files: &[&'a str], file: &'a str, name: String) -> BTreeMap<&'a str, String> {
    let weights = weights_of(file);
    let weights = files.iter().find(|other| weights.as_deref() == Some(**other));
    weights.copied().zip(weights_of(&name)).into_iter().chain([(file, name)]).collect()
}

/// Whether it is a backend of the model's own, which is found by its name.
fn is_library(file: &str) -> bool {
    file.starts_with("lib") && file.ends_with(".so")
}

fn lone_name(path: &str, format: Option<ModelFormat>, file_name: &str) -> Result<String, String> {
    if !file_name.is_empty() {
        return crate::verify::clean_path(file_name);
    }
    let own = path.rsplit('/').next().unwrap_or(path);
    let usual = kind_of(own, format).map(|kind| kind.file).or_else(|| format.and_then(default_file_name));
    match (usual, format) {
        (Some(usual), _) if usual == SAVED_MODEL => Err(format!(
            "'{own}' is no TensorFlow model: a SavedModel is a folder with saved_model.pb, a graph a file that ends in .graphdef or .pb"
        )),
        (Some(usual), _) => Ok(usual.to_owned()),
        (None, Some(_)) => Err("an ensemble has no model file of its own".to_owned()),
        (None, None) => Err(format!(
            "the name '{own}' does not say what kind of model it is: set format, or config.defaultModelFilename; an archive has a name that \
             ends with .tar, .tar.gz, .tgz or .zip"
        )),
    }
}

/// The first part of a path.
fn top(path: &str) -> &str {
    path.split_once('/').map_or(path, |(top, _)| top)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `files`, as `FROM>TO`, those that keep their names left out.
    #[track_caller]
    fn check(files: &[&str], format: Option<ModelFormat>, file_name: &str, expect: &[&str]) {
        let renamed = renames(files, format, file_name).unwrap();
        assert_eq!(renamed.into_iter().map(|(from, to)| format!("{from}>{to}")).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn a_model_of_any_format_is_known_by_its_ending() {
        for (from, to) in [
            ("resnet50.onnx", "model.onnx"),
            ("a100.plan", "model.plan"),
            ("yolo.engine", "model.plan"),
            ("risk.pt", "model.pt"),
            ("net.torchscript", "model.pt"),
            ("net.pt2", "model.pt2"),
            ("frozen.pb", "model.graphdef"),
            ("net.graphdef", "model.graphdef"),
            ("net.xml", "model.xml"),
            ("echo.py", "model.py"),
            ("saved_model.pb", "model.savedmodel/saved_model.pb"),
        ] {
            check(&[from], None, "", &[&format!("{from}>{to}")]);
        }
    }

    #[test]
    fn a_saved_model_becomes_the_folder_that_tensorflow_looks_for() {
        let files = [
            "fingerprint.pb",
            "saved_model.pb",
            "variables/variables.data-00000-of-00001",
            "variables/variables.index",
        ];
        let moved = |name: &str| files.map(|file| format!("{file}>{name}/{file}"));
        for format in [None, Some(ModelFormat::Tensorflow)] {
            check(&files, format, "", &moved("model.savedmodel").each_ref().map(String::as_str));
        }
        check(&files, None, "net.savedmodel", &moved("net.savedmodel").each_ref().map(String::as_str));
        check(
            &["net.savedmodel/saved_model.pb", "net.savedmodel/variables/variables.index"],
            None,
            "",
            &[
                "net.savedmodel/saved_model.pb>model.savedmodel/saved_model.pb",
                "net.savedmodel/variables/variables.index>model.savedmodel/variables/variables.index",
            ],
        );
        check(&["model.savedmodel/saved_model.pb", "notes.pb"], None, "", &[]);
        // of two, neither is the model
        check(&["a/saved_model.pb", "b/saved_model.pb"], None, "", &[]);
    }

    #[test]
    fn weights_of_a_network_take_its_name() {
        check(&["net.bin", "net.xml"], None, "", &["net.bin>model.bin", "net.xml>model.xml"]);
        check(&["net.bin", "net.xml", "tokenizer.json"], None, "", &["net.bin>model.bin", "net.xml>model.xml"]);
        check(&["model.bin", "model.xml"], None, "", &[]);
        check(&["net.bin", "net.xml"], None, "other.xml", &["net.bin>other.bin", "net.xml>other.xml"]);
        check(&["other.bin", "other.xml"], None, "other.xml", &[]);
    }

    #[test]
    fn what_a_model_file_refers_to_keeps_its_name() {
        check(&["net.onnx", "net.onnx.data"], None, "", &["net.onnx>model.onnx"]);
        check(&["net.onnx", "weights/a.bin", "weights/b.bin"], None, "", &["net.onnx>model.onnx"]);
        check(&["helpers.py", "model.py", "vocabulary.xml"], None, "", &[]);
    }

    #[test]
    fn a_format_says_which_of_several_it_is() {
        check(&["net.onnx", "net.xml"], None, "", &[]);
        check(&["net.onnx", "net.xml"], Some(ModelFormat::Openvino), "", &["net.xml>model.xml"]);
        check(&["model.onnx", "net.xml"], Some(ModelFormat::Openvino), "", &["net.xml>model.xml"]);
        check(&["model.pt", "model.py"], Some(ModelFormat::Pytorch), "", &[]);
        check(&["net.py"], Some(ModelFormat::Pytorch), "", &["net.py>model.py"]);
        check(&["weights.bin"], Some(ModelFormat::Tensorrt), "", &["weights.bin>model.plan"]);
    }

    #[test]
    fn a_name_of_the_configuration_counts_more() {
        check(&["net.onnx"], None, "net-v2.onnx", &["net.onnx>net-v2.onnx"]);
        check(&["weights.bin"], None, "weights.dat", &["weights.bin>weights.dat"]);
        check(&["net.onnx"], None, "net.onnx", &[]);
        assert!(renames(&["net.onnx"], None, "../net.onnx").is_err());
    }

    #[test]
    fn a_library_written_for_triton_keeps_its_name() {
        check(&["libtriton_mine.so"], None, "", &[]);
        check(&["libtriton_mine.so", "table.csv"], None, "", &[]);
    }

    #[track_caller]
    fn check_error(file: &str, format: Option<ModelFormat>, expect: &str) {
        let error = renames(&[file], format, "").unwrap_err();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn a_lone_file_that_says_nothing_is_refused() {
        check_error("weights.bin", None, "the name 'weights.bin' does not say what kind of model it is: set format");
        check_error("weights.bin", Some(ModelFormat::Tensorflow), "a SavedModel is a folder with saved_model.pb");
        check_error("weights.bin", Some(ModelFormat::Ensemble), "an ensemble has no model file");
    }
}
