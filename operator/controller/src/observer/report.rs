//! What a pod sends, in the words of decisions. It is read leniently, for agents may be older or newer than the operator, and kept
//! within bounds, for they may be anything: models that the server does not have, long texts and long lists are cut.

use std::collections::{BTreeMap, BTreeSet};

pub(super) use operator_core::replica::Report;
use operator_core::{
    Reason,
    load::loaded_versions,
    missing_runtime,
    replica::{Memory, ModelReport, Phase},
    server_flags,
};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use triton_agent::{load::Index, verify::ContentHash};

/// Models that the server does not have of which something is kept: those that are ending, and what somebody else has loaded.
const UNKNOWN_MODELS: usize = 16;
/// Versions of a model that are kept.
const VERSIONS: usize = 64;
/// Contents that a pod may adopt.
const ADOPTS: usize = 4096;
/// Longest message, in bytes: a status shows no more of it.
const MESSAGE: usize = 1024;
/// Longest word, name or hash, in bytes.
const WORD: usize = 256;

/// The state of an agent, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    manifest_hash: String,
    #[serde(default)]
    server_is_ready: Option<bool>,
    #[serde(default)]
    server_crashes: u32,
    #[serde(default)]
    last_crash: Option<String>,
    #[serde(default)]
    foreign_loads: WireForeignLoads,
    #[serde(default)]
    adopts: Option<BTreeSet<String>>,
    models: BTreeMap<String, WireModel>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireForeignLoads {
    count: u32,
    last: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireModel {
    #[serde(default)]
    entry: Option<String>,
    #[serde(default)]
    crashes: u32,
    #[serde(default)]
    crash: Option<String>,
    #[serde(default)]
    settled: Option<bool>,
    #[serde(default)]
    ends_servers: bool,
    #[serde(default)]
    phase: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    will_retry: bool,
    #[serde(default)]
    serving: Option<String>,
    #[serde(default, deserialize_with = "first_versions")]
    versions: Vec<i64>,
    #[serde(default)]
    memory: Option<triton_agent::state::Memory>,
}

/// Reads the state of an agent; `names`: the models of its server.
///
/// Errors: it is no such state. The text says why, and where.
pub(super) fn of_state(json: &[u8], names: &BTreeSet<String>) -> Result<Report, String> {
    let wire: Wire = serde_json::from_slice(json).map_err(|error| cut(error.to_string(), MESSAGE))?;
    let models = known(wire.models, names).map(|(name, model)| (name, of_model(model)));
    let adopts = wire.adopts.map(|adopts| adopts.into_iter().filter(|word| word.len() <= WORD).take(ADOPTS).collect());
    Ok(Report {
        manifest_hash: Some(cut(wire.manifest_hash, WORD)),
        server_is_ready: wire.server_is_ready,
        crashes: Some(wire.server_crashes),
        last_crash: wire.last_crash.map(|crash| cut(crash, MESSAGE)),
        foreign_loads: Some((wire.foreign_loads.count, cut(wire.foreign_loads.last, MESSAGE))),
        adopts,
        models: models.collect(),
    })
}

/// What a server's index says of its models; `names`: those it should have. `has_agent`: the agent is silent, and may have a newer
/// manifest in work than what its server serves.
///
/// Errors: it is no index. The text says why, and where.
pub(super) fn of_index(json: &[u8], names: &BTreeSet<String>, has_agent: bool) -> Result<Report, String> {
    let index = Index::parse(json).map_err(|error| cut(error.to_string(), MESSAGE))?;
    let model = |name: &str| {
        let versions: Vec<i64> =
            index.ready_versions(name).into_iter().filter_map(|version| i64::try_from(version).ok()).collect();
        let phase = match index.reason(name) {
            _ if index.is_changing(name) => Phase::Loading,
            Some(reason) => failed(Reason::LoadFailed.to_string(), reason.to_owned(), false),
            None if versions.is_empty() => Phase::Pending,
            None => Phase::Ready,
        };
        by_server(phase, versions)
    };
    Ok(of_server(names, has_agent, model))
}

/// The same of its metrics page, which knows of what is loaded and nothing of what is on its way or has failed.
///
/// Errors: it is no metrics page of a server. The text says why, and where.
pub(super) fn of_page(page: &[u8], names: &BTreeSet<String>, has_agent: bool) -> Result<Report, String> {
    let loaded = loaded_versions(page).map_err(|error| error.to_string())?;
    let model = |name: &str| match loaded.get(name) {
        Some(versions) => by_server(Phase::Ready, versions.iter().copied()),
        None => by_server(Phase::Pending, []),
    };
    Ok(of_server(names, has_agent, model))
}

fn of_server(names: &BTreeSet<String>, has_agent: bool, model: impl Fn(&str) -> ModelReport) -> Report {
    let models = names.iter().map(|name| (name.clone(), model(name))).collect();
    Report { manifest_hash: has_agent.then(String::new), models, ..Report::default() }
}

fn by_server(phase: Phase, versions: impl IntoIterator<Item = i64>) -> ModelReport {
    ModelReport { phase, versions: versions.into_iter().take(VERSIONS).collect(), ..ModelReport::default() }
}

/// The models of the server, and a few that it should not have.
fn known(models: BTreeMap<String, WireModel>, names: &BTreeSet<String>) -> impl Iterator<Item = (String, WireModel)> {
    let mut unknown = 0;
    models.into_iter().filter(move |(name, _)| {
        names.contains(name) || {
            unknown += 1;
            unknown <= UNKNOWN_MODELS && name.len() <= WORD
        }
    })
}

fn of_model(model: WireModel) -> ModelReport {
    let phase = match model.phase.as_str() {
        "Downloading" | "Verifying" => Phase::Downloading,
        "Loading" => Phase::Loading,
        "Ready" => Phase::Ready,
        "Unloading" => Phase::Unloading,
        "Failed" => {
            // a reason has to be a word, or the status that carries it is refused
            let reason = model.reason.filter(|it| is_word(it)).unwrap_or_else(|| Reason::LoadFailed.to_string());
            failed(reason, model.message.unwrap_or_default(), model.will_retry)
        }
        _ => Phase::Pending,
    };
    let serving = model.serving.as_deref().and_then(ContentHash::from_name);
    ModelReport {
        entry: model.entry.filter(|entry| entry.len() <= WORD),
        crashes: model.crashes,
        crash: model.crash.map(|crash| cut(crash, MESSAGE)),
        settled: model.settled,
        ends_servers: model.ends_servers,
        phase,
        versions: model.versions,
        serving: serving.map(|content| content.as_str().replacen('-', ":", 1)),
        memory: model.memory.map(|memory| Memory { cpu: memory.cpu, gpu: memory.gpu }),
    }
}

/// A failed load; where the server lacks the model's runtime, with that as its reason.
fn failed(reason: String, message: String, will_retry: bool) -> Phase {
    let is_of_the_server = reason == Reason::LoadFailed.to_string();
    let (reason, message) = match missing_runtime::explain(&message).filter(|_| is_of_the_server) {
        Some((reason, message)) => (reason.to_string(), message),
        None => (reason, server_flags::with_place(&message)),
    };
    Phase::Failed { reason, message: cut(message, MESSAGE), will_retry }
}

/// Version numbers, as many as are kept; those that are none of ours are passed over.
fn first_versions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    struct First;
    impl<'de> serde::de::Visitor<'de> for First {
        type Value = Vec<i64>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of version numbers")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<i64>, A::Error> {
            let mut versions = vec![];
            while versions.len() < VERSIONS {
                let Some(number) = numbers.next_element::<u64>()? else { return Ok(versions) };
                versions.extend(i64::try_from(number).ok());
            }
            while numbers.next_element::<IgnoredAny>()?.is_some() {}
            Ok(versions)
        }
    }
    deserializer.deserialize_seq(First)
}

