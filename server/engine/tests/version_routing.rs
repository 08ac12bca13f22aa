//! Requests that name no version, split between versions, marked for one, copied to one. Counters per version tell.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod harness;

use std::{collections::BTreeMap, sync::Arc};

use harness::{Harness, ask, ask_ensemble, send, until};
use server_core::{
    interface::ModelId,
    request::{CorrelationId, InferRequest, Parameter, Sequence, VersionChoice},
};
use server_engine::{Engine, LoadParameters};

const ALL: &str = "version_policy { all { } }";

fn parameters(pairs: &[(&str, &str)]) -> String {
    let one = |(key, value): &(&str, &str)| {
        format!("parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }}\n")
    };
    format!("{ALL} {}", pairs.iter().map(one).collect::<String>())
}

async fn load(engine: &Arc<Engine>) -> Result<(), String> {
    engine.load("m", LoadParameters::default()).await.map_err(|error| error.message.into_owned())
}

async fn run(engine: &Engine, request: InferRequest) -> u64 {
    send(engine, request).unwrap().response().await.unwrap().model_version
}

async fn run_many(engine: &Engine, count: usize) -> BTreeMap<u64, usize> {
    let mut by_version = BTreeMap::new();
    for _ in 0..count {
        *by_version.entry(run(engine, ask("m", &[1.0])).await).or_default() += 1;
    }
    by_version
}

fn counts(engine: &Engine) -> BTreeMap<u64, u64> {
    engine.statistics(None).unwrap().iter().map(|one| (one.version, one.success.count)).collect()
}

#[tokio::test]
async fn requests_are_split_by_weights_which_change_without_a_load() {
    let harness = Harness::new();
    harness.model("m", &parameters(&[("version_weights", "1:70,2:20,3:10")]), &[1, 2, 3]);
    let engine = harness.explicit();
    load(&engine).await.unwrap();
    assert_eq!(run_many(&engine, 200).await, BTreeMap::from([(1, 140), (2, 40), (3, 20)]));
    assert_eq!(counts(&engine), BTreeMap::from([(1, 140), (2, 40), (3, 20)]));

    harness.model("m", &parameters(&[("version_weights", "1:1,2:1")]), &[]);
    load(&engine).await.unwrap();
    assert_eq!(run_many(&engine, 10).await, BTreeMap::from([(1, 5), (2, 5)]));
    assert_eq!(counts(&engine), BTreeMap::from([(1, 145), (2, 45), (3, 20)]), "no version was loaded anew");

    harness.model("m", ALL, &[]);
    load(&engine).await.unwrap();
    assert_eq!(run_many(&engine, 3).await, BTreeMap::from([(3, 3)]), "the latest, as without weights");
    assert_eq!(counts(&engine), BTreeMap::from([(1, 145), (2, 45), (3, 23)]));
}

#[tokio::test]
async fn a_request_that_names_its_version_is_not_routed() {
    let harness = Harness::new();
    harness.model("m", &parameters(&[("version_weights", "1:1,2:0"), ("canary_version", "1")]), &[1, 2]);
    let engine = harness.explicit();
    load(&engine).await.unwrap();
    let marked = vec![("canary".to_owned(), Parameter::Bool(true))];
    let named = InferRequest { model_version: VersionChoice::Exact(2), parameters: marked, ..ask("m", &[1.0]) };
    assert_eq!(run(&engine, named).await, 2);
    assert_eq!(run(&engine, ask("m", &[1.0])).await, 1);
}

#[tokio::test]
async fn a_marked_request_runs_on_the_canary_version_and_no_other_does() {
    let harness = Harness::new();
    let canary = [("canary_version", "3"), ("canary_key", "x-group"), ("canary_value", "beta")];
    harness.model("m", &parameters(&canary), &[1, 2, 3]);
    let engine = harness.explicit();
    load(&engine).await.unwrap();
    let found = engine.model(ModelId { name: "m", version: VersionChoice::Latest }).unwrap();
    let ask_with = |mark: Option<&'static str>, own: Option<&str>| {
        let own = own.map(|value| ("x-group".to_owned(), Parameter::String(value.into())));
        let mut request = InferRequest { parameters: own.into_iter().collect(), ..ask("m", &[1.0]) };
        found.mark_canary(&mut request, |key| mark.filter(|_| key == "x-group").map(str::as_bytes));
        request
    };
    for (mark, own, version) in [
        (None, None, 2),
        (Some("beta"), None, 3),
        (Some("alpha"), None, 2),
        (None, Some("beta"), 3),
        (Some("beta"), Some("none"), 2),
    ] {
        assert_eq!(run(&engine, ask_with(mark, own)).await, version, "{mark:?} {own:?}");
    }
}

