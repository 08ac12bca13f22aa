//! The rules of the plan, one sentence each. A model is written as it is observed; what is expected are the steps.

use std::{collections::BTreeMap, time::Duration};

use super::{known::LONGEST_PAUSE, *};

fn content(digit: char) -> ContentHash {
    ContentHash::from_name(&format!("sha256-{}", digit.to_string().repeat(64))).unwrap()
}

fn a() -> Option<ContentHash> {
    Some(content('a'))
}

fn b() -> Option<ContentHash> {
    Some(content('b'))
}

fn failed(count: u32, last: Instant) -> Tries {
    Tries { count, last, is_final: false }
}

/// A model that serves content a, as the manifest wants.
fn serving() -> Wanted {
    Wanted { staged: a(), active: a(), linked: a(), served: Served::Yes, ..Wanted::default() }
}

/// A model that serves content a while the manifest wants b, which is fetched.
fn updating() -> Wanted {
    Wanted { staged: b(), ..serving() }
}

fn observe(models: impl IntoIterator<Item = (&'static str, Wanted)>) -> Inputs {
    Inputs {
        wanted: models.into_iter().map(|(name, model)| (name.to_owned(), model)).collect(),
        server_is_live: true,
        grace: Duration::from_secs(30),
        ..Inputs::default()
    }
}

#[track_caller]
fn check(observed: &Inputs, now: Instant, expect: &[Step]) -> Plan {
    let plan = plan(observed, now);
    assert_eq!(plan.steps, expect);
    plan
}

fn load(name: &str, content: Option<ContentHash>) -> Step {
    Step::Load(name.into(), content.unwrap())
}

#[test]
fn a_new_model_is_fetched_then_loaded() {
    let now = Instant::now();
    check(&observe([("m", Wanted::default())]), now, &[Step::Fetch("m".into())]);
    check(&observe([("m", Wanted { is_fetching: true, ..Wanted::default() })]), now, &[]);
    check(&observe([("m", Wanted { staged: a(), ..Wanted::default() })]), now, &[load("m", a())]);
    let plan = check(&observe([("m", serving())]), now, &[]);
    assert!(plan.is_settled && plan.wake.is_none());
}

#[test]
fn before_the_server_is_up_content_is_only_put_in_its_place() {
    let now = Instant::now();
    let mut observed = observe([("m", Wanted { staged: a(), ..Wanted::default() })]);
    observed.server_is_live = false;
    check(&observed, now, &[Step::Link("m".into(), content('a'))]);
    observed.wanted.get_mut("m").unwrap().linked = a();
    assert!(!check(&observed, now, &[]).is_settled);
}

#[test]
fn a_server_that_is_down_never_finds_unproven_content_in_place_of_proven() {
    let mut observed = observe([("m", updating())]);
    observed.server_is_live = false;
    check(&observed, Instant::now(), &[]);
}

#[test]
fn new_content_is_loaded_while_the_old_serves() {
    check(&observe([("m", updating())]), Instant::now(), &[load("m", b())]);
    let fetching = Wanted { staged: None, is_fetching: true, ..serving() };
    check(&observe([("m", fetching)]), Instant::now(), &[]);
}

#[test]
fn bad_content_leaves_the_old_in_service_and_is_tried_again_later() {
    let now = Instant::now();
    let mut model = updating();
    model.retry_policy = RetryPolicy { retries: 2, backoff: Duration::from_secs(10) };
    model.loads.insert(content('b'), failed(1, now));
    let plan = check(&observe([("m", model.clone())]), now, &[]);
    assert_eq!(plan.wake, Some(now + Duration::from_secs(10)));
    check(&observe([("m", model.clone())]), now + Duration::from_secs(10), &[load("m", b())]);

    model.loads.insert(content('b'), failed(2, now));
    assert_eq!(plan_of(&model, now).wake, Some(now + Duration::from_secs(20)), "the pause doubles");
    model.loads.insert(content('b'), failed(3, now));
    let plan = plan_of(&model, now + Duration::from_secs(3600));
    assert!(plan.steps.is_empty() && plan.is_settled, "two retries, then no more");
}

fn plan_of(model: &Wanted, now: Instant) -> Plan {
    plan(&observe([("m", model.clone())]), now)
}

#[test]
fn a_failed_update_does_not_keep_the_old_content_from_coming_back_after_a_restart() {
    let now = Instant::now();
    let mut model = Wanted { served: Served::No, ..updating() };
    model.loads.insert(content('b'), Tries { is_final: true, ..failed(1, now) });
    check(&observe([("m", model)]), now, &[load("m", a())]);
}

#[test]
fn after_a_restart_what_was_confirmed_comes_back_before_anything_new_is_tried() {
    let model = Wanted { served: Served::No, ..updating() };
    check(&observe([("m", model)]), Instant::now(), &[load("m", a())]);
    check(&observe([("m", updating())]), Instant::now(), &[load("m", b())]);
}

#[test]
fn a_fetch_under_way_does_not_keep_the_old_content_from_coming_back_after_a_restart() {
    let model = Wanted { staged: None, is_fetching: true, served: Served::No, ..serving() };
    check(&observe([("m", model)]), Instant::now(), &[load("m", a())]);
}

#[test]
fn whatever_the_server_lost_is_loaded_again() {
    let lost = Wanted { served: Served::No, ..serving() };
    check(&observe([("m", lost.clone()), ("n", lost)]), Instant::now(), &[load("m", a()), load("n", a())]);
}

#[test]
fn a_model_the_server_is_busy_with_is_left_alone() {
    let model = Wanted { staged: a(), linked: a(), served: Served::Changing, ..Wanted::default() };
    assert!(!check(&observe([("m", model)]), Instant::now(), &[]).is_settled);
}

#[test]
fn content_the_server_found_at_its_start_is_confirmed_by_a_load() {
    let model = Wanted { staged: a(), linked: a(), served: Served::Yes, ..Wanted::default() };
    check(&observe([("m", model)]), Instant::now(), &[load("m", a())]);
}

#[test]
fn a_crash_between_link_and_load_is_made_up_for() {
    let model = Wanted { linked: b(), ..updating() };
    check(&observe([("m", model.clone())]), Instant::now(), &[load("m", b())]);
    let now = Instant::now();
    let bad = BTreeMap::from([(content('b'), Tries { is_final: true, ..failed(1, now) })]);
    check(&observe([("m", Wanted { loads: bad, ..model })]), now, &[load("m", a())]);
}

#[test]
fn what_a_pod_is_not_to_serve_any_more_is_replaced_and_never_loaded_again() {
    let now = Instant::now();
    let back = Wanted { staged: a(), active: b(), linked: b(), is_withheld: true, ..serving() };
    check(&observe([("m", back.clone())]), now, &[load("m", a())]);
    check(&observe([("m", Wanted { served: Served::No, ..back.clone() })]), now, &[load("m", a())]);
    let mut down = observe([("m", Wanted { served: Served::No, ..back.clone() })]);
    down.server_is_live = false;
    check(&down, now, &[Step::Link("m".into(), content('a'))]);
    // it goes on while there is nothing in its place, but does not come back
    let fetching = Wanted { staged: None, is_fetching: true, ..back };
    check(&observe([("m", fetching.clone())]), now, &[]);
    check(&observe([("m", Wanted { served: Served::No, ..fetching })]), now, &[]);
}

#[test]
fn what_somebody_else_has_loaded_is_replaced_by_what_should_serve() {
    let now = Instant::now();
    let strange = Wanted { is_overridden: true, ..serving() };
    assert!(!check(&observe([("m", strange.clone())]), now, &[load("m", a())]).is_settled);
    check(&observe([("m", Wanted { served: Served::Changing, ..strange.clone() })]), now, &[]);
    let loads = BTreeMap::from([(content('b'), failed(1, now))]);
    let beside = Wanted { staged: b(), loads: loads.clone(), ..strange.clone() };
    check(&observe([("m", beside)]), now, &[load("m", a())]);
    let alone = Wanted { staged: b(), active: None, loads, ..strange };
    check(&observe([("m", alone)]), now, &[Step::Evict("m".into())]);
}

#[test]
fn one_models_failure_does_not_hold_up_another() {
    let now = Instant::now();
    let broken = Wanted { fetches: Some(Tries { is_final: true, ..failed(1, now) }), ..Wanted::default() };
    let slow = Wanted { is_fetching: true, ..Wanted::default() };
    let fresh = Wanted { staged: a(), ..Wanted::default() };
    check(&observe([("a", broken), ("b", slow), ("c", fresh)]), now, &[load("c", a())]);
}

#[test]
fn a_model_that_left_is_unloaded_whatever_others_are_at() {
    let now = Instant::now();
    let slow = Wanted { is_fetching: true, ..Wanted::default() };
    let fresh = Wanted { staged: a(), ..Wanted::default() };
    let mut observed = observe([("slow", slow), ("new", fresh)]);
    observed.unwanted.insert("old".into(), false);
    check(&observed, now, &[load("new", a()), Step::Unload("old".into())]);

    observed.unwanted.insert("old".into(), true);
    observed.wanted.insert("new".into(), serving());
    assert!(!check(&observed, now, &[]).is_settled);
    observed.unwanted.insert("old".into(), false);
    observed.server_is_live = false;
    check(&observed, now, &[]);
}

#[test]
fn what_nobody_speaks_of_is_deleted_after_its_grace_and_never_beside_a_fetch() {
    let now = Instant::now();
    let mut observed = observe([("m", serving())]);
    observed.unreferenced.insert(content('c'), now);
    let plan = check(&observed, now, &[]);
    assert_eq!((plan.wake, plan.is_settled), (Some(now + observed.grace), true));
    check(&observed, now + observed.grace, &[Step::Delete(content('c'))]);
    observed.wanted.get_mut("m").unwrap().is_fetching = true;
    check(&observed, now + observed.grace, &[]);
}

#[test]
fn pauses_grow_and_are_bounded() {
    let now = Instant::now();
    let retry_policy = RetryPolicy { retries: 100, backoff: Duration::from_secs(1) };
    assert_eq!(retry_policy.retry(None, now), RetryDecision::Now);
    assert_eq!(retry_policy.retry(Some(&failed(1, now)), now), RetryDecision::At(now + Duration::from_secs(1)));
    assert_eq!(retry_policy.retry(Some(&failed(4, now)), now), RetryDecision::At(now + Duration::from_secs(8)));
    assert_eq!(retry_policy.retry(Some(&failed(90, now)), now), RetryDecision::At(now + LONGEST_PAUSE));
    assert_eq!(retry_policy.retry(Some(&failed(101, now)), now), RetryDecision::Never);
    assert_eq!(retry_policy.retry(Some(&Tries { is_final: true, ..failed(1, now) }), now), RetryDecision::Never);
}

#[test]
fn a_restarted_server_is_not_held_to_models_that_came_later_and_never_worked() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(startup_models(&names(&["a", "b"]), &names(&[]), None), names(&["a", "b"]));
    let last = names(&["a", "gone"]);
    assert_eq!(startup_models(&names(&["a", "good", "bad"]), &names(&["good"]), Some(&last)), names(&["a", "good"]));
}

