mod simulation;

use super::*;
use crate::{
    fault::Reason,
    store::Staged,
    verify::{self, Files},
};

const SETTLE_TIME: Duration = Duration::from_secs(10);

struct Harness {
    root: tempfile::TempDir,
    store: Store,
}

impl Harness {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        Self { root, store }
    }

    fn open(&self) -> Attempts {
        Attempts::open(self.root.path().join("attempts.json"))
    }

    fn start(&self, attempts: &Attempts) {
        self.start_with(attempts, &[]);
    }

    fn start_with(&self, attempts: &Attempts, unproven: &[&ContentHash]) {
        let unproven = unproven.iter().map(|content| ((*content).clone(), SETTLE_TIME)).collect();
        attempts.server_starting(&self.store, &Followed { unproven, ..Followed::default() }).unwrap();
    }

    /// A content of its own in the repository.
    fn link(&self, name: &str, text: &str) -> ContentHash {
        let partial = self.store.partial().unwrap();
        let path = partial.model().join("1/model.py");
        let hash = verify::write_file(&path, &mut text.as_bytes(), false, Reason::StoreFailed, |_| Ok(())).unwrap();
        let content =
            self.store.commit(&partial, &Files::from([("1/model.py".into(), hash)])).unwrap().content().clone();
        self.store.point(name, &content).unwrap();
        content
    }

    /// Notes that the server has confirmed it, in place of what it had before.
    fn confirm(&self, name: &str, content: &ContentHash) {
        let staged = Staged { key: content.short().to_owned(), revision: None, content: content.clone(), origin: None };
        self.store.record(name, |record| record.confirm(staged, true)).unwrap();
    }
}

/// A load that the server has answered with yes.
fn load(attempts: &Attempts, content: &ContentHash, is_unproven: bool) {
    let attempt = attempts.begin(content, is_unproven.then_some(SETTLE_TIME)).unwrap();
    attempts.loaded(content, attempt);
}

#[test]
fn open_attempts_outlive_the_agent_and_end_with_the_server() {
    let harness = Harness::new();
    let (a, b) = (harness.link("a", "a"), harness.link("b", "b"));
    let attempts = harness.open();
    attempts.begin(&a, None).unwrap();
    let attempt = attempts.begin(&b, None).unwrap();
    attempts.refused(&b, attempt);
    let attempts = harness.open();
    assert_eq!((attempts.is_open(&a), attempts.crashes(&a)), (true, 0), "the server goes on");
    harness.start(&attempts);
    assert_eq!([attempts.crashes(&a), attempts.crashes(&b)], [1, 0]);
    assert_eq!(attempts.last_crash(&a), Some(Crash::WhileLoading));
    let attempt = attempts.begin(&a, None).unwrap();
    attempts.unanswered(attempt, &harness.store);
    assert!(attempts.is_given_up(&a) && harness.open().is_given_up(&a));
    load(&attempts, &a, false);
    assert_eq!(harness.open().crashes(&a), 0, "what serves is proven, and settles at once");
}

#[test]
fn one_end_counts_once_however_many_notice_it() {
    let harness = Harness::new();
    let (a, b) = (harness.link("a", "a"), harness.link("b", "b"));
    let attempts = harness.open();
    let first = attempts.begin(&a, Some(SETTLE_TIME)).unwrap();
    let second = attempts.begin(&b, Some(SETTLE_TIME)).unwrap();
    attempts.unanswered(first, &harness.store);
    // the next process has begun to load it again
    let again = attempts.begin(&a, Some(SETTLE_TIME)).unwrap();
    attempts.unanswered(second, &harness.store);
    attempts.refused(&b, second);
    assert_eq!([attempts.crashes(&a), attempts.crashes(&b)], [1, 1]);
    attempts.loaded(&a, again);
    harness.start_with(&attempts, &[&a]);
    harness.start_with(&attempts, &[&a]);
    assert_eq!(attempts.crashes(&a), 2, "the last start had it not");
}

#[test]
fn a_content_in_rollout_settles_when_its_server_has_lived_on() {
    let harness = Harness::new();
    let a = harness.link("a", "a");
    let attempts = harness.open();
    load(&attempts, &a, true);
    let now = Instant::now();
    assert!(attempts.is_open(&a) && attempts.settle(now).is_some());
    let attempts = harness.open();
    assert!(attempts.is_open(&a), "also for another agent");
    assert_eq!(attempts.settle(Instant::now() + SETTLE_TIME), None);
    assert!(!attempts.is_open(&a) && !harness.open().is_open(&a));
    // what ends the server from now on is something else
    harness.start_with(&attempts, &[&a]);
    assert_eq!(attempts.crashes(&a), 0);
}

