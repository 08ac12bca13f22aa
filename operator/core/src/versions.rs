//! What `spec.versions` of a model comes to: the version policy, and the parameters by which the server routes requests between
//! versions.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    TritonModel,
    parts::versions::{SpecificVersions, VersionPolicy, Versions},
};
use server_core::version_routing::{CANARY_KEY, CANARY_VALUE, CANARY_VERSION, SHADOW_VERSIONS, VERSION_WEIGHTS};

/// The version that a key of a map names.
pub fn version(key: &str) -> Option<i64> {
    let is_number = key.bytes().all(|byte| byte.is_ascii_digit()) && !key.starts_with('0');
    key.parse().ok().filter(|_| is_number)
}

/// The policy asked for; where requests are routed and no policy is given, just the versions they are routed to.
pub fn policy(versions: &Versions) -> Option<VersionPolicy> {
    let implied = || {
        let versions: Vec<i64> = named(versions).into_iter().collect();
        let is_routed = !versions.is_empty();
        is_routed.then(|| VersionPolicy { specific: Some(SpecificVersions { versions }), ..VersionPolicy::default() })
    };
    versions.policy.clone().or_else(implied)
}

/// Every version that weights, canary and shadow name.
pub fn named(versions: &Versions) -> BTreeSet<i64> {
    let keys = versions.weights.keys().chain(versions.shadow.keys());
    keys.filter_map(|key| version(key)).chain(versions.canary.as_ref().map(|canary| canary.version)).collect()
}

/// The server's parameters that say the same as weights, canary and shadow; empty without them.
pub fn parameters(versions: &Versions) -> BTreeMap<&'static str, String> {
    let mut parameters = BTreeMap::new();
    let mut add = |key, value: Option<String>| {
        if let Some(value) = value {
            parameters.insert(key, value);
        }
    };
    add(VERSION_WEIGHTS, pairs(&versions.weights));
    add(SHADOW_VERSIONS, pairs(&versions.shadow));
    if let Some(canary) = &versions.canary {
        add(CANARY_VERSION, Some(canary.version.to_string()));
        add(CANARY_KEY, canary.key.clone());
        add(CANARY_VALUE, canary.value.clone());
    }
    parameters
}

/// Whether the resource says how requests are routed: then a `config.pbtxt` does not.
pub fn are_routed(model: &TritonModel) -> bool {
    model.spec.versions.as_ref().is_some_and(|versions| !parameters(versions).is_empty())
}

/// The field of the resource that says what a parameter of the server says.
pub fn field_of(parameter: &str) -> Option<&'static str> {
    Some(match parameter {
        VERSION_WEIGHTS => "spec.versions.weights",
        SHADOW_VERSIONS => "spec.versions.shadow",
        CANARY_VERSION => "spec.versions.canary.version",
        CANARY_KEY => "spec.versions.canary.key",
        CANARY_VALUE => "spec.versions.canary.value",
        _ => return None,
    })
}

fn pairs(by_version: &BTreeMap<String, i32>) -> Option<String> {
    let by_version: BTreeMap<i64, i32> =
        by_version.iter().filter_map(|(key, number)| Some((version(key)?, *number))).collect();
    let pairs: Vec<String> = by_version.iter().map(|(version, number)| format!("{version}:{number}")).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn versions(value: serde_json::Value) -> Versions {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_versions_that_are_routed_to_are_served_unless_a_policy_says_otherwise() {
        let routed = json!({ "weights": { "10": 1, "2": 9 }, "canary": { "version": 3 }, "shadow": { "4": 50 } });
        let served = policy(&versions(routed.clone())).unwrap().specific.unwrap().versions;
        assert_eq!(served, [2, 3, 4, 10]);
        let mut with_policy = routed;
        with_policy["policy"] = json!({ "all": {} });
        assert!(policy(&versions(with_policy)).unwrap().all.is_some());
        assert_eq!(policy(&versions(json!({}))), None);
    }

    #[test]
    fn the_servers_parameters_say_the_same_in_the_order_of_the_versions() {
        let all = versions(json!({
            "weights": { "10": 1, "2": 9 }, "shadow": { "4": 50 },
            "canary": { "version": 3, "key": "x-group", "value": "beta" },
        }));
        let text: Vec<String> = parameters(&all).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            text,
            [
                "canary_key=x-group",
                "canary_value=beta",
                "canary_version=3",
                "shadow_versions=4:50",
                "version_weights=2:9,10:1",
            ]
        );
        assert_eq!(parameters(&versions(json!({ "policy": { "all": {} } }))).len(), 0);
        for parameter in server_core::version_routing::PARAMETERS {
            assert!(field_of(parameter).is_some(), "{parameter}");
        }
    }

    #[test]
    fn a_key_is_a_version_number() {
        assert_eq!(["1", "20", "0", "01", "+1", "x", "", "9223372036854775808"].map(version)[..2], [Some(1), Some(20)]);
        assert!(["0", "01", "+1", "x", "", "9223372036854775808"].iter().all(|key| version(key).is_none()));
    }
}
