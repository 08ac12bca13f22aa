//! The generated definitions: committed as they are generated, structural, and small enough for `kubectl apply`.
//! `UPDATE=1 cargo test -p crds` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::{fs, path::PathBuf};

use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("yaml")
}

#[test]
fn the_committed_yaml_is_what_the_types_generate() {
    for (file, definition) in crds::definition::all() {
        let path = folder().join(file);
        let generated = crds::definition::to_yaml(&definition);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &generated).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == generated, "{} is stale: run UPDATE=1 cargo test -p crds", path.display());
    }
}

#[test]
fn the_yaml_reads_back_as_the_same_definition() {
    for (_, definition) in crds::definition::all() {
        let text = crds::definition::to_yaml(&definition);
        let back: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(back, definition);
    }
}

#[test]
fn a_definition_is_small_enough_for_client_side_apply() {
    for (file, definition) in crds::definition::all() {
        let bytes = crds::definition::to_yaml(&definition).len();
        assert!(bytes < 160 * 1024, "{file} has {bytes} bytes; kubectl apply stops at 262144");
    }
}

/// Calls `visit` with the path and fields of every schema below `schema`.
fn walk(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, inner) in properties {
            walk(&format!("{path}.{name}"), inner, visit);
        }
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            walk(&format!("{path}[]"), &schema[key], visit);
        }
    }
}

fn each_schema(visit: &mut dyn FnMut(&str, &Value)) {
    for kind in ["TritonServer", "TritonModel"] {
        walk(kind, &crds::definition::schema_of(kind).unwrap(), visit);
    }
}

#[test]
fn every_schema_is_structural() {
    const KNOWN: [&str; 25] = [
        "additionalProperties",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "properties",
        "required",
        "title",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    ];
    each_schema(&mut |path, schema| {
        for key in schema.as_object().unwrap_or_else(|| panic!("{path} is no schema")).keys() {
            assert!(KNOWN.contains(&key.as_str()), "{path} has '{key}'");
        }
        let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
        assert!(typed, "{path} has no type");
        if schema["type"] == "array" {
            assert!(schema["items"].is_object(), "{path} says nothing about its items");
        }
        if schema["type"] == "object" && !path.ends_with(".metadata") && !path.ends_with(".all") {
            assert!(
                schema["properties"].is_object()
                    || schema["additionalProperties"].is_object()
                    || schema["x-kubernetes-preserve-unknown-fields"] == true,
                "{path} takes any field"
            );
        }
    });
}

#[test]
fn every_field_is_described() {
    each_schema(&mut |path, schema| {
        if !path.ends_with("[]") {
            let text = schema["description"].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "kubectl explain has nothing to say about {path}");
        }
    });
}

#[test]
fn no_field_of_ours_defaults_in_the_cluster_but_the_first_status() {
    let mut defaults = vec![];
    each_schema(&mut |path, schema| {
        if !schema["default"].is_null() {
            defaults.push(path.to_owned());
        }
    });
    assert_eq!(defaults, ["TritonServer.status", "TritonModel.status"]);
}

#[test]
fn a_definition_has_no_empty_lists() {
    fn check(path: &str, value: &Value) {
        match value {
            Value::Array(items) => {
                assert!(!items.is_empty(), "{path} is an empty list: GitOps tools see it change forever");
                items.iter().enumerate().for_each(|(i, item)| check(&format!("{path}[{i}]"), item));
            }
            Value::Object(fields) => fields.iter().for_each(|(name, field)| check(&format!("{path}.{name}"), field)),
            Value::Null => panic!("{path} is null"),
            _ => {}
        }
    }
    for (file, definition) in crds::definition::all() {
        check(file, &definition);
    }
}
