//! A document against the definition of its kind: names, types, limits. Every mistake is reported with its place. The rules of
//! the definition that weigh several fields are left to [`crate::validate`], which knows them by heart.

use std::{collections::HashMap, sync::OnceLock};

use crds::parts;
use regex_lite::Regex;
use serde_json::{Map, Value as Json, json};

use super::{
    Mistake,
    tree::{Node, Value},
};
use crate::{names, path::FieldPath};

/// The schema of a kind, with what the API server knows by itself about every object.
pub(super) fn schema_of(api_version: &str, kind: &str) -> Option<&'static Json> {
    static SERVER: OnceLock<Json> = OnceLock::new();
    static MODEL: OnceLock<Json> = OnceLock::new();
    static CONFIG_MAP: OnceLock<Json> = OnceLock::new();
    static SECRET: OnceLock<Json> = OnceLock::new();
    let defined = || crds::definition::schema_of(kind).unwrap_or_default();
    match (api_version, kind) {
        (crds::API_VERSION, "TritonServer") => {
            Some(SERVER.get_or_init(|| completed(defined(), crds::server::NAME_MAX)))
        }
        (crds::API_VERSION, "TritonModel") => Some(MODEL.get_or_init(|| completed(defined(), crds::model::NAME_MAX))),
        ("v1", "Secret") => Some(SECRET.get_or_init(|| completed(secret(), 253))),
        ("v1", "ConfigMap") => Some(CONFIG_MAP.get_or_init(|| completed(config_map(), 253))),
        _ => None,
    }
}

fn completed(mut schema: Json, name_max: usize) -> Json {
    let text = json!({ "type": "string" });
    for (name, field) in [("apiVersion", text.clone()), ("kind", text), ("metadata", metadata(name_max))] {
        schema["properties"][name] = field;
    }
    if let Some(required) = schema["required"].as_array_mut() {
        required.push(json!("metadata"));
    }
    schema
}

/// What is wrong with `tree`, in the order of the text.
pub(super) fn check(tree: &Node, schema: &Json) -> Vec<Mistake> {
    let mut mistakes = vec![];
    value(tree, schema, &FieldPath::default(), (tree.line, tree.column), &mut mistakes);
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    mistakes
}

const NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

fn metadata(name_max: usize) -> Json {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let name = if name_max == 253 { parts::reference::NAME_PATTERN } else { NAME };
    let any = json!({});
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": name_max, "pattern": name },
            "namespace": { "type": "string", "minLength": 1, "maxLength": 63, "pattern": NAME },
            "labels": texts,
            "annotations": texts,
            "creationTimestamp": any,
            "deletionGracePeriodSeconds": any,
            "deletionTimestamp": any,
            "finalizers": any,
            "generateName": any,
            "generation": any,
            "managedFields": any,
            "ownerReferences": any,
            "resourceVersion": any,
            "selfLink": any,
            "uid": any,
        },
    })
}

fn config_map() -> Json {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    json!({
        "type": "object",
        "required": [],
        "properties": { "data": texts, "binaryData": texts, "immutable": { "type": "boolean" } },
    })
}

fn secret() -> Json {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    json!({
        "type": "object",
        "required": [],
        "properties": {
            "data": texts, "stringData": texts, "immutable": { "type": "boolean" }, "type": { "type": "string" },
        },
    })
}

/// Checks one value. `place` is where its key is written: mistakes about the value as a whole are reported there.
fn value(node: &Node, schema: &Json, path: &FieldPath, place: (usize, usize), mistakes: &mut Vec<Mistake>) {
    let mut report = |message: String| mistakes.push(mistake(place, path, message));
    let Some(schema) = schema.as_object().filter(|schema| !schema.is_empty()) else { return };
    if matches!(node.value, Value::Null) {
        return report(format!("has no value; it needs {}", wanted(schema)));
    }
    let number_or_text = schema.get("x-kubernetes-int-or-string").is_some();
    match &node.value {
        Value::Map(_) if is(schema, "object") => map(node, schema, path, mistakes),
        Value::List(items) if is(schema, "array") => {
            let limit =
                |name| schema.get(name).and_then(Json::as_u64).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            if let Some(max) = limit("maxItems").filter(|max| items.len() > *max) {
                report(format!("has {} items, the most is {max}", items.len()));
            }
            if let Some(min) = limit("minItems").filter(|min| items.len() < *min) {
                report(format!("has {} items, the least is {min}", items.len()));
            }
            for (at, item) in items.iter().enumerate() {
                value(item, &schema["items"], &path.index(at), (item.line, item.column), mistakes);
            }
        }
        Value::Bool(_) if is(schema, "boolean") => {}
        Value::Number(number)
            if is(schema, "number") || (!number.is_f64() && (number_or_text || is(schema, "integer"))) =>
        {
            if let Some(message) = out_of_range(number.as_f64().unwrap_or(f64::MAX), schema) {
                report(format!("is {number}, {message}"));
            }
        }
        Value::Text(text) if number_or_text || is(schema, "string") => {
            if let Some(message) = wrong_text(text, schema) {
                report(message);
            }
        }
        other => match unit_hint(other, schema) {
            Some(meaning) => report(format!("is {}; it needs {meaning}", found(other))),
            None => report(format!("is {}; it needs {}{}", found(other), wanted(schema), quotes_hint(other, schema))),
        },
    }
}

