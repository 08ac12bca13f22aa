//! From the files a source gave to the folder Triton reads: which file goes where. Pure: it sees names only.

mod model_file;

use std::collections::BTreeMap;

use crds::parts::source::{Layout, ModelFormat};

use self::model_file::{renames, weights_of};

/// Where each fetched file goes: from its path in the source to its path in the model's folder.
pub type Moves = BTreeMap<String, String>;

/// Name of the configuration in a model's folder.
pub const CONFIG: &str = "config.pbtxt";

/// What resource and configuration say of the files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// How they are arranged.
    pub layout: Layout,
    /// What kind of model they are.
    pub format: Option<ModelFormat>,
    /// The name that the configuration gives the model's file; none if empty.
    pub file_name: &'a str,
    /// Whether all files keep the names they have: the configuration names several, as for each kind of GPU, or a backend that is
    /// none of ours, which knows its files itself.
    pub keeps_names: bool,
}

/// Decides where the fetched files go.
///
/// `is_bare`: the source is one plain file.
/// Errors: a sentence that says what is missing for the layout asked for.
pub fn arrange<'a>(paths: impl IntoIterator<Item = &'a str>, is_bare: bool, said: &Said<'_>) -> Result<Moves, String> {
    let Said { layout, format, .. } = *said;
    let paths: Vec<&str> = paths.into_iter().collect();
    if is_bare && !said.keeps_names && format.is_none_or(|format| format == ModelFormat::Openvino) {
        paths.iter().try_for_each(|file| has_weights(file))?;
    }
    let wrapper = if is_bare { "" } else { wrapper(&paths) };
    let below = |below: &'a str| paths.iter().filter_map(move |path| path.strip_prefix(below));
    let has_version = |root: &&'a str| below(root).any(|path| version_of(path).is_some());
    let has_config = |root: &&'a str| below(root).any(|path| path == CONFIG);
    let has_only_config =
        |root: &&'a str| has_config(root) && (format == Some(ModelFormat::Ensemble) || paths.len() == 1);
    let roots = ["", wrapper];
    let root = match layout {
        Layout::File => None,
        Layout::Auto if is_bare => None,
        Layout::Auto => roots.into_iter().find(|root| has_version(root) || has_only_config(root)),
        Layout::Repository => roots.into_iter().find(|root| has_version(root) || has_config(root)),
    };
    let moves = match (root, layout) {
        (Some(root), _) => as_repository(&paths, root, has_config(&root), said),
        (None, Layout::Repository) => Err(
            "layout Repository needs config.pbtxt or a folder with a version number, such as 1; the source has neither"
                .to_owned(),
        ),
        (None, Layout::Auto | Layout::File) => as_one_version(&paths, wrapper, said),
    }?;
    each_to_its_own_place(&moves)?;
    Ok(moves)
}

/// Errors: the one file of a source is a network whose weights lie in another file.
fn has_weights(file: &str) -> Result<(), String> {
    match weights_of(file) {
        None => Ok(()),
        Some(weights) => Err(format!(
            "'{file}' is an OpenVINO network, whose weights are in '{weights}' beside it: name the folder of both as the source, or an \
             archive of it"
        )),
    }
}

/// Errors: two files would get the same name, and one of them be lost.
fn each_to_its_own_place(moves: &Moves) -> Result<(), String> {
    let mut taken = BTreeMap::new();
    for (from, to) in moves {
        if let Some(other) = taken.insert(to, from) {
            return Err(format!(
                "'{other}' and '{from}' would both be '{to}': remove one, or set config.defaultModelFilename"
            ));
        }
    }
    Ok(())
}

/// Where among fetched files the model's configuration lies.
pub fn config_path<'a>(paths: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let paths: Vec<&str> = paths.into_iter().collect();
    let wrapper = wrapper(&paths);
    [CONFIG.to_owned(), format!("{wrapper}{CONFIG}")]
        .iter()
        .find_map(|wanted| paths.iter().find(|path| *path == wanted).copied())
}

/// Whether a folder of that name holds a model version: a positive number without leading zeros.
pub fn is_version(name: &str) -> bool {
    !name.starts_with('0')
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_digit())
        && name.parse::<i64>().is_ok()
}

/// Everything stays where it is. Of a folder of versions without a configuration, model files get the names that backends look for.
fn as_repository(paths: &[&str], root: &str, has_config: bool, said: &Said<'_>) -> Result<Moves, String> {
    let rest = |path: &'_ &str| path.strip_prefix(root).map(|rest| ((*path).to_owned(), rest.to_owned()));
    let mut moves: Moves = paths.iter().filter_map(rest).collect();
    if has_config || said.keeps_names {
        return Ok(moves);
    }
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (version, file) in paths.iter().filter_map(|path| version_of(path.strip_prefix(root)?)) {
        versions.entry(version).or_default().push(file);
    }
    for (version, files) in versions {
        // of a lone file that says nothing, the configuration may say all
        for (file, name) in renames(&files, said.format, said.file_name).unwrap_or_default() {
            moves.insert(format!("{root}{version}/{file}"), format!("{version}/{name}"));
        }
    }
    Ok(moves)
}

