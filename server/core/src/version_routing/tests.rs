use std::time::Instant;

use super::*;
use crate::{config::from_text, request::VersionChoice};

fn config(parameters: &[(&str, &str)]) -> ModelConfig {
    let parameters: String = parameters
        .iter()
        .map(|(key, value)| format!("parameters {{ key: '{key}' value {{ string_value: '{value}' }} }}\n"))
        .collect();
    from_text(&format!("name: 'm'\n{parameters}")).unwrap()
}

fn routing(parameters: &[(&str, &str)]) -> VersionRouting {
    VersionRouting::of(&config(parameters)).unwrap().unwrap()
}

#[track_caller]
fn refused(parameters: &[(&str, &str)], expect: &[&str]) {
    let problems = VersionRouting::of(&config(parameters)).unwrap_err();
    assert_eq!(problems.iter().map(|problem| &*problem.message).collect::<Vec<_>>(), expect);
    assert!(problems.iter().all(|problem| problem.path.starts_with("parameters[\"")), "{problems:?}");
}

#[test]
fn what_the_parameters_say_is_read() {
    assert_eq!(VersionRouting::of(&config(&[("other", "1:2")])), Ok(None));
    let all = routing(&[
        (VERSION_WEIGHTS, " 10:1 , 2:99 "),
        (SHADOW_VERSIONS, "4:100,3:50"),
        (CANARY_VERSION, "3"),
        (CANARY_KEY, "x-user-group"),
        (CANARY_VALUE, "beta testers"),
    ]);
    let canary = Canary { version: 3, key: "x-user-group".into(), value: "beta testers".into() };
    assert_eq!(all.weights, [(2, 99), (10, 1)]);
    assert_eq!((all.shadows, all.canary), (vec![(3, 50), (4, 100)], Some(canary)));
    let canary = routing(&[(CANARY_VERSION, "3")]).canary.unwrap();
    assert_eq!((&*canary.key, &*canary.value), ("canary", "true"));
}

#[test]
fn mistakes_are_told_with_limit_and_cure() {
    for text in ["", "1", "1:x", "1:-1", "0:1", "01:1", "+1:1", "1:10001", "1:1,", "9223372036854775808:1"] {
        refused(
            &[(VERSION_WEIGHTS, text)],
            &[&format!(
                "parameter 'version_weights' of model 'm' is '{text}': write VERSION:NUMBER pairs separated by commas, such as \
                 1:90,2:10, with numbers from 0 to 10000"
            )],
        );
    }
    refused(
        &[(VERSION_WEIGHTS, "1:1,1:2"), (SHADOW_VERSIONS, "3:0")],
        &[
            "parameter 'version_weights' of model 'm' names version 1 twice: name each version once",
            "parameter 'shadow_versions' of model 'm' is '3:0': write VERSION:NUMBER pairs separated by commas, such as 3:100, \
             with numbers from 1 to 100",
        ],
    );
    refused(
        &[(VERSION_WEIGHTS, "1:0,2:0")],
        &["parameter 'version_weights' of model 'm' gives every version weight 0: give at least one more"],
    );
    refused(
        &[(VERSION_WEIGHTS, "1:9999,2:7")],
        &[
            "parameter 'version_weights' of model 'm' has weights that add up to 10006 without their common divisor, the most is \
           10000: round them",
        ],
    );
    assert_eq!(routing(&[(VERSION_WEIGHTS, "1:9000,2:9000")]).weights.len(), 2, "a common divisor makes them small");
    let many: Vec<String> = (1..=65).map(|version| format!("{version}:1")).collect();
    refused(
        &[(VERSION_WEIGHTS, &many.join(","))],
        &["parameter 'version_weights' of model 'm' names 65 versions: name at most 64"],
    );
    refused(
        &[(CANARY_VERSION, "latest"), (CANARY_KEY, "X-Canary"), (CANARY_VALUE, "")],
        &[
            "parameter 'canary_key' of model 'm' is 'X-Canary': write 1 to 128 lower-case letters, digits, '-' and '_'",
            "parameter 'canary_value' of model 'm' is '': write 1 to 128 printable ASCII characters",
            "parameter 'canary_version' of model 'm' is 'latest': write the number of one version, such as 2",
        ],
    );
    refused(
        &[(CANARY_KEY, "priority"), (CANARY_VERSION, "1")],
        &[
            "parameter 'canary_key' of model 'm' is 'priority', which has a meaning of its own in requests: choose another",
        ],
    );
    refused(
        &[(CANARY_VALUE, "yes")],
        &["parameter 'canary_value' of model 'm' has no effect without 'canary_version': set that, or remove it"],
    );
}

#[test]
fn versions_must_be_loaded() {
    let routing = routing(&[(VERSION_WEIGHTS, "1:90,2:10"), (SHADOW_VERSIONS, "3:100"), (CANARY_VERSION, "2")]);
    assert_eq!(routing.problems_with("m", &[1, 2, 3], &[1, 2, 3]), []);
    let told: Vec<_> =
        routing.problems_with("m", &[2], &[1, 2]).into_iter().map(|problem| problem.to_string()).collect();
    assert_eq!(
        told,
        [
            "parameters[\"version_weights\"]: parameter 'version_weights' of model 'm' names version 1, which the version policy \
             does not load: set version_policy { specific { versions: [ 1, 2 ] } }",
            "parameters[\"shadow_versions\"]: parameter 'shadow_versions' of model 'm' names version 3, which has no folder: add \
             '3' to the model's folder, or remove it here",
        ]
    );
}

#[test]
fn what_a_version_that_is_not_ready_would_get_goes_to_the_others() {
    let weighted = routing(&[(VERSION_WEIGHTS, "1:90,2:10,3:0")]);
    assert_eq!(weighted.shares(&[1, 2, 3]), [(0, 90), (1, 10)]);
    assert_eq!(weighted.shares(&[2, 3]), [(0, 10)]);
    assert_eq!(weighted.shares(&[3, 4]), [(1, 1)], "as without weights");
    let canary = routing(&[(CANARY_VERSION, "4"), (SHADOW_VERSIONS, "3:1")]);
    assert_eq!(canary.shares(&[1, 2, 3, 4]), [(1, 1)], "the highest that has no other use");
    assert_eq!(canary.shares(&[3, 4]), []);
}

#[test]
fn a_mark_is_a_parameter_of_any_plain_type() {
    let request = |key: &str, value| InferRequest {
        model_name: "m".into(),
        model_version: VersionChoice::Latest,
        id: String::new(),
        inputs: Default::default(),
        outputs: Default::default(),
        parameters: vec![("other".into(), Parameter::Bool(true)), (key.into(), value)],
        sequence: None,
        priority: 0,
        timeout: None,
        received_at: Instant::now(),
        callers: None,
        trace: None,
    };
    let plain = routing(&[(CANARY_VERSION, "2")]);
    assert!(plain.is_marked(&request("canary", Parameter::Bool(true))));
    assert!(plain.is_marked(&request("canary", Parameter::String("true".into()))));
    assert!(!plain.is_marked(&request("canary", Parameter::Bool(false))));
    assert!(!plain.is_marked(&request("x-canary", Parameter::Bool(true))));
    let numbered = routing(&[(CANARY_VERSION, "2"), (CANARY_VALUE, "7"), (CANARY_KEY, "group")]);
    assert!(numbered.is_marked(&request("group", Parameter::Int(7))));
    assert!(numbered.is_marked(&request("group", Parameter::Uint(7))));
    assert!(!routing(&[(VERSION_WEIGHTS, "1:1")]).is_marked(&request("canary", Parameter::Bool(true))));
}
