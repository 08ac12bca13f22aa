//! What must hold for any set of models: the order they come in says nothing, budgets hold, names are given once, and what
//! the last manifest said is not lost to a mistake.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use crds::{
    TritonModel, TritonModelSpec, TritonServer, TritonServerSpec,
    parts::{
        ByteCount, NameRef,
        gpu::{Gpu, Percent},
        source::{HttpSource, InlineSource, ModelSource},
    },
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use operator_core::{
    Compiled, Manifest, Observed, Reason, compile,
    compile::{MANIFEST_MAX, Placement},
    manifest::ManifestError,
};
use proptest::prelude::*;

fn server(memory: Option<u64>) -> TritonServer {
    let gpu = Gpu {
        count: 1,
        memory_per_replica: memory.map(ByteCount),
        memory_reserve: Some(Percent::new(0)),
        ..Default::default()
    };
    TritonServer::new("s", TritonServerSpec { gpu: Some(gpu), ..Default::default() })
}

fn model(name: &str) -> TritonModel {
    let http = HttpSource { uri: format!("https://models.example/{name}"), secret_ref: None };
    TritonModel::new(
        name,
        TritonModelSpec {
            server_ref: NameRef::new("s"),
            source: ModelSource { http: Some(http), ..Default::default() },
            ..Default::default()
        },
    )
}

fn run(models: &[TritonModel], last: Option<&Manifest>) -> Compiled {
    compile(&server(Some(100)), models, &Observed { manifest: last.cloned(), ..Default::default() })
}

fn names(compiled: &Compiled) -> Vec<&str> {
    compiled.manifest.models.iter().map(|model| model.name.as_str()).collect()
}

/// Any model: a few names, so that they clash; a few times, so that ages tie; some wrong.
fn any_model() -> impl Strategy<Value = TritonModel> {
    let fields = (0..4_i32, 0..120_u64, 0..3_i64, prop::option::of("[ab]"), prop::bool::weighted(0.2));
    ("[a-f]{1,2}", fields).prop_map(|(name, (priority, memory, day, model_name, is_wrong))| {
        let mut model = model(&name);
        model.spec.priority = Some(priority);
        model.spec.gpu_memory = Some(ByteCount(memory));
        model.spec.model_name = model_name;
        model.metadata.creation_timestamp = Timestamp::from_second(day * 86_400).ok().map(Time);
        if is_wrong {
            model.spec.source.http = None;
        }
        model
    })
}

fn any_models() -> impl Strategy<Value = (Vec<TritonModel>, Vec<TritonModel>)> {
    prop::collection::vec(any_model(), 0..12).prop_flat_map(|mut models| {
        models.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        models.dedup_by(|a, b| a.metadata.name == b.metadata.name);
        (Just(models.clone()), Just(models).prop_shuffle())
    })
}

proptest! {
    #[test]
    fn the_order_of_the_models_says_nothing((models, shuffled) in any_models(), before in any_models()) {
        let last = run(&before.0, None).manifest;
        let (one, other) = (run(&models, Some(&last)), run(&shuffled, Some(&last)));
        prop_assert_eq!(one.manifest.to_json(), other.manifest.to_json());
        prop_assert_eq!(&one.problems, &other.problems);
        prop_assert_eq!(&one.models, &other.models);
    }

    #[test]
    fn the_budget_holds_and_every_model_is_told_what_became_of_it((models, _) in any_models()) {
        let compiled = run(&models, None);
        let claimed: u64 = compiled.manifest.models.iter().filter_map(|model| model.gpu_memory).map(|bytes| bytes.0).sum();
        prop_assert!(claimed <= 100);
        prop_assert_eq!(compiled.gpu_memory.unwrap().requested.0, claimed);
        prop_assert_eq!(compiled.models.len(), models.len());
        let placed: Vec<&str> = compiled
            .models
            .iter()
            .filter(|model| model.placement == Placement::Placed)
            .map(|model| model.object.name.as_str())
            .collect();
        let mut in_manifest: Vec<&str> = compiled.manifest.models.iter().map(|model| model.resource.as_str()).collect();
        in_manifest.sort_unstable();
        prop_assert_eq!(placed, in_manifest);
        let left_out = compiled.models.iter().filter(|model| model.placement != Placement::Placed);
        for model in left_out {
            prop_assert!(compiled.problems.iter().any(|problem| problem.object == model.object));
        }
    }

    #[test]
    fn a_manifest_is_read_back_as_it_was_written((models, _) in any_models()) {
        let manifest = run(&models, None).manifest;
        prop_assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), manifest);
    }

    #[test]
    fn compiling_again_changes_nothing((models, _) in any_models()) {
        let first = run(&models, None).manifest;
        prop_assert_eq!(run(&models, Some(&first)).manifest, first);
    }
}