/// Everything becomes version 1; a configuration stays beside it. Model files get the names that backends look for.
fn as_one_version(paths: &[&str], wrapper: &str, said: &Said<'_>) -> Result<Moves, String> {
    let rest: Vec<&str> = paths.iter().filter_map(|path| path.strip_prefix(wrapper)).collect();
    let files: Vec<&str> = rest.iter().copied().filter(|rest| *rest != CONFIG).collect();
    if files.is_empty() && said.format != Some(ModelFormat::Ensemble) {
        return Err("the source has no model file".to_owned());
    }
    let renamed = if said.keeps_names { BTreeMap::new() } else { renames(&files, said.format, said.file_name)? };
    let place = |file: &str| match renamed.get(file) {
        _ if file == CONFIG => CONFIG.to_owned(),
        Some(name) => format!("1/{name}"),
        None => format!("1/{file}"),
    };
    Ok(rest.into_iter().map(|file| (format!("{wrapper}{file}"), place(file))).collect())
}

/// The version's folder that a file lies in, and its path there.
pub fn version_of(path: &str) -> Option<(&str, &str)> {
    path.split_once('/').filter(|(folder, _)| is_version(folder))
}

/// The one folder which holds everything, with its slash; empty if there is none.
fn wrapper<'a>(paths: &[&'a str]) -> &'a str {
    let Some(first) = paths.first().and_then(|path| path.find('/').map(|end| &path[..=end])) else { return "" };
    if is_version(&first[..first.len() - 1]) || !paths.iter().all(|path| path.starts_with(first)) {
        return "";
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(paths: &[&str], is_bare: bool, layout: Layout, format: Option<ModelFormat>, expect: &[&str]) {
        let moves = arrange(paths.iter().copied(), is_bare, &Said { layout, format, ..Said::default() }).unwrap();
        assert_eq!(moves.into_values().collect::<Vec<_>>(), expect);
    }

    #[test]
    fn a_model_folder_stays_as_it_is() {
        check(
            &["1/model.onnx", "2/model.onnx", "config.pbtxt", "labels.txt"],
            false,
            Layout::Auto,
            None,
            &["1/model.onnx", "2/model.onnx", "config.pbtxt", "labels.txt"],
        );
        check(&["1/model.onnx"], false, Layout::Repository, None, &["1/model.onnx"]);
    }

    #[test]
    fn the_folder_an_archive_wraps_around_it_falls_away() {
        check(&["net/1/model.onnx", "net/config.pbtxt"], false, Layout::Auto, None, &["1/model.onnx", "config.pbtxt"]);
        check(&["net-main/net.onnx"], false, Layout::Auto, None, &["1/model.onnx"]);
    }

    #[test]
    fn a_bare_file_becomes_version_1_under_the_name_its_backend_looks_for() {
        check(&["resnet50.onnx"], true, Layout::Auto, None, &["1/model.onnx"]);
        check(&["weights.bin"], true, Layout::File, Some(ModelFormat::Tensorrt), &["1/model.plan"]);
        let named = Said { file_name: "net-v2.onnx", layout: Layout::File, ..Said::default() };
        assert_eq!(arrange(["net.onnx"], true, &named).unwrap()["net.onnx"], "1/net-v2.onnx");
        assert!(arrange(["weights.bin"], true, &Said::default()).unwrap_err().contains("set format"));
        // a file that happens to be called config.pbtxt is no repository
        assert!(arrange(["config.pbtxt"], true, &Said::default()).is_err());
    }

    #[test]
    fn a_network_comes_with_its_weights() {
        for format in [None, Some(ModelFormat::Openvino)] {
            let said = Said { format, ..Said::default() };
            let error = arrange(["net.xml"], true, &said).unwrap_err();
            assert!(error.contains("weights are in 'net.bin' beside it: name the folder"), "{error}");
            // one without weights may lie in a folder alone
            check(&["net.xml"], false, Layout::Auto, format, &["1/model.xml"]);
            check(&["net.bin", "net.xml"], false, Layout::Auto, format, &["1/model.bin", "1/model.xml"]);
        }
        // what another backend makes of a file of that name is its own affair
        assert!(arrange(["rules.xml"], true, &Said { keeps_names: true, ..Said::default() }).is_ok());
    }

    #[test]
    fn loose_files_become_version_1_together_and_keep_their_names() {
        check(&["model.bin", "model.xml"], false, Layout::Auto, None, &["1/model.bin", "1/model.xml"]);
        check(&["config.pbtxt", "net.onnx"], false, Layout::Auto, None, &["config.pbtxt", "1/model.onnx"]);
        // an ensemble is its configuration
        check(&["config.pbtxt"], false, Layout::Auto, None, &["config.pbtxt"]);
        let ensemble = Some(ModelFormat::Ensemble);
        check(&["config.pbtxt", "labels.txt"], false, Layout::Auto, ensemble, &["config.pbtxt", "labels.txt"]);
    }

    #[test]
    fn a_saved_model_is_known_wherever_it_lies() {
        let model = ["1/model.savedmodel/saved_model.pb", "1/model.savedmodel/variables/variables.index"];
        for paths in [
            ["saved_model.pb", "variables/variables.index"],
            ["net/saved_model.pb", "net/variables/variables.index"],
            ["model.savedmodel/saved_model.pb", "model.savedmodel/variables/variables.index"],
            ["1/saved_model.pb", "1/variables/variables.index"],
            ["net/1/saved_model.pb", "net/1/variables/variables.index"],
            ["net/1/net.savedmodel/saved_model.pb", "net/1/net.savedmodel/variables/variables.index"],
        ] {
            check(&paths, false, Layout::Auto, None, &model);
            check(&paths, false, Layout::Auto, Some(ModelFormat::Tensorflow), &model);
        }
    }

    #[test]
    fn versions_without_a_configuration_get_the_names_that_backends_look_for() {
        let versions = ["net/1/net.bin", "net/1/net.xml", "net/2/net.bin", "net/2/net.xml", "net/README.md"];
        let named = ["1/model.bin", "1/model.xml", "2/model.bin", "2/model.xml", "README.md"];
        check(&versions, false, Layout::Auto, None, &named);
        check(&versions, false, Layout::Repository, Some(ModelFormat::Openvino), &named);
        // a configuration names its files itself, be it in the source or in the resource
        check(&["1/net.plan", "config.pbtxt"], false, Layout::Auto, None, &["1/net.plan", "config.pbtxt"]);
        let said = Said { format: Some(ModelFormat::Tensorrt), keeps_names: true, ..Said::default() };
        assert_eq!(arrange(["1/a100.plan"], false, &said).unwrap()["1/a100.plan"], "1/a100.plan");
        // what it is, the configuration may say
        check(&["1/weights.bin"], false, Layout::Auto, None, &["1/weights.bin"]);
    }

    #[test]
    fn files_of_a_backend_that_is_none_of_ours_keep_their_names() {
        let said = Said { keeps_names: true, ..Said::default() };
        for paths in [
            ["1/config.json", "1/rank0.engine"],
            ["config.json", "rank0.engine"],
            ["1/dali.py", "README.md"],
            ["libtriton_mine.so", "table.xml"],
        ] {
            for (from, to) in arrange(paths, false, &said).unwrap() {
                assert_eq!(to.rsplit('/').next(), from.rsplit('/').next());
            }
        }
        assert_eq!(arrange(["weights.bin"], true, &said).unwrap()["weights.bin"], "1/weights.bin");
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let arranged = |paths: [&str; 3], file_name| {
            let said = Said { file_name, ..Said::default() };
            arrange(paths, false, &said).map(|moves| moves.into_values().collect::<Vec<_>>())
        };
        let error = arranged(["a.bin", "a.xml", "model.bin"], "").unwrap_err();
        assert_eq!(
            error,
            "'a.bin' and 'model.bin' would both be '1/model.bin': remove one, or set config.defaultModelFilename"
        );
        let error = arranged(["1/a.bin", "1/a.xml", "1/model.bin"], "").unwrap_err();
        assert!(error.starts_with("'1/a.bin' and '1/model.bin' would both be '1/model.bin'"), "{error}");
        let named = arranged(["a.bin", "a.xml", "model.bin"], "a.xml");
        assert_eq!(named.unwrap(), ["1/a.bin", "1/a.xml", "1/model.bin"]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let repository = Said { layout: Layout::Repository, ..Said::default() };
        let error = arrange(["net.onnx"], false, &repository).unwrap_err();
        assert!(error.contains("layout Repository needs"), "{error}");
        assert!(arrange([], false, &Said::default()).is_err());
    }

    #[test]
    fn version_folders_are_positive_numbers() {
        for (name, is) in [("1", true), ("20", true), ("01", false), ("0", false), ("v1", false), ("", false)] {
            assert_eq!(is_version(name), is, "{name}");
        }
    }
}