#[tokio::test]
async fn a_sequence_stays_on_its_version_while_weights_change() {
    let harness = Harness::new();
    harness.model("m", &parameters(&[("version_weights", "1:1,2:1")]), &[1, 2]);
    let engine = harness.explicit();
    load(&engine).await.unwrap();
    let part = |id: &str, is_start, is_end| InferRequest {
        sequence: Some(Sequence { id: CorrelationId::Text(id.into()), is_start, is_end }),
        ..ask("m", &[1.0])
    };
    let (a, b) = (run(&engine, part("a", true, false)).await, run(&engine, part("b", true, false)).await);
    assert_eq!((a, b), (1, 2), "sequences are split as requests are");
    for weights in ["1:1,2:1", "1:1,2:0", "1:0,2:1"] {
        harness.model("m", &parameters(&[("version_weights", weights)]), &[]);
        load(&engine).await.unwrap();
        for _ in 0..3 {
            assert_eq!(
                (run(&engine, part("a", false, false)).await, run(&engine, part("b", false, false)).await),
                (1, 2)
            );
        }
    }
    assert_eq!(run(&engine, part("a", false, true)).await, 1);
    assert_eq!(run(&engine, part("a", true, false)).await, 2, "a new one by the weights of now");
}

#[tokio::test]
async fn steps_of_ensembles_and_requests_of_models_are_routed_alike() {
    let harness = Harness::new();
    let routing = [("version_weights", "1:3,2:1"), ("canary_version", "3")];
    harness.model("m", &parameters(&routing), &[1, 2, 3]);
    harness.ensemble("e", &[("m", "IN", "OUT")], &["OUT"], "");
    harness.scripted("asks", "ask m", "", &[1]);
    let (engine, _) = harness.with_script();
    for model in ["m", "e", "asks"] {
        engine.load(model, LoadParameters::default()).await.unwrap();
    }
    for _ in 0..8 {
        run(&engine, ask_ensemble("e", &[1.0])).await;
    }
    let of_m = || -> Vec<u64> {
        let id = ModelId { name: "m", version: VersionChoice::Latest };
        engine.statistics(Some(id)).unwrap().iter().map(|one| one.success.count).collect()
    };
    assert_eq!(of_m(), [6, 2, 0]);
    for _ in 0..4 {
        run(&engine, ask("asks", &[1.0])).await;
    }
    assert_eq!(of_m(), [9, 3, 0]);
    let mark = vec![("canary".to_owned(), Parameter::Bool(true))];
    run(&engine, InferRequest { parameters: mark, ..ask_ensemble("e", &[1.0]) }).await;
    assert_eq!(of_m(), [9, 3, 1], "a mark goes along");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_version_gets_copies_whose_answers_nobody_sees() {
    let harness = Harness::new();
    harness.model("m", &parameters(&[("shadow_versions", "3:100,2:25")]), &[1, 2, 3]);
    let engine = harness.explicit();
    load(&engine).await.unwrap();
    assert_eq!(run_many(&engine, 80).await, BTreeMap::from([(1, 80)]), "the shadows run no request themselves");
    until(|| counts(&engine) == BTreeMap::from([(1, 80), (2, 20), (3, 80)])).await;
    let page = engine.metrics().text();
    for line in [
        "nv_inference_request_success{model=\"m\",version=\"3\"} 80",
        "tritonserver_shadow_copies{model=\"m\",version=\"2\"} 20",
        "tritonserver_shadow_copies{model=\"m\",version=\"3\"} 80",
        "tritonserver_shadow_copies_refused{model=\"m\",version=\"3\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    let sequence = Some(Sequence { id: CorrelationId::Number(5), is_start: true, is_end: true });
    run(&engine, InferRequest { sequence, ..ask("m", &[1.0]) }).await;
    let exact = InferRequest { model_version: VersionChoice::Exact(1), ..ask("m", &[1.0]) };
    run(&engine, exact).await;
    assert_eq!(run_many(&engine, 1).await, BTreeMap::from([(1, 1)]));
    until(|| counts(&engine)[&3] == 81).await;
    assert_eq!(counts(&engine)[&1], 83, "neither sequences nor requests that name their version are copied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_is_slow_costs_its_copies_only() {
    let harness = Harness::new();
    harness.scripted("m", "", &parameters(&[("shadow_versions", "2:100")]), &[1, 2]);
    harness.write("m/2/gated", "");
    let (engine, probe) = harness.with_script();
    load(&engine).await.unwrap();
    probe.close_gate();
    assert_eq!(run_many(&engine, 200).await, BTreeMap::from([(1, 200)]), "nobody waits for the shadow");
    let value = |name: &str| -> u64 {
        let name = format!("tritonserver_shadow_copies{name}{{model=\"m\",version=\"2\"}} ");
        engine.metrics().text().lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap()
    };
    until(|| (value(""), value("_refused")) == (128, 72)).await;
    probe.open_gate();
    until(|| counts(&engine)[&2] == 128).await;
    // a copy gives its place back a moment after it was counted
    let mut sent = 200;
    tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while value("") == 128 {
            assert_eq!(run_many(&engine, 1).await, BTreeMap::from([(1, 1)]));
            sent += 1;
        }
    })
    .await
    .expect("copies that ended have made place for others");
    until(|| value("") + value("_refused") == sent).await;
    let (copies, refused) = (value(""), value("_refused"));

    probe.close_gate();
    let large = vec![1.0; 6 << 20]; // 24 MiB
    for _ in 0..4 {
        run(&engine, ask("m", &large)).await;
    }
    until(|| (value(""), value("_refused")) == (copies + 2, refused + 2)).await;
    probe.open_gate();
}

#[tokio::test]
async fn the_share_of_a_version_that_is_not_well_goes_to_the_others() {
    let harness = Harness::new();
    harness.scripted("m", "", &parameters(&[("version_weights", "1:8,2:1,3:1")]), &[1, 2, 3]);
    let (engine, probe) = harness.with_script();
    load(&engine).await.unwrap();
    // two instances each, made in the order of the versions
    let set = |version: usize, is_healthy| {
        let health = probe.health.lock();
        let each = health.len() / 3;
        health[(version - 1) * each..version * each].iter().for_each(|health| health.set(is_healthy));
    };
    set(1, false);
    let by_version = run_many(&engine, 10).await;
    assert_eq!(by_version.keys().copied().collect::<Vec<_>>(), [2, 3], "{by_version:?}");
    set(1, true);
    assert_eq!(run_many(&engine, 10).await, BTreeMap::from([(1, 8), (2, 1), (3, 1)]), "and comes back with it");
}

#[tokio::test]
async fn versions_that_are_not_loaded_cannot_have_weights() {
    let harness = Harness::new();
    harness.model("m", "parameters { key: 'version_weights' value { string_value: '1:9,2:1' } }", &[1, 2]);
    let engine = harness.explicit();
    let error = load(&engine).await.unwrap_err();
    let reason = "parameter 'version_weights' of model 'm' names version 1, which the version policy does not load: set version_policy \
                  { specific { versions: [ 1, 2 ] } }";
    assert_eq!(engine.index(false).unwrap()[0].reason, reason);
    let answer = "failed to load 'm', failed to poll from model repository: ";
    assert_eq!(error, format!("{answer}{reason}"), "Triton has no such parameter, and no sentence");
    harness.model("m", &parameters(&[("version_weights", "1:ninety")]), &[]);
    let error = load(&engine).await.unwrap_err();
    let reason = engine.index(false).unwrap()[0].reason.clone();
    assert!(reason.contains("write VERSION:NUMBER pairs"), "{reason}");
    assert_eq!(error, format!("{answer}{reason}"));
    harness.model("m", &parameters(&[("version_weights", "1:9,2:1")]), &[]);
    load(&engine).await.unwrap();
    harness.model("m", &parameters(&[("version_weights", "1:9,7:1")]), &[]);
    load(&engine).await.unwrap_err();
    assert_eq!(run_many(&engine, 10).await, BTreeMap::from([(1, 9), (2, 1)]), "what served goes on as it was");
}

#[tokio::test]
async fn weights_follow_the_versions_that_are_there() {
    let harness = Harness::new();
    harness.model("m", &parameters(&[("version_weights", "1:8,2:1,3:1")]), &[1, 2, 3]);
    let engine = harness.explicit();
    load(&engine).await.unwrap();
    assert_eq!(run_many(&engine, 10).await, BTreeMap::from([(1, 8), (2, 1), (3, 1)]));
    let policy = "version_policy { specific { versions: [ 2, 3 ] } }";
    let weights = "parameters { key: 'version_weights' value { string_value: '2:1,3:1' } }";
    harness.model("m", &format!("{policy} {weights}"), &[]);
    load(&engine).await.unwrap();
    assert_eq!(run_many(&engine, 10).await, BTreeMap::from([(2, 5), (3, 5)]));
}
