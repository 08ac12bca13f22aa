//! Strategic merge of a patch into a pod template: maps are merged, lists whose items have a key are merged by it, other lists
//! are replaced, `null` removes, and the directives `$patch` and `$retainKeys` do what they do for `kubectl patch`.
//!
//! Source: Kubernetes, "Update API Objects in Place Using kubectl patch" and the community's "Strategic Merge Patch"; merge keys
//! from the definitions of core/v1.

use serde_json::{Map, Value};

/// A place in a patch that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Where, from the root of the template; items of lists by their key.
    pub(crate) path: String,
    /// What is wrong, and what to write.
    pub(crate) message: String,
}

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";

/// By which field the items of a list are told apart; none: the list is one value.
pub(crate) fn merge_key(list: &str) -> Option<&'static str> {
    Some(match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "resourceClaims"
        | "schedulingGates" => "name",
        "ports" => "containerPort",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "hostAliases" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

/// The path of a field.
pub(crate) fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The path of an item of the list at `path`: by its key where the list has one, else by its place.
pub(crate) fn item(path: &str, at: usize, item: &Value) -> String {
    let list = path.rsplit('.').next().unwrap_or(path);
    let key = merge_key(list).and_then(|key| item.get(key));
    match key {
        Some(Value::String(text)) => format!("{path}[{text}]"),
        Some(Value::Number(number)) => format!("{path}[{number}]"),
        _ => format!("{path}[{at}]"),
    }
}

/// The items of a list of a template's pod; none where there is no such list.
pub(crate) fn items<'a>(template: &'a Value, list: &str) -> &'a [Value] {
    template["spec"][list].as_array().map_or(&[], Vec::as_slice)
}

/// `base` with `patch` merged into it.
///
/// Errors: every place of the patch that cannot be followed; nothing is merged then.
pub(crate) fn merge(base: &Map<String, Value>, patch: &Map<String, Value>) -> Result<Map<String, Value>, Vec<Mistake>> {
    let mut mistakes = vec![];
    let merged = merge_map(base, patch, "", &mut mistakes);
    if mistakes.is_empty() { Ok(merged) } else { Err(mistakes) }
}

fn merge_map(
    base: &Map<String, Value>,
    patch: &Map<String, Value>,
    path: &str,
    mistakes: &mut Vec<Mistake>,
) -> Map<String, Value> {
    let mut merged = match directive(patch, path, mistakes) {
        Directive::Merge => base.clone(),
        Directive::Replace => Map::new(),
        Directive::Delete => return Map::new(),
    };
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        match retained.as_array().map(|names| names.iter().map(Value::as_str).collect::<Option<Vec<_>>>()) {
            Some(Some(names)) => merged.retain(|name, _| names.contains(&name.as_str())),
            _ => mistakes.push(Mistake {
                path: below(path, RETAIN_KEYS),
                message: "is a list of the names of fields that stay".into(),
            }),
        }
    }
    for (name, value) in patch.iter().filter(|(name, _)| !matches!(name.as_str(), PATCH | RETAIN_KEYS)) {
        let path = below(path, name);
        if name.starts_with('$') {
            mistakes.push(Mistake { path, message: format!("is no directive: there are {PATCH} and {RETAIN_KEYS}") });
            continue;
        }
        let none = Map::new();
        let value = match value {
            Value::Null => {
                merged.remove(name);
                continue;
            }
            Value::Object(patch) => {
                let base = merged.get(name).and_then(Value::as_object).unwrap_or(&none);
                Value::Object(merge_map(base, patch, &path, mistakes))
            }
            Value::Array(patch) => match merge_key(name) {
                Some(key) => {
                    let base = merged.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                    Value::Array(merge_list(base, patch, key, &path, mistakes))
                }
                None => Value::Array(patch.clone()),
            },
            scalar => scalar.clone(),
        };
        merged.insert(name.clone(), value);
    }
    merged
}

