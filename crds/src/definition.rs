//! The definitions a cluster installs, made from the types. The derive gives the bulk; what it cannot say (the status
//! default, quantities, no `null`) is written in here, so that the YAML is what the API server and `kubectl explain` want.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{TritonModel, TritonServer, parts::schema};

/// File name below `crds/yaml` and definition, for each kind.
pub fn all() -> [(&'static str, Value); 2] {
    [("tritonservers.yaml", server()), ("tritonmodels.yaml", model())]
}

/// The definition of `TritonServer` as JSON.
pub fn server() -> Value {
    // A Service is named after it; what other objects may be called is letters, digits, '-' and '.', and digits sort before letters.
    let of_service = ("self.metadata.name >= 'a' && !self.metadata.name.contains('.')", crate::server::NOT_A_SERVICE);
    finished(&TritonServer::crd(), crate::server::NAME_MAX, &[of_service])
}

/// The definition of `TritonModel` as JSON.
pub fn model() -> Value {
    finished(&TritonModel::crd(), crate::model::NAME_MAX, &[])
}

/// The schema of one kind (`TritonServer` or `TritonModel`), as the API server checks objects against it.
pub fn schema_of(kind: &str) -> Option<Value> {
    let mut definition = match kind {
        "TritonServer" => server(),
        "TritonModel" => model(),
        _ => return None,
    };
    Some(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take())
}

/// All definitions as one YAML text of several documents.
pub fn yaml() -> String {
    all().iter().map(|(_, definition)| format!("---\n{}", to_yaml(definition))).collect()
}

/// One definition as YAML.
pub fn to_yaml(definition: &Value) -> String {
    serde_yaml::to_string(definition).expect("a definition holds only what YAML can say")
}

/// Completes what the derive made. `about_names`: rules about metadata.name, beyond its length.
fn finished(derived: &CustomResourceDefinition, name_max: usize, about_names: &[(&str, &str)]) -> Value {
    let mut definition = serde_json::to_value(derived).expect("a definition is plain data");
    let root = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(root);
    // -1 tells kstatus readers that nobody has looked yet; without it an object with no conditions counts as done.
    root["properties"]["status"]["default"] = json!({ "observedGeneration": -1 });
    // Rules about metadata can stand at the root only.
    let rule = format!("self.metadata.name.size() <= {name_max}");
    let message = format!("metadata.name has at most {name_max} characters: choose a shorter one");
    root["x-kubernetes-validations"] = schema::rules(&[&[(rule.as_str(), message.as_str())], about_names].concat());
    definition
}

/// Walks a schema: no `null` in place of a value, whole numbers as numbers, quantities that are quantities.
fn tidy(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("nullable");
    // API servers warn about formats they do not know.
    if fields
        .get("format")
        .is_some_and(|format| !matches!(format.as_str(), Some("int32" | "int64" | "double" | "date-time")))
    {
        fields.remove("format");
    }
    for bound in ["minimum", "maximum"] {
        if let Some(number) = fields.get(bound).and_then(Value::as_f64).filter(|number| number.fract() == 0.0) {
            fields.insert(bound.into(), json!(number as i64));
        }
    }
    if is_quantity(fields) {
        *fields = quantity();
        return;
    }
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = described(text);
    }
    for key in ["properties", "patternProperties"] {
        if let Some(Value::Object(properties)) = fields.get_mut(key) {
            properties.values_mut().for_each(tidy);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(key) {
            tidy(inner);
        }
    }
}

/// A description for `kubectl explain`: its first paragraph on one line, cut after a sentence where the generated types go on
/// for long. The whole definition has to stay below what `kubectl apply` can annotate.
fn described(text: &str) -> String {
    const LONG: usize = 320;
    let paragraph = text.split("\n\n").next().unwrap_or(text).replace('\n', " ");
    match paragraph.char_indices().nth(LONG) {
        Some((end, _)) => match paragraph[..end].rfind(". ") {
            Some(stop) => paragraph[..=stop].to_owned(),
            None => paragraph,
        },
        None => paragraph,
    }
}

/// Whether this is the generated type for quantities: it says "number or text" and nothing about the text.
fn is_quantity(fields: &Map<String, Value>) -> bool {
    let described_as =
        |words: &str| fields.get("description").and_then(Value::as_str).is_some_and(|d| d.starts_with(words));
    fields.contains_key("x-kubernetes-int-or-string")
        && !fields.contains_key("pattern")
        && described_as("Quantity is a")
}

fn quantity() -> Map<String, Value> {
    let quantity = json!({ "x-kubernetes-int-or-string": true, "pattern": schema::QUANTITY });
    match quantity {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
