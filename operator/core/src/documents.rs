//! Resources out of YAML text: several documents in, typed resources and mistakes with their lines out. It checks what the
//! API server would check with the definition alone (names, types, limits); what the fields mean together is for
//! [`crate::validate`]. Text comes from the caller: nothing here opens a file.

mod base64;
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
    let name = format!("{kind} {}", text_at(&["metadata", "name"])).trim_end().to_owned();
    let mut mistakes = check::check(&tree, schema);
    if mistakes.is_empty() && kind == "ConfigMap" {
        mistakes = base64::check(&tree);
    }
    if mistakes.is_empty() {
        match resource(&tree, &kind) {
            Ok(resource) => return Ok(Document { resource, line: tree.line, tree }),
            // Whatever the schema cannot say.
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
        _ => Resource::ConfigMap(Box::new(serde_json::from_value(base64::without_breaks(value))?)),
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

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = "\
# a comment
kind: TritonModel
apiVersion: triton-operator.dev/v1alpha1
metadata: {name: m}
spec:
  serverRef: {name: s}
  source:
    inline:
      files:
        1/model.py: pass
  config:
    dynamicBatching:
      preferredBatchSize:
      - 4
      - 8
";

    #[track_caller]
    fn only(text: &str) -> Document {
        let read = read(text);
        assert_eq!(read.mistakes, []);
        read.documents.into_iter().next().unwrap()
    }

    #[test]
    fn a_path_leads_to_its_line_or_to_that_of_the_nearest_field_around_it() {
        let document = only(MODEL);
        for (path, line) in [
            ("spec.config.dynamicBatching.preferredBatchSize[1]", 15),
            ("spec.config.dynamicBatching.preferredBatchSize[7]", 13),
            (r#"spec.source.inline.files["1/model.py"]"#, 10),
            ("spec.config.maxBatchSize", 11),
            ("metadata.name", 4),
            ("status", 2),
        ] {
            assert_eq!(document.line_of(path), line, "{path}");
        }
    }

    #[test]
    fn anchors_aliases_and_empty_documents_are_read() {
        let text = format!("---\n# nothing\n---\n{MODEL}---\n{}", MODEL.replace("{name: m}", "{name: other}"));
        let read = read(&text);
        assert_eq!(read.mistakes, []);
        assert_eq!(read.documents.len(), 2);
        let aliased =
            MODEL.replace("name: m", "name: &name m").replace("serverRef: {name: s}", "serverRef: {name: *name}");
        let Resource::Model(model) = only(&aliased).resource else { panic!("a TritonModel was written") };
        assert_eq!(model.spec.server_ref.name, "m");
    }

    #[test]
    fn a_config_map_may_carry_as_much_as_a_cluster_would_take() {
        let base64 = "AAEC".repeat(256 * 1024);
        let text =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\nbinaryData: {{m.onnx: {base64}}}\n");
        let Resource::ConfigMap(config_map) = only(&text).resource else { panic!("a ConfigMap was written") };
        assert_eq!(config_map.binary_data.unwrap()["m.onnx"].0.len(), 3 * 256 * 1024);
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            text += &format!("a{level}: &a{level} [{below}]\n");
        }
        let read = read(&text);
        assert!(read.documents.is_empty());
        assert_eq!(read.mistakes.len(), 1);
    }
}