fn merge_list(base: &[Value], patch: &[Value], key: &str, path: &str, mistakes: &mut Vec<Mistake>) -> Vec<Value> {
    let is_replaced = |item: &&Value| item.get(PATCH).is_some_and(|word| word == "replace") && item.get(key).is_none();
    let mut merged = if patch.iter().any(|item| is_replaced(&item)) { vec![] } else { base.to_vec() };
    for (at, value) in patch.iter().enumerate().filter(|(_, value)| !is_replaced(value)) {
        let path = item(path, at, value);
        let Some(fields) = value.as_object() else {
            mistakes.push(Mistake { path, message: "is no map of fields".into() });
            continue;
        };
        let Some(id) = fields.get(key).filter(|id| id.is_string() || id.is_number()) else {
            let message = format!("has no '{key}', by which the items of this list are told apart");
            mistakes.push(Mistake { path, message });
            continue;
        };
        let found = merged.iter().position(|item| item.get(key) == Some(id));
        if fields.get(PATCH).is_some_and(|word| word == "delete") {
            merged.retain(|item| item.get(key) != Some(id));
            continue;
        }
        let none = Map::new();
        let base = found.and_then(|at| merged[at].as_object()).unwrap_or(&none);
        let item = Value::Object(merge_map(base, fields, &path, mistakes));
        match found {
            Some(at) => merged[at] = item,
            None => merged.push(item),
        }
    }
    merged
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>, path: &str, mistakes: &mut Vec<Mistake>) -> Directive {
    match patch.get(PATCH).map(Value::as_str) {
        None | Some(Some("merge")) => Directive::Merge,
        Some(Some("replace")) => Directive::Replace,
        Some(Some("delete")) => Directive::Delete,
        Some(_) => {
            let message = "is one of merge, replace and delete".into();
            mistakes.push(Mistake { path: below(path, PATCH), message });
            Directive::Merge
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(base: Value, patch: Value) -> Result<Value, Vec<String>> {
        let (Value::Object(base), Value::Object(patch)) = (base, patch) else { panic!("two maps") };
        match merge(&base, &patch) {
            Ok(merged) => Ok(Value::Object(merged)),
            Err(mistakes) => Err(mistakes.into_iter().map(|it| format!("{}: {}", it.path, it.message)).collect()),
        }
    }

    #[track_caller]
    fn check(base: Value, patch: Value, expect: Value) {
        assert_eq!(merged(base, patch), Ok(expect));
    }

    #[test]
    fn maps_are_merged_and_null_removes() {
        check(
            json!({ "a": { "x": 1, "y": 2 }, "b": 1, "c": 1 }),
            json!({ "a": { "y": 3, "z": 4 }, "b": null, "d": { "e": null } }),
            json!({ "a": { "x": 1, "y": 3, "z": 4 }, "c": 1, "d": {} }),
        );
        check(json!({}), json!({}), json!({}));
    }

    #[test]
    fn lists_with_a_key_are_merged_by_it_and_others_are_replaced() {
        check(
            json!({ "containers": [{ "name": "a", "image": "1", "args": ["x"] }, { "name": "b" }] }),
            json!({ "containers": [{ "name": "c" }, { "name": "a", "args": ["y"], "env": [{ "name": "E", "value": "1" }] }] }),
            json!({ "containers": [
                { "name": "a", "image": "1", "args": ["y"], "env": [{ "name": "E", "value": "1" }] }, { "name": "b" }, { "name": "c" },
            ] }),
        );
        check(
            json!({ "ports": [{ "containerPort": 1, "name": "a" }], "volumeMounts": [{ "mountPath": "/a", "name": "a" }] }),
            json!({ "ports": [{ "containerPort": 1, "name": "b" }], "volumeMounts": [{ "mountPath": "/b", "name": "a" }] }),
            json!({
                "ports": [{ "containerPort": 1, "name": "b" }],
                "volumeMounts": [{ "mountPath": "/a", "name": "a" }, { "mountPath": "/b", "name": "a" }],
            }),
        );
        check(
            json!({ "tolerations": [{ "key": "a" }] }),
            json!({ "tolerations": [{ "key": "b" }] }),
            json!({ "tolerations": [{ "key": "b" }] }),
        );
    }

    #[test]
    fn directives_replace_delete_and_retain() {
        let base = json!({ "volumes": [{ "name": "a", "emptyDir": { "medium": "Memory" } }, { "name": "b" }], "m": { "x": 1 } });
        check(
            base.clone(),
            json!({ "volumes": [{ "name": "b", "$patch": "delete" }, { "name": "none", "$patch": "delete" }], "m": { "$patch": "replace", "y": 2 } }),
            json!({ "volumes": [{ "name": "a", "emptyDir": { "medium": "Memory" } }], "m": { "y": 2 } }),
        );
        check(
            base.clone(),
            json!({ "volumes": [{ "$patch": "replace" }, { "name": "c" }], "m": { "$patch": "delete" } }),
            json!({ "volumes": [{ "name": "c" }], "m": {} }),
        );
        check(
            base,
            json!({ "volumes": [{ "name": "a", "$retainKeys": ["name", "configMap"], "configMap": { "name": "x" } }] }),
            json!({ "volumes": [{ "name": "a", "configMap": { "name": "x" } }, { "name": "b" }], "m": { "x": 1 } }),
        );
    }

    #[test]
    fn what_cannot_be_followed_is_named_with_its_place_all_at_once() {
        let mistakes = merged(
            json!({ "containers": [{ "name": "a" }] }),
            json!({
                "containers": [{ "image": "x" }, 7, { "name": "a", "env": [{ "value": "1" }], "$retainKeys": 3 }],
                "m": { "$patch": "drop", "$setElementOrder/x": [] },
            }),
        );
        assert_eq!(
            mistakes.unwrap_err(),
            [
                "containers[0]: has no 'name', by which the items of this list are told apart",
                "containers[1]: is no map of fields",
                "containers[a].$retainKeys: is a list of the names of fields that stay",
                "containers[a].env[0]: has no 'name', by which the items of this list are told apart",
                "m.$patch: is one of merge, replace and delete",
                "m.$setElementOrder/x: is no directive: there are $patch and $retainKeys",
            ]
        );
    }
}