#[test]
fn a_server_that_ends_before_a_content_has_settled_goes_back_to_the_one_before() {
    let harness = Harness::new();
    let (a, beside) = (harness.link("a", "former"), harness.link("b", "proven"));
    let attempts = harness.open();
    harness.start(&attempts);
    attempts.started(&[a.clone(), beside.clone()], &[]);
    harness.confirm("a", &a);
    harness.confirm("b", &beside);
    let new = harness.link("a", "new");
    load(&attempts, &new, true);
    harness.confirm("a", &new);
    harness.start_with(&attempts, &[&new]);
    assert_eq!(
        [&a, &beside, &new].map(|content| attempts.crashes(content)),
        [0, 0, 1],
        "what is proven is not accused"
    );
    assert!(matches!(attempts.last_crash(&new), Some(Crash::AfterLoad(Some(_)))));
    assert_eq!((harness.store.linked("a"), harness.store.linked("b")), (Some(a.clone()), Some(beside)));
    let record = harness.store.record_of("a");
    assert_eq!((record.active, record.confirmed.unwrap().content, record.former), (Some(a.clone()), a, None));
}

#[test]
fn what_a_server_was_loading_when_it_ended_is_out_of_the_way_of_the_next() {
    let harness = Harness::new();
    let (a, b) = (harness.link("a", "a"), harness.link("b", "b"));
    let attempts = harness.open();
    harness.start(&attempts);
    attempts.started(std::slice::from_ref(&a), &[]);
    assert_eq!(attempts.starting(), BTreeSet::from([b.clone()]));
    // it ends, and the agent with it
    let attempts = harness.open();
    harness.start(&attempts);
    assert_eq!((harness.store.linked("a"), harness.store.linked("b")), (Some(a), None));
    assert_eq!(attempts.crashes(&b), 1);
}

#[test]
fn a_server_that_ends_on_purpose_is_held_against_nobody() {
    let harness = Harness::new();
    let (a, b) = (harness.link("a", "a"), harness.link("b", "b"));
    let attempts = harness.open();
    harness.start_with(&attempts, &[&b]);
    attempts.started(std::slice::from_ref(&b), &[]);
    attempts.server_left();
    harness.start(&attempts);
    assert_eq!([attempts.crashes(&a), attempts.crashes(&b)], [0, 0]);
    assert_eq!((harness.store.linked("a"), harness.store.linked("b")), (Some(a), Some(b)));
}

#[test]
fn what_was_replaced_or_unloaded_is_not_accused_any_more() {
    let harness = Harness::new();
    let a = harness.link("a", "a");
    let attempts = harness.open();
    load(&attempts, &a, true);
    attempts.left_the_server(&a);
    harness.start(&attempts);
    assert_eq!(attempts.crashes(&a), 0);
    let attempt = attempts.begin(&a, Some(SETTLE_TIME)).unwrap();
    attempts.left_the_server(&a);
    attempts.unanswered(attempt, &harness.store);
    assert_eq!(attempts.crashes(&a), 1, "it was being loaded again");
}

#[test]
fn what_servers_end_with_and_nobody_knows_why_makes_way_for_its_successor() {
    let harness = Harness::new();
    let (old, beside) = (harness.link("a", "old"), harness.link("b", "b"));
    let attempts = harness.open();
    harness.start(&attempts);
    for (name, content) in [("a", &old), ("b", &beside)] {
        attempts.started(std::slice::from_ref(content), &[]);
        harness.confirm(name, content);
    }
    let serves = |attempts: &Attempts| attempts.started(&[old.clone(), beside.clone()], &[]);
    harness.start(&attempts);
    assert!(!attempts.has_unexplained_ends(&old));
    let new = harness.link("a", "new");
    harness.store.point("a", &old).unwrap();
    let with_successor = Followed {
        unproven: BTreeMap::from([(new.clone(), SETTLE_TIME)]),
        next: BTreeMap::from([("a".to_owned(), new.clone())]),
    };
    serves(&attempts);
    let attempts = harness.open();
    attempts.server_starting(&harness.store, &with_successor).unwrap();
    assert!(attempts.has_unexplained_ends(&old) && attempts.has_unexplained_ends(&beside));
    assert_eq!((harness.store.linked("a"), harness.store.linked("b")), (Some(new.clone()), Some(beside.clone())));
    assert_eq!(attempts.crashes(&old), 0, "it is not known to be guilty");
    // it has a trial of its own: it is accused for its own ends only, and then its predecessor comes back
    attempts.server_starting(&harness.store, &with_successor).unwrap();
    assert_eq!((attempts.crashes(&new), harness.store.linked("a")), (1, Some(old.clone())));
}