fn map(node: &Node, schema: &Map<String, Json>, path: &FieldPath, mistakes: &mut Vec<Mistake>) {
    let Value::Map(entries) = &node.value else { return };
    let none = Map::new();
    let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&none);
    // what another API defines is left to it
    let opaque = schema.get("x-kubernetes-preserve-unknown-fields").map(|_| &Json::Null);
    let any_key = schema.get("additionalProperties").or(opaque);
    for entry in entries {
        let path = path.field(&entry.key);
        let place = (entry.line, entry.column);
        match properties.get(&entry.key).or(any_key) {
            Some(inner) => value(&entry.node, inner, &path, place, mistakes),
            None => {
                let hint = match closest(&entry.key, properties.keys()) {
                    Some(name) => format!("; did you mean '{name}'?"),
                    None if properties.is_empty() => "; it has no fields".into(),
                    None => format!("; known are {}", list(properties.keys())),
                };
                mistakes.push(mistake(place, &path, format!("unknown field '{}'{hint}", entry.key)));
            }
        }
    }
    for required in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
        if !entries.iter().any(|entry| entry.key == required) {
            let about = properties.get(required).and_then(|field| field["description"].as_str()).unwrap_or_default();
            let about = about.split_once(". ").map_or(about, |(first, _)| first).trim_end_matches('.');
            let about = if about.is_empty() { String::new() } else { format!(" ({about})") };
            let message = format!("required field '{required}' is missing{about}");
            mistakes.push(mistake((node.line, node.column), &path.field(required), message));
        }
    }
    let limit = |name| schema.get(name).and_then(Json::as_u64).unwrap_or(u64::MAX);
    if entries.len() as u64 > limit("maxProperties") {
        let message = format!("has {} entries, the most is {}", entries.len(), limit("maxProperties"));
        mistakes.push(mistake((node.line, node.column), path, message));
    }
    if schema.get("minProperties").and_then(Json::as_u64).is_some_and(|min| (entries.len() as u64) < min) {
        mistakes.push(mistake((node.line, node.column), path, "has no entries".into()));
    }
}

fn mistake((line, column): (usize, usize), path: &FieldPath, message: String) -> Mistake {
    Mistake { line, column, resource: String::new(), path: path.to_string(), message }
}

fn is(schema: &Map<String, Json>, type_: &str) -> bool {
    schema.get("type").and_then(Json::as_str) == Some(type_)
}

fn out_of_range(number: f64, schema: &Map<String, Json>) -> Option<String> {
    let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
    match (bound("minimum"), bound("maximum")) {
        (Some(min), _) if number < min => Some(format!("the least is {min}")),
        (_, Some(max)) if number > max => Some(format!("the most is {max}")),
        _ if schema.get("format").is_some_and(|format| format == "int32") && number > f64::from(i32::MAX) => {
            Some(format!("the most is {}", i32::MAX))
        }
        _ if schema.get("format").is_some_and(|format| format == "int32") && number < f64::from(i32::MIN) => {
            Some(format!("the least is {}", i32::MIN))
        }
        _ => None,
    }
}

