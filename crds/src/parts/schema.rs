//! Helpers for the schemas of the kinds.

use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

/// What the text of a Kubernetes quantity must look like; generated types carry no pattern of their own.
pub const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// CEL rules with their messages, as `x-kubernetes-validations` wants them.
pub(crate) fn rules(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({ "rule": rule, "message": message })).collect()
}

/// Takes the description off an enum's own schema, where it would hide that of the field.
pub(crate) fn without_description(schema: &mut Schema) {
    schema.remove("description");
}

/// A list whose items are told apart by one of their fields, so that several writers can own an item each.
pub(crate) fn list_by_type<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<Vec<T>>();
    schema.insert("x-kubernetes-list-type".into(), json!("map"));
    schema.insert("x-kubernetes-list-map-keys".into(), json!(["type"]));
    schema
}