#[test]
fn a_model_that_became_wrong_goes_on_as_it_was() {
    let last = run(&[model("a"), model("b")], None).manifest;
    let mut broken = model("a");
    broken.spec.config_pbtxt = Some("max_batch_size: many".into());
    let compiled = run(&[broken.clone(), model("b")], Some(&last));
    assert_eq!(compiled.manifest, last);
    assert!(matches!(compiled.models[0].placement, Placement::Kept { reason: Reason::InvalidConfig, .. }));
    assert_eq!(compiled.problems.len(), 1);
    // one that was never right has nothing to go on as
    assert_eq!(names(&run(&[broken, model("b")], None)), ["b"]);
}

#[test]
fn a_model_whose_resource_cannot_be_read_goes_on_as_it_was_and_keeps_its_name() {
    let last = run(&[model("a"), model("b")], None).manifest;
    let unreadable = [("a".to_owned(), "invalid type: integer".to_owned())].into();
    let observed = Observed { manifest: Some(last.clone()), unreadable, ..Default::default() };
    let mut thief = model("c");
    thief.spec.model_name = Some("a".into());
    thief.spec.priority = Some(1000);
    let compiled = compile(&server(Some(100)), &[model("b"), thief], &observed);
    assert_eq!(compiled.manifest, last);
    let placements: Vec<_> =
        compiled.models.iter().map(|model| (model.object.name.as_str(), &model.placement)).collect();
    assert!(
        matches!(placements[0], ("a", Placement::Kept { reason: Reason::InvalidSpec, message }) if message.contains("integer"))
    );
    assert!(matches!(placements[2], ("c", Placement::LeftOut { reason: Reason::NameConflict, .. })));
    // one that is deleted is another matter
    let deleted = Observed { manifest: Some(last), ..Default::default() };
    assert_eq!(names(&compile(&server(Some(100)), &[model("b")], &deleted)), ["b"]);
}

#[test]
fn a_newcomer_of_the_same_priority_does_not_push_out_who_has_a_place() {
    let sized = |name: &str, bytes: u64, second: i64| {
        let mut model = model(name);
        model.spec.gpu_memory = Some(ByteCount(bytes));
        model.metadata.creation_timestamp = Timestamp::from_second(second).ok().map(Time);
        model
    };
    let here = sized("here", 80, 2);
    // older, but it has served elsewhere until now
    let mut moved = sized("moved", 60, 1);
    let last = run(std::slice::from_ref(&here), None).manifest;
    assert_eq!(names(&run(&[here.clone(), moved.clone()], Some(&last))), ["here"]);
    moved.spec.priority = Some(1);
    assert_eq!(names(&run(&[here, moved], Some(&last))), ["moved"]);
}

#[test]
fn a_manifest_never_outgrows_its_config_map() {
    let big = |name: &str| {
        let mut model = model(name);
        let files = [("1/model.py".to_owned(), "x".repeat(250 * 1024))];
        model.spec.source = ModelSource { inline: Some(InlineSource { files: files.into() }), ..Default::default() };
        model
    };
    let compiled = run(&[big("a"), big("b"), big("c"), big("d"), model("e")], None);
    assert_eq!(names(&compiled), ["a", "b", "c", "e"]);
    assert!(compiled.manifest.to_json().len() < 1024 * 1024);
    assert!(compiled.manifest.to_json().len() <= MANIFEST_MAX + 1024);
    assert_eq!(compiled.problems[0].reason, Reason::ManifestTooLarge);
}

#[test]
fn a_manifest_cut_off_or_from_the_future_is_refused() {
    let json = run(&[model("a")], None).manifest.to_json();
    assert!(matches!(Manifest::from_json(&json[..json.len() - 9]), Err(ManifestError::Unreadable(_))));
    assert!(matches!(Manifest::from_json(&json.replace("example/a", "example/b")), Err(ManifestError::Damaged)));
    let newer = json.replace("\"format\":1", "\"format\":2");
    assert!(matches!(Manifest::from_json(&newer), Err(ManifestError::TooNew { found: 2 })));
}

#[test]
fn only_what_makes_a_model_what_it_is_changes_its_content() {
    let hash = |change: &dyn Fn(&mut TritonModelSpec)| {
        let mut model = model("a");
        change(&mut model.spec);
        run(&[model], None).manifest.models[0].content_hash()
    };
    let plain = hash(&|_| ());
    assert_eq!(plain, hash(&|spec| spec.gpu_memory = Some(ByteCount(1))));
    assert_eq!(plain, hash(&|spec| spec.readiness = Some(crds::parts::load::Readiness::Optional)));
    assert_ne!(plain, hash(&|spec| spec.config_pbtxt = Some("max_batch_size: 1".into())));
}