fn wrong_text(text: &str, schema: &Map<String, Json>) -> Option<String> {
    let length = text.chars().count() as u64;
    let limit = |name| schema.get(name).and_then(Json::as_u64);
    if let Some(max) = limit("maxLength").filter(|max| length > *max) {
        return Some(format!("has {length} characters, the most is {max}"));
    }
    if limit("minLength").is_some_and(|min| length < min) {
        return Some("is empty".into());
    }
    if let Some(words) = schema.get("enum").and_then(Json::as_array) {
        let words: Vec<String> = words.iter().filter_map(Json::as_str).map(str::to_owned).collect();
        if !words.iter().any(|word| word == text) {
            let hint = closest(text, words.iter()).map(|word| format!("; did you mean '{word}'?")).unwrap_or_default();
            return Some(format!("'{text}' is not one of {}{hint}", list(words.iter())));
        }
    }
    let pattern = schema.get("pattern").and_then(Json::as_str)?;
    (!matches(pattern, text)).then(|| match meaning(pattern) {
        Some(meaning) => format!("'{text}' is not {meaning}"),
        None => format!("'{text}' does not match {pattern}"),
    })
}

/// What a pattern of the definitions stands for, in words.
fn meaning(pattern: &str) -> Option<&'static str> {
    use crds::model::MODEL_NAME_PATTERN;
    Some(match pattern {
        parts::duration::PATTERN => {
            "a duration: write whole numbers with the units h, m, s or ms, such as 30s or 1h30m"
        }
        parts::bytes::PATTERN => "a number of bytes: write a number with Ki, Mi, Gi, Ti or k, M, G, T, such as 4Gi",
        parts::gpu::PERCENT_PATTERN => "a share: write a whole number from 0% to 100%",
        parts::source::SHA256_PATTERN => "a SHA-256: write its 64 hexadecimal digits",
        parts::source::URI_PATTERN => "an address: it begins with http:// or https:// and a host, and has no spaces",
        parts::QUANTITY_PATTERN => "a quantity: write a number, if need be with a unit, such as 500m or 16Gi",
        MODEL_NAME_PATTERN => {
            "a model name: use letters, digits, '_', '-', '+' and '.', with a letter, digit or '_' first"
        }
        NAME => "a name: use lower-case letters, digits and '-', with a letter or digit at both ends",
        parts::reference::NAME_PATTERN => names::RULE_OF_OBJECTS,
        _ => return None,
    })
}

fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: OnceLock<std::sync::Mutex<HashMap<String, Option<Regex>>>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(Default::default);
    let mut compiled = compiled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let regex = compiled.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
    // a pattern this engine cannot read is left to the API server
    regex.as_ref().is_none_or(|regex| regex.is_match(text))
}

fn wanted(schema: &Map<String, Json>) -> &'static str {
    if schema.contains_key("x-kubernetes-int-or-string") {
        return "a whole number or a text";
    }
    match schema.get("type").and_then(Json::as_str) {
        Some("object") => "a map of fields",
        Some("array") => "a list",
        Some("boolean") => "true or false",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("string") => "a text",
        _ => "a value",
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(true) => "read as true, as YAML reads true, yes, y and on".into(),
        Value::Bool(false) => "read as false, as YAML reads false, no, n and off".into(),
        Value::Number(number) => format!("the number {number}"),
        Value::Text(text) => format!("the text '{}'", text.chars().take(40).collect::<String>()),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a map of fields".into(),
    }
}

/// What a bare number lacks that would be no better in quotes.
fn unit_hint(value: &Value, schema: &Map<String, Json>) -> Option<&'static str> {
    let Value::Number(number) = value else { return None };
    let pattern = schema.get("pattern").and_then(Json::as_str)?;
    meaning(pattern).filter(|_| is(schema, "string") && !matches(pattern, &number.to_string()))
}

fn quotes_hint(value: &Value, schema: &Map<String, Json>) -> &'static str {
    match value {
        Value::Number(_) | Value::Bool(_) if !schema.contains_key("type") || is(schema, "string") => {
            ": put it in quotes"
        }
        _ => "",
    }
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The known name a wrong one was probably meant to be: at most a third of it differs.
fn closest<'a>(wrong: &str, names: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    names
        .map(|name| {
            let known = name.to_lowercase();
            // a missing prefix, as in FP32 for TYPE_FP32, is no distance
            let distance = if known.ends_with(&format!("_{wrong}")) { 0 } else { distance(&wrong, &known) };
            (distance, name.as_str())
        })
        .filter(|(distance, name)| *distance <= name.chars().count().max(3) / 3)
        .min()
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
