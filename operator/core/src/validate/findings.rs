//! What is found wrong with one resource, and where.

use super::forms::leaves_its_folder;
use crate::{ObjectRef, Problem, Reason, path::FieldPath};

/// Collects the problems of one resource.
pub(super) struct Findings {
    pub(super) object: ObjectRef,
    pub(super) problems: Vec<Problem>,
}

impl Findings {
    pub(super) fn new(object: ObjectRef) -> Self {
        Self { object, problems: vec![] }
    }

    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.add_as(Reason::InvalidSpec, path, message);
    }

    pub(super) fn add_as(&mut self, reason: Reason, path: impl Into<String>, message: impl Into<String>) {
        let object = self.object.clone();
        self.problems.push(Problem { object, reason, path: path.into(), message: message.into() });
    }

    /// A name longer than objects made of it allow.
    pub(super) fn check_name(&mut self, max: usize) {
        let length = self.object.name.chars().count();
        if length == 0 {
            self.add("metadata.name", "is missing: every resource needs a name");
        } else if length > max {
            self.add("metadata.name", format!("has {length} characters, the most is {max}: choose a shorter one"));
        }
    }

    /// A path below a folder that must stay inside it.
    pub(super) fn check_path_inside(&mut self, path: impl Into<String>, written: &str, folder: &str) {
        if let Some(why) = leaves_its_folder(written) {
            self.add(path, format!("'{written}' {why}: write a path relative to {folder}, such as 1/model.onnx"));
        }
    }
}

/// A field of the spec.
pub(super) fn spec(field: &str) -> FieldPath {
    FieldPath::default().field("spec").field(field)
}