fn is_word(text: &str) -> bool {
    text.len() <= WORD
        && text.starts_with(|it: char| it.is_ascii_alphabetic())
        && text.chars().all(|it| it.is_ascii_alphanumeric())
}

fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text.shrink_to_fit();
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn state(models: Value) -> Vec<u8> {
        let state = json!({ "manifestHash": "h", "serverIsLive": true, "serverIsReady": true, "isSettled": false,
                            "serverCrashes": 2, "lastCrash": "SIGSEGV", "foreignLoads": { "count": 3, "last": "who" },
                            "adopts": ["ab"], "models": models });
        serde_json::to_vec(&state).unwrap()
    }

    #[test]
    fn what_an_agent_says_keeps_its_reason_and_its_content() {
        let models = json!({ "a": {
            "phase": "Failed", "reason": "ChecksumMismatch", "message": "other files", "attempts": 1, "willRetry": true,
            "versions": [1], "serving": format!("sha256-{}", "0".repeat(64)), "entry": "sha256:ab", "crashes": 1,
            "crash": "the server ended", "settled": false, "endsServers": true,
            "memory": { "cpu": 5, "gpu": 7 },
        } });
        let report = of_state(&state(models), &names(&["a"])).unwrap();
        assert_eq!((report.manifest_hash.as_deref(), report.crashes), (Some("h"), Some(2)));
        assert_eq!(report.last_crash.as_deref(), Some("SIGSEGV"));
        assert_eq!(report.server_is_ready, Some(true));
        assert_eq!(report.adopts, Some(names(&["ab"])));
        assert_eq!(report.foreign_loads, Some((3, "who".to_owned())));
        let phase =
            Phase::Failed { reason: "ChecksumMismatch".into(), message: "other files".into(), will_retry: true };
        let expected = ModelReport {
            entry: Some("sha256:ab".into()),
            crashes: 1,
            crash: Some("the server ended".into()),
            settled: Some(false),
            ends_servers: true,
            phase,
            versions: vec![1],
            serving: Some(format!("sha256:{}", "0".repeat(64))),
            memory: Some(Memory { cpu: 5, gpu: 7 }),
        };
        assert_eq!(report.models["a"], expected);
    }

    /// The state as the agent of this version writes it, in every phase.
    #[test]
    fn every_phase_of_an_agent_is_understood() {
        use triton_agent::state::{Failure, ModelState, Phase as Theirs, State};
        let failure = Failure { reason: Reason::LoadFailed, message: "no".into(), attempts: 1, will_retry: false };
        let failed = Phase::Failed { reason: "LoadFailed".into(), message: "no".into(), will_retry: false };
        let phases = [
            (Theirs::Pending, Phase::Pending),
            (Theirs::Downloading { bytes: 1, total: Some(2) }, Phase::Downloading),
            (Theirs::Verifying, Phase::Downloading),
            (Theirs::Loading, Phase::Loading),
            (Theirs::Ready, Phase::Ready),
            (Theirs::Failed(failure), failed),
            (Theirs::Unloading, Phase::Unloading),
        ];
        for (theirs, ours) in phases {
            let models = [("a".to_owned(), ModelState { phase: theirs, ..ModelState::default() })].into();
            let json = serde_json::to_vec(&State { models, ..State::default() }).unwrap();
            assert_eq!(of_state(&json, &names(&["a"])).unwrap().models["a"].phase, ours);
        }
    }

    #[test]
    fn a_newer_agent_is_understood_as_far_as_possible() {
        let models = json!({
            "a": { "phase": "Levitating", "versions": [1], "new": { "field": [1] } },
            "b": { "phase": "Failed", "reason": "TooHeavy", "message": "m" },
        });
        let report = of_state(&state(models), &names(&["a", "b"])).unwrap();
        assert_eq!((&report.models["a"].phase, &report.models["a"].versions), (&Phase::Pending, &vec![1]));
        assert!(matches!(&report.models["b"].phase, Phase::Failed { reason, .. } if reason == "TooHeavy"));
    }

    #[test]
    fn what_is_kept_of_a_report_is_bounded() {
        let model = json!({
            "phase": "Failed", "reason": "not a word ".repeat(50), "message": "ä".repeat(9000), "entry": "e".repeat(9000),
            "serving": "s".repeat(9000), "versions": (1..9000).collect::<Vec<_>>(),
        });
        let models: serde_json::Map<_, _> = (0..2000).map(|number| (format!("m{number}"), json!({}))).collect();
        let mut models = Value::Object(models);
        models["mine"] = model;
        models["x".repeat(9000)] = json!({});
        let report = of_state(&state(models), &names(&["mine", "absent"])).unwrap();
        assert_eq!(report.models.len(), 1 + UNKNOWN_MODELS);
        let mine = &report.models["mine"];
        let Phase::Failed { reason, message, .. } = &mine.phase else { panic!("{mine:?}") };
        assert_eq!((reason.as_str(), message.len(), mine.versions.len()), ("LoadFailed", MESSAGE, VERSIONS));
        assert_eq!((&mine.entry, &mine.serving), (&None, &None));
    }

    #[test]
    fn a_missing_runtime_is_a_reason_of_its_own() {
        let words =
            "unable to find backend library for backend 'openvino': library libopenvino_c.so not found, searched: /lib";
        let model = |reason: &str| json!({ "phase": "Failed", "reason": reason, "message": words });
        let report =
            of_state(&state(json!({ "a": model("LoadFailed"), "b": model("InvalidSource") })), &names(&["a", "b"]));
        let models = report.unwrap().models;
        let Phase::Failed { reason, message, .. } = &models["a"].phase else { panic!("{:?}", models["a"]) };
        assert_eq!(reason, "UnsupportedBackend");
        assert!(
            message.contains("no OpenVINO: set spec.image.variant of the TritonServer to openvino or full; "),
            "{message}"
        );
        assert!(
            matches!(&models["b"].phase, Phase::Failed { reason, message, .. } if reason == "InvalidSource" && message == words)
        );
    }

    #[test]
    fn junk_is_an_error_and_nothing_more() {
        let nested = format!("{{\"manifestHash\":\"h\",\"models\":{{}},\"x\":{}", "[".repeat(100_000));
        let state = |models: &str| format!("{{\"manifestHash\":\"h\",\"models\":{models}}}");
        let junk = [
            "",
            "null",
            "[]",
            "{}",
            "<html>",
            "\u{0}",
            &nested,
            &state("[]"),
            &state("{\"a\":7}"),
            &state("null"),
            &state("{\"a\":{\"phase\":7}}"),
            &state("{\"a\":{\"versions\":{}}}"),
            &state("{\"a\":{\"crashes\":-1}}"),
            &state("{\"a\":{\"memory\":{\"gpu\":-1}}}"),
            &state("{\"a\":{\"memory\":7}}"),
        ];
        for text in junk {
            let error = of_state(text.as_bytes(), &names(&["a"])).unwrap_err();
            assert!(error.len() <= MESSAGE, "{error}");
        }
        assert!(of_state(&[0xff, 0xfe], &names(&[])).is_err());
        assert!(of_index(b"{}", &names(&[]), false).is_err());
        // numbers that are no versions of ours are passed over
        let huge = state("{\"a\":{\"versions\":[18446744073709551615,3]}}");
        assert_eq!(of_state(huge.as_bytes(), &names(&["a"])).unwrap().models["a"].versions, [3]);
    }

    #[test]
    fn a_server_without_an_agent_tells_by_its_index() {
        let index = br#"[{"name":"a","version":"2","state":"READY"},{"name":"b","version":"1","state":"LOADING"},
                         {"name":"c","version":"1","state":"UNAVAILABLE","reason":"no such op"},{"name":"other"}]"#;
        let report = of_index(index, &names(&["a", "b", "c", "d"]), false).unwrap();
        let failed = Phase::Failed { reason: "LoadFailed".into(), message: "no such op".into(), will_retry: false };
        let phases: Vec<_> = report.models.into_values().map(|model| model.phase).collect();
        assert_eq!(phases, [Phase::Ready, Phase::Loading, failed, Phase::Pending]);
        assert_eq!(report.manifest_hash, None);
        assert_eq!(of_index(index, &names(&[]), true).unwrap().manifest_hash.as_deref(), Some(""));
    }
}
