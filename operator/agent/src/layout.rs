//! From the files a source gave to the folder Triton reads: which file goes where. Pure: it sees names only.

use std::collections::BTreeMap;

use crds::parts::source::{Layout, ModelFormat};

/// Where each fetched file goes: from its path in the source to its path in the model's folder.
pub type Moves = BTreeMap<String, String>;

/// Name of the configuration in a model's folder.
pub const CONFIG: &str = "config.pbtxt";

/// Decides where the fetched files go.
///
/// `is_bare`: the source is one plain file. `file_name`: the name its configuration gives the model's file, if any.
/// Errors: a sentence that says what is missing for the layout asked for.
pub fn arrange<'a>(
    paths: impl IntoIterator<Item = &'a str>,
    is_bare: bool,
    layout: Layout,
    format: Option<ModelFormat>,
    file_name: Option<&str>,
) -> Result<Moves, String> {
    let paths: Vec<&str> = paths.into_iter().collect();
    let wrapper = if is_bare { "" } else { wrapper(&paths) };
    let below = |below: &'a str| paths.iter().filter_map(move |path| path.strip_prefix(below));
    let has_version =
        |root: &&'a str| below(root).any(|path| path.split_once('/').is_some_and(|(top, _)| is_version(top)));
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
    match (root, layout) {
        (Some(below), _) => Ok(paths
            .iter()
            .filter_map(|path| path.strip_prefix(below).map(|rest| ((*path).to_owned(), rest.to_owned())))
            .collect()),
        (None, Layout::Repository) => Err(
            "layout Repository needs config.pbtxt or a folder with a version number, such as 1; the source has neither"
                .to_owned(),
        ),
        (None, Layout::Auto | Layout::File) => as_one_version(&paths, wrapper, format, file_name),
    }
}

/// Where among fetched files the model's configuration lies.
pub fn config_path<'a>(paths: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let paths: Vec<&str> = paths.into_iter().collect();
    let wrapper = wrapper(&paths);
    [CONFIG.to_owned(), format!("{wrapper}{CONFIG}")]
        .iter()
        .find_map(|wanted| paths.iter().find(|path| *path == wanted).copied())
}

/// The name a model file has within its version folder unless the configuration says otherwise.
pub const fn default_file_name(format: ModelFormat) -> Option<&'static str> {
    match format {
        ModelFormat::Onnx => Some("model.onnx"),
        ModelFormat::Tensorrt => Some("model.plan"),
        ModelFormat::Pytorch => Some("model.pt"),
        ModelFormat::Tensorflow => Some("model.savedmodel"),
        ModelFormat::Openvino => Some("model.xml"),
        ModelFormat::Python => Some("model.py"),
        ModelFormat::Ensemble => None,
    }
}

/// Whether a folder of that name holds a model version: a positive number without leading zeros.
pub fn is_version(name: &str) -> bool {
    !name.starts_with('0')
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_digit())
        && name.parse::<i64>().is_ok()
}

/// Everything becomes version 1; a configuration stays beside it.
fn as_one_version(
    paths: &[&str],
    wrapper: &str,
    format: Option<ModelFormat>,
    file_name: Option<&str>,
) -> Result<Moves, String> {
    let rest: Vec<(&str, &str)> =
        paths.iter().filter_map(|path| path.strip_prefix(wrapper).map(|rest| (*path, rest))).collect();
    let models: Vec<&str> = rest.iter().map(|(_, rest)| *rest).filter(|rest| *rest != CONFIG).collect();
    // a lone file gets the name the backend looks for
    let rename = match models.as_slice() {
        [] if format == Some(ModelFormat::Ensemble) => None,
        [] => return Err("the source has no model file".to_owned()),
        [one] => Some((*one, wanted_name(one, format, file_name)?)),
        _ => None,
    };
    Ok(rest
        .into_iter()
        .map(|(path, rest)| {
            let to = match &rename {
                _ if rest == CONFIG => CONFIG.to_owned(),
                Some((one, name)) if *one == rest => format!("1/{name}"),
                _ => format!("1/{rest}"),
            };
            (path.to_owned(), to)
        })
        .collect())
}

fn wanted_name(path: &str, format: Option<ModelFormat>, file_name: Option<&str>) -> Result<String, String> {
    if let Some(name) = file_name.filter(|name| !name.is_empty()) {
        return crate::verify::clean_path(name);
    }
    let own = path.rsplit('/').next().unwrap_or(path);
    let by_ending = |(ending, format): (&str, ModelFormat)| own.ends_with(ending).then_some(format);
    let format = format.or_else(|| ENDINGS.into_iter().find_map(by_ending));
    match format.map(default_file_name) {
        Some(Some(name)) => Ok(name.to_owned()),
        Some(None) => Err("an ensemble has no model file of its own".to_owned()),
        None => Err(format!(
            "it cannot be told from the name '{own}' what kind of model it is: set format, or config.defaultModelFilename"
        )),
    }
}

const ENDINGS: [(&str, ModelFormat); 5] = [
    (".onnx", ModelFormat::Onnx),
    (".plan", ModelFormat::Tensorrt),
    (".pt", ModelFormat::Pytorch),
    (".xml", ModelFormat::Openvino),
    (".py", ModelFormat::Python),
];

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
        let moves = arrange(paths.iter().copied(), is_bare, layout, format, None).unwrap();
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
        let named = arrange(["net.onnx"], true, Layout::File, None, Some("net-v2.onnx")).unwrap();
        assert_eq!(named["net.onnx"], "1/net-v2.onnx");
        assert!(arrange(["weights.bin"], true, Layout::Auto, None, None).unwrap_err().contains("set format"));
        // a file that happens to be called config.pbtxt is no repository
        assert!(arrange(["config.pbtxt"], true, Layout::Auto, None, None).is_err());
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
    fn what_is_missing_is_said() {
        let error = arrange(["net.onnx"], false, Layout::Repository, None, None).unwrap_err();
        assert!(error.contains("layout Repository needs"), "{error}");
        assert!(arrange([], false, Layout::Auto, None, None).is_err());
    }

    #[test]
    fn version_folders_are_positive_numbers() {
        for (name, is) in [("1", true), ("20", true), ("01", false), ("0", false), ("v1", false), ("", false)] {
            assert_eq!(is_version(name), is, "{name}");
        }
    }
}