/// A model that serves `b` and is to serve `a`, which is in rollout.
fn trial(number: u64, is_suspect: bool) -> Wanted {
    let suspects = if is_suspect { b().into_iter().collect() } else { BTreeSet::new() };
    Wanted { is_in_trial: true, number, suspects, ..updating() }
}

#[test]
fn contents_in_rollout_are_loaded_together_until_one_of_them_ends_a_server() {
    let staged = updating().staged;
    let both = || observe([("m", trial(1, false)), ("n", trial(2, false))]);
    check(&both(), Instant::now(), &[load("m", staged.clone()), load("n", staged.clone())]);
    // first the one that was tried first, alone; and each waits until the one before has settled
    let mut observed = observe([("m", trial(2, true)), ("n", trial(1, true)), ("o", trial(3, false))]);
    check(&observed, Instant::now(), &[load("n", staged.clone())]);
    observed.trials.open = BTreeMap::from([(content('c'), true)]);
    let plan = check(&observed, Instant::now(), &[]);
    assert!(!plan.is_settled);
    // but for one that takes its very place
    observed.wanted.get_mut("o").unwrap().linked = Some(content('c'));
    check(&observed, Instant::now(), &[load("o", staged.clone())]);
    // what is proven comes before what is tried again, and is not held up by it
    observed = observe([("m", trial(1, true)), ("n", updating()), ("o", trial(3, false))]);
    observed.trials.is_starting = true;
    check(&observed, Instant::now(), &[load("n", staged.clone()), load("o", staged)]);
}

#[test]
fn what_servers_end_with_comes_back_after_its_successor() {
    let now = Instant::now();
    let lost = Wanted { served: Served::No, ..updating() };
    check(&observe([("m", lost.clone())]), now, &[load("m", lost.active.clone())]);
    let ending = Wanted { active_ends_servers: true, ..lost };
    check(&observe([("m", ending.clone())]), now, &[load("m", ending.staged.clone())]);
    let mut down = observe([("m", ending.clone())]);
    down.server_is_live = false;
    check(&down, now, &[Step::Link("m".to_owned(), ending.staged.clone().unwrap())]);
    let failed = Wanted { loads: BTreeMap::from([(ending.staged.clone().unwrap(), failed(9, now))]), ..ending.clone() };
    check(&observe([("m", failed)]), now, &[load("m", ending.active)]);
}
