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
    Compiled, Manifest, ManifestModel, Observed, Reason, compile,
    compile::{MANIFEST_MAX, Placement},
    manifest::ManifestError,
    replica::{ModelReport, Phase, Replica, Report},
    rollout,
};
use proptest::prelude::*;

/// No pod here says since when it is not ready.
const NOW: Time = Time(Timestamp::UNIX_EPOCH);

fn server(memory: Option<u64>) -> TritonServer {
    let gpu = Gpu {
        count: Some(1),
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

/// What happens to one model: it is there from then on with that text in its configuration, or it is gone.
type Event = (usize, Option<u8>);

/// Events of a few models, as they happen to each, in any order between them; with how many pods look at the manifest after each.
fn any_history() -> impl Strategy<Value = Vec<(Event, u8)>> {
    let of_one = |model: usize| {
        let events = prop::collection::vec(prop::option::weighted(0.8, 0..3_u8), 1..4);
        events.prop_map(move |events| events.into_iter().map(|event| (model, event)).collect::<Vec<Event>>())
    };
    let all: Vec<_> = (0..5).map(of_one).collect();
    all.prop_flat_map(|all| {
        let owners: Vec<usize> = all.iter().enumerate().flat_map(|(at, events)| vec![at; events.len()]).collect();
        let looks = prop::collection::vec(0..8_u8, owners.len());
        (Just(all), Just(owners).prop_shuffle(), looks)
    })
    .prop_map(|(mut all, owners, looks)| {
        all.iter_mut().for_each(|events| events.reverse());
        let next = |owner: usize, all: &mut Vec<Vec<Event>>| all[owner].pop().unwrap();
        owners.into_iter().zip(looks).map(|(owner, looks)| (next(owner, &mut all), looks)).collect()
    })
}

/// A server in the making: the models there are, the manifest published last, and pods that follow it when they look.
#[derive(Default)]
struct World {
    models: std::collections::BTreeMap<usize, u8>,
    last: Option<Manifest>,
    adopt: rollout::Adopt,
    pods: Vec<Replica>,
}

impl World {
    fn models(&self) -> Vec<TritonModel> {
        let made = self.models.iter().map(|(number, text)| {
            let mut model = model(&format!("m{number}"));
            model.spec.config_pbtxt = Some(format!("max_batch_size: {text}"));
            model
        });
        made.collect()
    }

    /// What an operator does, be it one that was just started: it knows what is in the cluster and nothing else.
    fn reconcile(&mut self) {
        let compiled = run(&self.models(), self.last.as_ref());
        let around = rollout::Around { last: self.last.as_ref(), replicas: &self.pods, at_once: 1, now: &NOW };
        let (compiled, adopt) = rollout::advance(compiled, &around);
        (self.last, self.adopt) = (Some(compiled.manifest), adopt);
    }

    /// A pod takes in the manifest and what it may adopt, and serves it.
    fn look(&mut self, pod: usize) {
        let (Some(manifest), pod) = (&self.last, &mut self.pods[pod]) else { return };
        let adopts = self.adopt.get(&pod.name).cloned().unwrap_or_default();
        let served = manifest.models.iter().filter_map(|entry| {
            let may_adopt =
                entry.rollout.is_none() || adopts.contains(&entry.content_hash()[..ManifestModel::ADOPT_WORD]);
            let former = || entry.rollout.as_ref()?.former.as_deref();
            Some((entry.name.clone(), (if may_adopt { Some(entry) } else { former() })?.content_hash()))
        });
        let report =
            |hash| ModelReport { entry: Some(hash), phase: Phase::Ready, versions: vec![1], ..ModelReport::default() };
        pod.report = Some(Report {
            manifest_hash: Some(manifest.hash.clone()),
            models: served.map(|(name, hash)| (name, report(hash))).collect(),
            adopts: Some(adopts),
            ..Report::default()
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Invariant 18: whatever order models come, change and go in, and whichever pods keep up, they end the same.
    #[test]
    fn invariant_18_any_order_of_events_ends_with_the_same_manifest_everywhere(history in any_history()) {
        let pod = |number| Replica { name: format!("p{number}"), is_ready: true, ..Replica::default() };
        let mut world = World { pods: (0..3).map(pod).collect(), ..World::default() };
        for ((number, text), looks) in history {
            match text {
                Some(text) => drop(world.models.insert(number, text)),
                None => drop(world.models.remove(&number)),
            }
            world.reconcile();
            (0..3).filter(|pod| looks & (1 << pod) != 0).for_each(|pod| world.look(pod));
        }
        let wanted = run(&world.models(), None).manifest;
        let mut rounds = 0;
        while world.last.as_ref() != Some(&wanted) {
            rounds += 1;
            prop_assert!(rounds < 50, "it never ends: {}", world.last.unwrap().to_json());
            (0..3).for_each(|pod| world.look(pod));
            world.reconcile();
        }
        (0..3).for_each(|pod| world.look(pod));
        let hashes: std::collections::BTreeMap<String, String> =
            wanted.models.iter().map(|entry| (entry.name.clone(), entry.content_hash())).collect();
        for pod in &world.pods {
            let report = pod.report.as_ref().unwrap();
            let served = report.models.iter().map(|(name, model)| (name.clone(), model.entry.clone().unwrap())).collect();
            prop_assert_eq!(&hashes, &served);
        }
        world.reconcile();
        prop_assert_eq!(world.last.as_ref(), Some(&wanted), "nothing is left to do");
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
fn what_serves_keeps_its_name_against_an_older_model_that_comes_from_elsewhere() {
    let named = |name: &str, second: i64| {
        let mut model = model(name);
        model.spec.model_name = Some("m".into());
        model.metadata.creation_timestamp = Timestamp::from_second(second).ok().map(Time);
        model
    };
    let (here, mut moved) = (named("here", 2), named("moved", 1));
    moved.spec.priority = Some(1000);
    let last = run(std::slice::from_ref(&here), None).manifest;
    let both = [here.clone(), moved.clone()];
    let compiled = run(&both, Some(&last));
    assert_eq!(compiled.manifest, last);
    assert!(
        matches!(&compiled.models[1].placement, Placement::LeftOut { reason: Reason::NameConflict, message } if message.contains("TritonModel here")),
        "{:?}",
        compiled.models
    );
    // a mistake does not cost it the name
    let mut broken = here.clone();
    broken.spec.config_pbtxt = Some("max_batch_size: many".into());
    assert_eq!(run(&[broken, moved.clone()], Some(&last)).manifest, last);
    // where nobody serves under the name yet, the older has it, whoever was seen first
    assert_eq!(run(&both, None).manifest.models[0].resource, "moved");
    // and once the holder is gone, the other has it at once
    assert_eq!(run(std::slice::from_ref(&moved), Some(&last)).manifest.models[0].resource, "moved");
    let mut gone = here;
    gone.spec.server_ref.name = "another".into();
    assert_eq!(run(&[gone, moved], Some(&last)).manifest.models[0].resource, "moved");
}

/// A model whose files take most of a quarter of a manifest.
fn big(name: &str) -> TritonModel {
    let mut model = model(name);
    let files = [("1/model.py".to_owned(), "x".repeat(240_000))];
    model.spec.source = ModelSource { inline: Some(InlineSource { files: files.into() }), ..Default::default() };
    model
}

fn left_out<'a>(compiled: &'a Compiled, name: &str) -> Option<(Reason, &'a str)> {
    let model = compiled.models.iter().find(|model| model.object.name == name)?;
    match &model.placement {
        Placement::LeftOut { reason, message } => Some((*reason, message)),
        _ => None,
    }
}

#[test]
fn a_full_manifest_keeps_what_it_has_unless_a_higher_priority_comes() {
    let at = |name: &str, second: i64, priority: Option<i32>| {
        let mut model = big(name);
        model.spec.priority = priority;
        model.metadata.creation_timestamp = Timestamp::from_second(second).ok().map(Time);
        model
    };
    let here = ["m", "n", "o", "p"].map(|name| at(name, 2, None));
    let last = run(&here, None).manifest;
    assert_eq!(last.models.len(), 4);
    // newcomers that are older, and first by name
    let mut all = here.to_vec();
    all.extend(["a", "b"].map(|name| at(name, 1, None)));
    let compiled = run(&all, Some(&last));
    assert_eq!(compiled.manifest, last);
    assert_eq!(left_out(&compiled, "a").unwrap().0, Reason::ManifestTooLarge);
    // one of higher priority takes the place of one, which says who has it
    all[4].spec.priority = Some(1);
    let compiled = run(&all, Some(&last));
    assert_eq!(names(&compiled), ["a", "m", "n", "o"]);
    let (reason, message) = left_out(&compiled, "p").unwrap();
    assert_eq!(reason, Reason::ManifestTooLarge);
    assert!(message.contains("free, after TritonModels of a higher spec.priority: a: use"), "{message}");
    // that stays so, and is said, when all is compiled again
    let again = run(&all, Some(&compiled.manifest));
    assert_eq!((&again.manifest, left_out(&again, "p").unwrap()), (&compiled.manifest, (reason, message)));
}

#[test]
fn what_a_model_wants_beyond_what_it_has_is_no_reason_to_push_out_another() {
    let sized = |name: &str, bytes: u64, priority: i32, second: i64| {
        let mut model = model(name);
        (model.spec.gpu_memory, model.spec.priority) = (Some(ByteCount(bytes)), Some(priority));
        model.metadata.creation_timestamp = Timestamp::from_second(second).ok().map(Time);
        model
    };
    let before = [sized("a", 40, 0, 1), sized("b", 50, 0, 2)];
    let last = run(&before, None).manifest;
    // the older grows, and another one comes that would fit beside what is there
    let all = [sized("a", 60, 0, 1), sized("b", 50, 0, 2), sized("c", 10, 0, 3)];
    let compiled = run(&all, Some(&last));
    assert_eq!(names(&compiled), ["a", "b", "c"]);
    assert_eq!(compiled.manifest.model("a"), last.model("a"), "it goes on as it was");
    let kept = &compiled.models[0].placement;
    assert!(matches!(kept, Placement::Kept { reason: Reason::InsufficientGPUMemory, .. }), "{kept:?}");
    assert_eq!(compiled.gpu_memory.unwrap().requested, ByteCount(100));
    assert_eq!(run(&all, Some(&compiled.manifest)).manifest, compiled.manifest);
    // one that wants less never loses its place, and what it gives up is free at once
    let all = [sized("a", 60, 0, 1), sized("b", 40, 0, 2)];
    assert_eq!(names(&run(&all, Some(&last))), ["a", "b"]);
    assert_eq!(run(&all, Some(&last)).gpu_memory.unwrap().requested, ByteCount(100));
    // by a higher priority it may
    let all = [sized("a", 60, 1, 1), sized("b", 50, 0, 2)];
    assert_eq!(names(&run(&all, Some(&last))), ["a"]);
}

#[test]
fn a_manifest_never_outgrows_its_config_map() {
    let compiled = run(&[big("a"), big("b"), big("c"), big("d"), big("e"), model("f")], None);
    assert_eq!(names(&compiled), ["a", "b", "c", "d", "f"]);
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
