//! What the fields of a resource mean together, beyond what its definition can say field by field. The rules the API server
//! checks with CEL are here too, word for word in meaning: on one machine there is no API server to ask.

mod ending;
mod hub;
mod model;
mod objects;
mod server;

use crds::parts::source::ModelSource;

use crate::{ObjectRef, Problem, Reason, path::FieldPath, text};

pub use self::{
    model::{INLINE_MAX, model},
    server::server,
};

/// Collects the problems of one resource.
struct Findings {
    object: ObjectRef,
    problems: Vec<Problem>,
}

impl Findings {
    fn new(object: ObjectRef) -> Self {
        Self { object, problems: vec![] }
    }

    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.add_as(Reason::InvalidSpec, path, message);
    }

    fn add_as(&mut self, reason: Reason, path: impl Into<String>, message: impl Into<String>) {
        let object = self.object.clone();
        self.problems.push(Problem { object, reason, path: path.into(), message: message.into() });
    }

    /// A name longer than objects made of it allow.
    fn check_name(&mut self, max: usize) {
        let length = self.object.name.chars().count();
        if length == 0 {
            self.add("metadata.name", "is missing: every resource needs a name");
        } else if length > max {
            self.add("metadata.name", format!("has {length} characters, the most is {max}: choose a shorter one"));
        }
    }

    /// A path below a folder that must stay inside it.
    fn check_path_inside(&mut self, path: impl Into<String>, written: &str, folder: &str) {
        if let Some(why) = leaves_its_folder(written) {
            self.add(path, format!("'{written}' {why}: write a path relative to {folder}, such as 1/model.onnx"));
        }
    }
}

/// Why a path that should name something below a folder does not.
fn leaves_its_folder(path: &str) -> Option<&'static str> {
    if path.starts_with('/') {
        return Some("is absolute");
    }
    if path.contains(|c| c == '\\' || text::is_hidden(c)) {
        return Some("has a character that paths here cannot have");
    }
    path.split('/').find_map(|part| match part {
        ".." => Some("leaves its folder by '..'"),
        "" => Some("has an empty part"),
        "." => Some("has a part '.'"),
        _ => None,
    })
}

/// How many of the alternatives of a source are given, by name.
fn alternatives(source: &ModelSource) -> Vec<&'static str> {
    [
        ("inline", source.inline.is_some()),
        ("configMap", source.config_map.is_some()),
        ("pvc", source.pvc.is_some()),
        ("http", source.http.is_some()),
        ("s3", source.s3.is_some()),
        ("gcs", source.gcs.is_some()),
        ("azure", source.azure.is_some()),
        ("huggingFace", source.hugging_face.is_some()),
        ("oci", source.oci.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect()
}

/// The one alternative of a source that is given, by name.
pub(crate) fn kind_of(source: &ModelSource) -> &'static str {
    alternatives(source).first().copied().unwrap_or_default()
}

fn spec(field: &str) -> FieldPath {
    FieldPath::default().field("spec").field(field)
}

#[cfg(test)]
mod tests {
    use super::leaves_its_folder;

    #[test]
    fn only_paths_below_their_folder_are_taken() {
        for path in ["1/model.onnx", "a", "a..b/c", "..a", "1/.hidden"] {
            assert_eq!(leaves_its_folder(path), None, "{path}");
        }
        for path in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\0",
            "con\nfig",
            "\u{1b}[31m",
            "\u{202e}gpj.a",
        ] {
            assert!(leaves_its_folder(path).is_some(), "{path}");
        }
    }
}
