//! Whether an object of the cluster still is what was applied: every field of ours as we wrote it, whatever others added
//! beside. What the API server spells in its own way (quantities) counts as the same.
//!
//! Applying heals all but one thing: an item of ours that somebody turned into another (a port with another number and our
//! name) is theirs by its key, and ours beside it would have a name twice. Those are found here too.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Map, Value};

/// Lists whose items are told apart by some of their fields; others may add items. Any other list is ours as a whole.
const KEYED: [(&str, &[&str]); 9] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("ownerReferences", &["uid"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("ports", &["containerPort", "port", "protocol"]),
];

/// Fields that hold quantities.
const QUANTITIES: [&str; 4] = ["limits", "requests", "sizeLimit", "target"];

/// Fields that the API server leaves out while they are `false`; elsewhere `false` is not the same as nothing.
const ABSENT_WHILE_FALSE: [&str; 1] = ["spec.paused"];

/// Paths of the fields of `ours` that are otherwise in `live`; empty if there is nothing to write.
pub fn drifted(ours: &Value, live: &Value) -> Vec<String> {
    let mut paths = vec![];
    compare("", ours, live, false, &mut paths);
    // items of a list come without them
    paths.retain(|path| !matches!(path.as_str(), "apiVersion" | "kind"));
    paths
}

/// Whether `manager` applied the field at the end of `path`: leaving it out of its next apply removes the field.
///
/// Source: Kubernetes, Server-Side Apply, "Field management" (`managedFields`, FieldsV1).
pub fn is_applied_by(manager: &str, path: &[&str], managed_fields: &[ManagedFieldsEntry]) -> bool {
    managed_fields
        .iter()
        .filter(|entry| entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply"))
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .filter_map(|entry| entry.fields_v1.as_ref())
        .any(|fields| path.iter().try_fold(&fields.0, |below, name| below.get(format!("f:{name}"))).is_some())
}

/// Items of `live` that stand where items of `ours` should be, as JSON pointers, each with the item that belongs there. Later
/// items of a list come first, so that they can be removed one after the other.
pub fn key_conflicts(ours: &Value, live: &Value) -> Vec<(String, Value)> {
    let mut items = vec![];
    key_conflicts_below("", ours, live, &mut items);
    items
}

fn key_conflicts_below(pointer: &str, ours: &Value, live: &Value, items: &mut Vec<(String, Value)>) {
    match (ours, live) {
        (Value::Object(ours), Value::Object(live)) => {
            for (name, field) in ours {
                if let Some(other) = live.get(name) {
                    key_conflicts_below(&format!("{pointer}/{}", escape(name)), field, other, items);
                }
            }
        }
        (Value::Array(ours), Value::Array(live)) => {
            let list = pointer.rsplit('/').next().unwrap_or(pointer);
            let Some(keys) = keys_of(pointer.trim_start_matches('/').replace('/', ".").as_str()) else { return };
            for (at, other) in live.iter().enumerate().rev() {
                match ours.iter().find(|item| is_same_item(item, other, keys)) {
                    Some(item) => key_conflicts_below(&format!("{pointer}/{at}"), item, other, items),
                    // ports are told apart by their numbers, and may have each name once
                    None if list == "ports" => {
                        if let Some(item) = ours.iter().find(|item| item.get("name") == other.get("name")) {
                            items.push((format!("{pointer}/{at}"), item.clone()));
                        }
                    }
                    None => {}
                }
            }
        }
        _ => {}
    }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn compare(path: &str, ours: &Value, live: &Value, is_quantity: bool, paths: &mut Vec<String>) {
    match (ours, live) {
        (Value::Object(ours), Value::Object(live)) => {
            for (name, field) in ours {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match live.get(name) {
                    // an empty list, as some clusters write it
                    Some(Value::Null) if is_nothing(field) => {}
                    Some(other) => {
                        let is_quantity = is_quantity || QUANTITIES.contains(&name.as_str());
                        compare(&path, field, other, is_quantity, paths);
                    }
                    None if is_nothing(field) => {}
                    None if *field == Value::Bool(false) && ABSENT_WHILE_FALSE.contains(&path.as_str()) => {}
                    None => paths.push(path),
                }
            }
        }
        (Value::Array(ours), Value::Array(live)) => match keys_of(path) {
            Some(keys) => {
                for item in ours {
                    let path = format!("{path}[{}]", name_of(item, keys));
                    match live.iter().find(|other| is_same_item(item, other, keys)) {
                        Some(other) => compare(&path, item, other, is_quantity, paths),
                        None => paths.push(path),
                    }
                }
            }
            None if ours.len() == live.len() => {
                for (at, (item, other)) in ours.iter().zip(live).enumerate() {
                    compare(&format!("{path}[{at}]"), item, other, is_quantity, paths);
                }
            }
            None => paths.push(path.to_owned()),
        },
        _ if ours == live => {}
        _ if is_quantity && quantity(ours).is_some() && quantity(ours) == quantity(live) => {}
        _ => paths.push(path.to_owned()),
    }
}

/// What the API server does not keep: it holds nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn keys_of(path: &str) -> Option<&'static [&'static str]> {
    if path.contains("ingress[") {
        return None; // rules of a NetworkPolicy: one more port or peer is another rule
    }
    if path == "ports" {
        return None; // those of an EndpointSlice: several names may have one number
    }
    let name = path.rsplit('.').next().unwrap_or(path);
    KEYED.iter().find(|(list, _)| *list == name).map(|(_, keys)| *keys)
}

fn is_same_item(ours: &Value, live: &Value, keys: &[&str]) -> bool {
    let field = |item: &Value, key: &str| item.as_object().and_then(|fields: &Map<_, _>| fields.get(key)).cloned();
    keys.iter().all(|key| match field(ours, key) {
        Some(value) => field(live, key) == Some(value),
        None => true, // not how this kind of list tells its items apart
    })
}

fn name_of(item: &Value, keys: &[&str]) -> String {
    let parts: Vec<_> =
        keys.iter().filter_map(|key| item.get(key)).map(|value| value.to_string().replace('"', "")).collect();
    parts.join("/")
}

/// A quantity in units of 10^-9, so that `1000m`, `1` and `1.0` are one.
pub(crate) fn quantity(value: &Value) -> Option<i128> {
    const NANO: i128 = 1_000_000_000;
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (is_negative, digits) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut mantissa: i128 = 0;
    for digit in whole.chars().chain(fraction.chars()) {
        mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit.to_digit(10)?))?;
    }
    let scaled = |scale: i128| mantissa.checked_mul(scale);
    let exponent = |power: i32| {
        let power = power.checked_add(9)?;
        if power >= 0 {
            scaled(10_i128.checked_pow(power.unsigned_abs())?)
        } else {
            Some(mantissa / 10_i128.checked_pow(power.unsigned_abs())?)
        }
    };
    let of_two = |power: u32| scaled(NANO)?.checked_mul(1_i128 << power);
    let value = match suffix {
        "" => exponent(0),
        "n" => exponent(-9),
        "u" => exponent(-6),
        "m" => exponent(-3),
        "k" => exponent(3),
        "M" => exponent(6),
        "G" => exponent(9),
        "T" => exponent(12),
        "P" => exponent(15),
        "E" => exponent(18),
        "Ki" => of_two(10),
        "Mi" => of_two(20),
        "Gi" => of_two(30),
        "Ti" => of_two(40),
        "Pi" => of_two(50),
        "Ei" => of_two(60),
        other => exponent(other.strip_prefix(['e', 'E'])?.parse().ok()?),
    }?;
    let value = value / 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(ours: Value, live: Value, expect: &[&str]) {
        assert_eq!(drifted(&ours, &live), expect);
    }

    #[test]
    fn what_others_add_is_left_alone() {
        let ours = json!({ "metadata": { "labels": { "a": "1" } }, "spec": { "containers": [{ "name": "server" }] } });
        let live = json!({
            "metadata": { "labels": { "a": "1", "theirs": "x" }, "uid": "1" },
            "spec": { "containers": [{ "name": "injected" }, { "name": "server", "terminationMessagePath": "/x" }] },
            "status": { "replicas": 1 },
        });
        check(ours, live, &[]);
    }

    #[test]
    fn what_is_ours_and_was_changed_is_named() {
        let ours = json!({ "spec": { "replicas": 2, "containers": [{ "name": "server", "args": ["a"] }] } });
        check(
            ours.clone(),
            json!({ "spec": { "replicas": 5, "containers": [{ "name": "server", "args": ["a", "b"] }] } }),
            &["spec.containers[server].args", "spec.replicas"],
        );
        check(ours, json!({ "spec": { "replicas": 2, "containers": [] } }), &["spec.containers[server]"]);
    }

    #[test]
    fn ports_of_both_kinds_are_told_apart() {
        let service = |port: i32| json!({ "spec": { "ports": [{ "port": port, "protocol": "TCP", "name": "http" }] } });
        check(
            service(8000),
            json!({ "spec": { "ports": [{ "port": 8000, "protocol": "TCP", "name": "http", "nodePort": 30000 }] } }),
            &[],
        );
        check(service(8000), service(80), &["spec.ports[8000/TCP]"]);
    }

    #[test]
    fn a_port_that_was_given_another_number_is_found() {
        let ours = json!({ "spec": { "ports": [{ "port": 1, "name": "a" }, { "port": 2, "name": "b" }] } });
        let live = json!({ "spec": { "ports": [{ "port": 9, "name": "a" }, { "port": 2, "name": "b" }, { "port": 3, "name": "c" }] } });
        assert_eq!(key_conflicts(&ours, &live), [("/spec/ports/0".to_owned(), json!({ "port": 1, "name": "a" }))]);
        assert_eq!(key_conflicts(&ours, &ours), []);
    }

    #[test]
    fn a_field_is_known_to_be_applied_by_its_manager_only() {
        let fields = |manager: &str, operation: &str, subresource: &str| -> ManagedFieldsEntry {
            serde_json::from_value(json!({
                "manager": manager, "operation": operation, "subresource": subresource,
                "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:replicas": {}, "f:template": {} } },
            }))
            .unwrap()
        };
        let is_ours = |entry| is_applied_by("us", &["spec", "replicas"], &[entry]);
        assert!(is_ours(fields("us", "Apply", "")));
        assert!(!is_ours(fields("others", "Apply", "")) && !is_ours(fields("us", "Update", "")));
        assert!(!is_ours(fields("us", "Apply", "status")));
        assert!(!is_applied_by("us", &["spec", "paused"], &[fields("us", "Apply", "")]));
    }

    #[test]
    fn a_network_policy_that_opens_more_than_was_asked_for_has_drifted() {
        let policy = |ports: Value, from: Value| json!({ "spec": { "ingress": [{ "ports": ports, "from": from }] } });
        let (port, peer) = (json!({ "port": 1, "protocol": "TCP" }), json!({ "podSelector": {} }));
        let ours = policy(json!([port]), json!([peer]));
        check(ours.clone(), policy(json!([port]), json!([peer])), &[]);
        check(ours.clone(), policy(json!([port, { "port": 2 }]), json!([peer])), &["spec.ingress[0].ports"]);
        check(
            ours.clone(),
            policy(json!([port]), json!([peer, { "namespaceSelector": {} }])),
            &["spec.ingress[0].from"],
        );
        check(ours, json!({ "spec": { "ingress": [{ "ports": [port] }] } }), &["spec.ingress[0].from"]);
    }

    #[test]
    fn an_object_out_of_a_list_lacks_only_its_kind() {
        check(json!({ "apiVersion": "v1", "kind": "Service", "data": 1 }), json!({ "data": 1 }), &[]);
    }

    #[test]
    fn quantities_are_numbers_however_they_are_written() {
        let limits = |cpu: &str| json!({ "limits": { "cpu": cpu } });
        for (one, other) in [("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1e3", "1k"), ("1.5Gi", "1536Mi")] {
            check(limits(one), limits(other), &[]);
        }
        check(limits("1"), limits("2"), &["limits.cpu"]);
        let target = |value: &str| json!({ "target": { "type": "AverageValue", "averageValue": value } });
        check(target("20000"), target("20k"), &[]);
        check(target("20000"), target("21k"), &["target.averageValue"]);
        // elsewhere a text is a text
        check(json!({ "value": "1000m" }), json!({ "value": "1" }), &["value"]);
    }

    #[test]
    fn a_deployment_that_somebody_paused_has_drifted() {
        let ours = json!({ "spec": { "paused": false, "automountServiceAccountToken": false } });
        check(ours.clone(), json!({ "spec": { "automountServiceAccountToken": false } }), &[]);
        check(
            ours.clone(),
            json!({ "spec": { "paused": true, "automountServiceAccountToken": false } }),
            &["spec.paused"],
        );
        check(ours, json!({ "spec": {} }), &["spec.automountServiceAccountToken"]);
    }

    #[test]
    fn a_slice_is_ours_as_a_whole() {
        let slice = |endpoints: Value, ports: Value| json!({ "endpoints": endpoints, "ports": ports });
        let (http, grpc) = (
            json!({ "name": "http", "port": 9, "protocol": "TCP" }),
            json!({ "name": "grpc", "port": 9, "protocol": "TCP" }),
        );
        let ours = slice(json!([]), json!([http, grpc]));
        check(ours.clone(), slice(Value::Null, json!([http, grpc])), &[]);
        check(ours.clone(), slice(json!([{ "addresses": ["10.0.0.9"] }]), json!([http, grpc])), &["endpoints"]);
        let other = slice(json!([]), json!([http, { "name": "grpc", "port": 8, "protocol": "TCP" }]));
        check(ours.clone(), other.clone(), &["ports[1].port"]);
        assert!(key_conflicts(&ours, &other).is_empty(), "applying it replaces the list");
    }

    #[test]
    fn empty_things_that_are_not_kept_are_no_drift() {
        check(json!({ "emptyDir": {}, "list": [] }), json!({ "emptyDir": {} }), &[]);
    }
}
