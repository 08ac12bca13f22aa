//! Resources out of text, as kubectl takes it: YAML or JSON, several documents, Lists of them, in; typed resources and
//! mistakes with their lines out. It checks what the API server would check with the definition alone (names, types, limits); what the fields mean together is for
//! [`crate::validate`]. Text comes from the caller: nothing here opens a file.

mod base64;
mod check;
mod json;
mod list;
mod mistake;
mod tree;

use std::collections::BTreeMap;

use crds::{TritonModel, TritonServer};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

pub use self::mistake::Mistake;
use self::tree::Node;
use crate::{ObjectRef, Problem, names, path};

/// What a text holds.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// The documents without mistakes, in the order of the text.
    pub documents: Vec<Document>,
    /// The mistakes of the others, in the order of the text.
    pub mistakes: Vec<Mistake>,
    /// Resources of kinds that only a cluster needs, as `KIND NAME`.
    pub not_needed: Vec<String>,
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
    /// What opens the sources of models.
    Secret(Box<Secret>),
}

/// Reads every document of `text`.
pub fn read(text: &str) -> Read {
    let mut read = Read::default();
    let trees = match json::read_all(text).unwrap_or_else(|| tree::read_all(text)) {
        Ok(trees) => trees,
        Err(mistake) => {
            read.mistakes.push(mistake);
            return read;
        }
    };
    let mut seen: BTreeMap<ObjectRef, usize> = BTreeMap::new();
    for tree in list::items(trees, &mut read.mistakes) {
        let line = tree.line;
        if let Some(title) = not_needed(&tree) {
            read.not_needed.push(title);
            continue;
        }
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
            Resource::Secret(secret) => names::object(secret.as_ref()),
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
    let base64_field = base64::field_of(&kind);
    if let Some(field) = base64_field.filter(|_| mistakes.is_empty()) {
        mistakes = base64::check(&tree, field);
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
        "Secret" => Resource::Secret(Box::new(serde_json::from_value(base64::without_breaks(value, base64::SECRET))?)),
        _ => Resource::ConfigMap(Box::new(serde_json::from_value(base64::without_breaks(value, base64::CONFIG_MAP))?)),
    })
}

/// Kinds that are brought up.
const KINDS: [&str; 4] = ["TritonServer", "TritonModel", "ConfigMap", "Secret"];

/// What a resource is that only a cluster needs: a Namespace, a Deployment, a kustomization. One of our own group, or one that
/// does not say what it is, is a mistake instead.
fn not_needed(tree: &Node) -> Option<String> {
    let (api_version, kind) = (tree.text_at(&["apiVersion"])?, tree.text_at(&["kind"])?);
    let group = crds::API_VERSION.split('/').next().unwrap_or_default();
    let is_ours = KINDS.contains(&kind) || api_version.starts_with(&format!("{group}/"));
    let is_named = !api_version.is_empty() && !kind.is_empty();
    let name = tree.text_at(&["metadata", "name"]).unwrap_or_default();
    (is_named && !is_ours).then(|| format!("{kind} {name}").trim_end().to_owned())
}

fn unknown_kind(tree: &Node, api_version: &str, kind: &str) -> Mistake {
    const ACCEPTED: &str =
        "TritonServer and TritonModel (apiVersion triton-operator.dev/v1alpha1), ConfigMap and Secret (apiVersion v1)";
    let (field, message) = if kind.is_empty() {
        ("kind", format!("the document does not say what it is: it needs apiVersion and kind; accepted are {ACCEPTED}"))
    } else if KINDS.contains(&kind) {
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
    fn what_kubectl_prints_and_takes_is_read() {
        let list = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  \
                    metadata: {name: a, uid: x, managedFields: []}\n- apiVersion: v1\n  kind: List\n  items:\n  - {apiVersion: v1, \
                    kind: ConfigMap, metadata: {name: b}}\n- apiVersion: v1\n  kind: ConfigMapList\n  items:\n  - metadata: {name: c}\n";
        let json = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"a\"}, \"data\": {\"k\": \"\\ud83d\\ude00\\/\"}\n}\n\
                    {\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\",\n \"metadata\": {\"name\": \"b\"}}{\"apiVersion\": \"v1\", \"kind\": \
                    \"ConfigMap\", \"metadata\": {\"name\": \"c\"}}";
        for text in [list, json] {
            let read = read(text);
            assert_eq!(read.mistakes, [], "{text}");
            let names: Vec<_> = read.documents.iter().map(|document| document.object().name).collect();
            assert_eq!(names, ["a", "b", "c"], "{text}");
        }
        let Resource::ConfigMap(first) = &read(json).documents[0].resource else { panic!("a ConfigMap was written") };
        assert_eq!(first.data.as_ref().unwrap()["k"], "😀/");
        assert_eq!(read(json).documents.iter().map(|document| document.line).collect::<Vec<_>>(), [1, 4, 5]);
        let wrong = json.replace("\"name\": \"b\"", "\"nam\": \"b\"");
        assert_eq!(read(&wrong).mistakes[0].line, 5, "{:?}", read(&wrong).mistakes);
        assert_eq!(read("apiVersion: v1\nkind: List\nitems: 7\n").mistakes[0].line, 3);
        assert!(read("apiVersion: v1\nkind: List\nitems:\n").documents.is_empty());
    }

    #[test]
    fn what_only_a_cluster_needs_is_named_and_a_secret_is_read() {
        let read = read(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: ml}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: \
             web}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: token}\ntype: Opaque\ndata: {token: c2VzYW1l}\nstringData: {b: \
             x}\n---\napiVersion: triton-operator.dev/v1\nkind: TritonThing\nmetadata: {name: x}\n---\nmetadata: {name: y}\n",
        );
        assert_eq!(read.not_needed, ["Namespace ml", "Deployment web"]);
        let Resource::Secret(secret) = &read.documents[0].resource else { panic!("a Secret was written") };
        assert_eq!(secret.data.as_ref().unwrap()["token"].0, b"sesame");
        assert_eq!(read.mistakes.len(), 2, "{:?}", read.mistakes);
        let wrong = super::read("apiVersion: v1\nkind: Secret\nmetadata: {name: token}\ndata: {token: '?'}\n");
        assert!(wrong.mistakes[0].message.contains("base64"), "{:?}", wrong.mistakes);
    }

    #[test]
    fn fields_without_a_value_are_as_if_they_were_not_written() {
        let text = MODEL
            .replace("spec:\n", "  labels:\nspec:\n  priority: ~\n  versions: null\n")
            .replace("{name: m}", "\n  name: m");
        let Resource::Model(model) = only(&text).resource else { panic!("a TritonModel was written") };
        assert_eq!((model.spec.priority, &model.spec.versions), (None, &None));
        let wrong = read(&MODEL.replace("name: s", "name:"));
        assert!(wrong.mistakes[0].message.contains("required field 'name' is missing"), "{:?}", wrong.mistakes);
        assert_eq!(read(&MODEL.replace("- 8", "-")).mistakes[0].line, 15, "an item of a list is not a field");
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
