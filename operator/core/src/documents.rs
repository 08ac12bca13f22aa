//! Resources out of YAML text: several documents in, typed resources and mistakes with their lines out. It checks what the
//! API server would check with the definition alone (names, types, limits); what the fields mean together is for
//! [`crate::validate`]. Text comes from the caller: nothing here opens a file.

mod check;
mod tree;

use std::{collections::BTreeMap, fmt};

use crds::{TritonModel, TritonServer};
use k8s_openapi::api::core::v1::ConfigMap;

use self::tree::Node;
use crate::{ObjectRef, Problem, names, path};

/// What a text holds.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// The documents without mistakes, in the order of the text.
    pub documents: Vec<Document>,
    /// The mistakes of the others, in the order of the text.
    pub mistakes: Vec<Mistake>,
}

/// One resource and the text it was written in.
#[derive(Clone, Debug)]
pub struct Document {
    /// The resource.
    pub resource: Resource,
    /// The line its document begins at, from 1.
    pub line: usize,
    tree: Node,
}

/// A resource that can be brought up.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A server.
    Server(Box<TritonServer>),
    /// A model.
    Model(Box<TritonModel>),
    /// Files for models.
    ConfigMap(Box<ConfigMap>),
}

/// A mistake in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the text, from 1.
    pub line: usize,
    /// Column in the text, from 1.
    pub column: usize,
    /// The resource it is in, such as `TritonModel digits`; empty where that is not known.
    pub resource: String,
    /// The field, as [`Problem::path`]; empty where the text is not YAML.
    pub path: String,
    /// What is wrong and the cure.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        for part in [&self.resource, &self.path] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

/// Reads every document of `text`.
pub fn read(text: &str) -> Read {
    let mut read = Read::default();
    let trees = match tree::read_all(text) {
        Ok(trees) => trees,
        Err(mistake) => {
            read.mistakes.push(mistake);
            return read;
        }
    };
    let mut seen: BTreeMap<ObjectRef, usize> = BTreeMap::new();
    for tree in trees {
        let line = tree.line;
        match document(tree) {
            Err(mistakes) => read.mistakes.extend(mistakes),
            Ok(document) => {
                let object = document.object();
                if let Some(first) = seen.insert(object.clone(), line) {
                    read.mistakes.push(Mistake {
                        line,
                        column: 1,
                        resource: format!("{} {}", object.kind, object.name),
                        path: "metadata.name".into(),
                        message: format!("the same resource stands at line {first}: keep one of the two"),
                    });
                } else {
                    read.documents.push(document);
                }
            }
        }
    }
    read
}

impl Document {
    /// Which object it is.
    pub fn object(&self) -> ObjectRef {
        match &self.resource {
            Resource::Server(server) => names::object(server.as_ref()),
            Resource::Model(model) => names::object(model.as_ref()),
            Resource::ConfigMap(config_map) => names::object(config_map.as_ref()),
        }
    }

    /// The line a field is written at, or that of the nearest field around it.
    pub fn line_of(&self, path: &str) -> usize {
        self.tree.nearest(&path::steps(path)).0
    }

    /// A problem found later in this resource, as a mistake in its text.
    pub fn mistake(&self, problem: &Problem) -> Mistake {
        let (line, column) = self.tree.nearest(&path::steps(&problem.path));
        Mistake {
            line,
            column,
            resource: format!("{} {}", problem.object.kind, problem.object.name),
            path: problem.path.clone(),
            message: problem.message.clone(),
        }
    }
}

fn document(tree: Node) -> Result<Document, Vec<Mistake>> {
    let text_at = |steps: &[&str]| tree.text_at(steps).unwrap_or_default().to_owned();
    let (api_version, kind) = (text_at(&["apiVersion"]), text_at(&["kind"]));
    let Some(schema) = check::schema_of(&api_version, &kind) else {
        return Err(vec![unknown_kind(&tree, &api_version, &kind)]);
    };
    let name = format!("{kind} {}", text_at(&["metadata", "name"]));
    let mut mistakes = check::check(&tree, &schema);
    if mistakes.is_empty() {
        match resource(&tree, &kind) {
            Ok(resource) => return Ok(Document { resource, line: tree.line, tree }),
            // The schema lets pass what it cannot say, such as base64 that is none.
            Err(error) => mistakes.push(Mistake {
                line: tree.line,
                column: tree.column,
                resource: String::new(),
                path: String::new(),
                message: error.to_string(),
            }),
        }
    }
    mistakes.iter_mut().for_each(|mistake| mistake.resource.clone_from(&name));
    Err(mistakes)
}

fn resource(tree: &Node, kind: &str) -> Result<Resource, serde_json::Error> {
    let value = tree.to_json();
    Ok(match kind {
        "TritonServer" => Resource::Server(Box::new(serde_json::from_value(value)?)),
        "TritonModel" => Resource::Model(Box::new(serde_json::from_value(value)?)),
        _ => Resource::ConfigMap(Box::new(serde_json::from_value(value)?)),
    })
}

fn unknown_kind(tree: &Node, api_version: &str, kind: &str) -> Mistake {
    const ACCEPTED: &str =
        "TritonServer and TritonModel (apiVersion triton-operator.dev/v1alpha1) and ConfigMap (apiVersion v1)";
    let (field, message) = if kind.is_empty() {
        ("kind", format!("the document does not say what it is: it needs apiVersion and kind; accepted are {ACCEPTED}"))
    } else if matches!(kind, "TritonServer" | "TritonModel" | "ConfigMap") {
        ("apiVersion", format!("apiVersion '{api_version}' has no {kind}; accepted are {ACCEPTED}"))
    } else {
        ("kind", format!("kind '{kind}' cannot be brought up here; accepted are {ACCEPTED}"))
    };
    let (line, column) = tree.nearest(&path::steps(field));
    Mistake { line, column, resource: String::new(), path: field.into(), message }
}
