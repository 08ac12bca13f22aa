//! Two replicas on one folder, and what was there before them.

use std::time::SystemTime;

use super::*;
use crate::{
    fault::Reason,
    source::{Limits, Progress},
    store::Store,
    verify::{self, Files},
};

struct Claim(tempfile::TempDir);

impl Claim {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn replica(&self, number: u32) -> Arc<Store> {
        let own = self.0.path().join(format!("replica-{number}"));
        let taken = Lease::take_in_test(&own, &number.to_string());
        drop(taken.keep());
        Arc::new(Store::open_shared(&own, self.0.path()).unwrap())
    }

    /// Nobody has touched the contents for long.
    fn rest(&self) {
        for entry in fs::read_dir(self.0.path().join("listings")).unwrap() {
            let file = File::options().write(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(SystemTime::now() - 2 * FRESH).unwrap();
        }
    }

    fn contents(&self) -> usize {
        fs::read_dir(self.0.path().join("store")).unwrap().count()
    }
}

impl Lease {
    fn take_in_test(folder: &Path, owner: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        Self::take(folder, SLOT, owner, Duration::from_secs(60)).unwrap().unwrap()
    }
}

fn stage(store: &Store, text: &str) -> ContentHash {
    let partial = store.partial().unwrap();
    let path = partial.model().join("1/model.py");
    let hash = verify::write_file(&path, &mut text.as_bytes(), false, Reason::StoreFailed, |_| Ok(())).unwrap();
    store.commit(&partial, &Files::from([("1/model.py".into(), hash)])).unwrap().content().clone()
}

fn staged(key: &str, content: &ContentHash) -> Staged {
    Staged { key: key.into(), revision: None, content: content.clone(), origin: None }
}

#[test]
fn a_content_is_there_once_and_each_replica_has_a_repository_of_its_own() {
    let claim = Claim::new();
    let (one, two) = (claim.replica(0), claim.replica(1));
    let content = stage(&one, "a");
    assert_eq!(stage(&two, "a"), content);
    assert_eq!(claim.contents(), 1);
    one.point("m", &content).unwrap();
    let file = |replica: &Store| fs::read_to_string(replica.repository().join("m/1/model.py"));
    assert_eq!(file(&one).unwrap(), "a");
    assert!(file(&two).is_err());
    let before = fs::metadata(one.repository().join("m/1/model.py")).unwrap().modified().unwrap();
    two.point("n", &content).unwrap();
    assert_eq!(fs::metadata(one.repository().join("m/1/model.py")).unwrap().modified().unwrap(), before);
    // going back must look newer to the server, whoever else has the files
    let other = stage(&one, "b");
    one.point("m", &other).unwrap();
    one.point("m", &content).unwrap();
    assert!(fs::metadata(one.repository().join("m/1/model.py")).unwrap().modified().unwrap() > before);
}

#[test]
fn nothing_is_deleted_that_any_replica_speaks_of_or_has_just_touched() {
    let claim = Claim::new();
    let (one, two) = (claim.replica(0), claim.replica(1));
    let (linked, noted, fresh) = (stage(&one, "a"), stage(&one, "b"), stage(&one, "c"));
    two.point("m", &linked).unwrap();
    two.record("n", |record| record.staged = Some(staged("k", &noted))).unwrap();
    one.spare();
    assert_eq!(claim.contents(), 3, "all were touched just now");
    claim.rest();
    drop(two.pin(&fresh));
    one.spare();
    assert_eq!(claim.contents(), 3);
    claim.rest();
    let pinned = one.pin(&fresh);
    claim.rest();
    one.spare();
    assert_eq!(claim.contents(), 3, "somebody works with it");
    drop(pinned);
    one.spare();
    assert_eq!(claim.contents(), 2);
    assert!(one.content(&linked).is_dir() && one.content(&noted).is_dir());
    // who cannot be asked may use anything
    two.unpoint("m").unwrap();
    fs::write(claim.0.path().join("replica-1/ledger.json"), "{").unwrap();
    one.spare();
    assert_eq!(claim.contents(), 2);
}

#[test]
fn what_an_abandoned_replica_had_is_nobodys() {
    let claim = Claim::new();
    let two = claim.replica(1);
    let content = stage(&two, "a");
    two.point("m", &content).unwrap();
    drop(two);
    let one = claim.replica(0);
    claim.rest();
    one.spare();
    assert_eq!(claim.contents(), 1, "it may come back");
    let lease = claim.0.path().join("replica-1/slot.1");
    File::options().write(true).open(lease).unwrap().set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
    one.spare();
    assert_eq!(claim.contents(), 0);
    drop(one);
    claim.replica(0);
    assert!(!claim.0.path().join("replica-1").exists());
}

#[tokio::test]
async fn one_replica_fetches_and_the_others_wait_for_it() {
    let claim = Claim::new();
    let (one, two) = (claim.replica(0), claim.replica(1));
    let progress = Progress::new(Limits::default(), |_| {});
    let turn = one.turn("key", &progress).await.unwrap();
    assert!(turn.is_some());
    assert!(two.turn("another", &progress).await.unwrap().is_some());
    let waiting = tokio::spawn({
        let (two, progress) = (Arc::clone(&two), Arc::clone(&progress));
        async move { two.turn("key", &progress).await.unwrap().is_none() }
    });
    let content = stage(&one, "a");
    one.tell_others(&staged("key", &content));
    assert!(waiting.await.unwrap(), "it is there");
    assert_eq!(two.staged_by_another("key", None).unwrap().0.content, content);
    assert!(two.staged_by_another("key", Some("another state")).is_none());
    assert!(two.staged_by_another("key2", None).is_none());
    drop(turn);
    // a fetch that failed leaves its turn to the next
    let turn = one.turn("failing", &progress).await.unwrap();
    drop(turn);
    assert!(two.turn("failing", &progress).await.unwrap().is_some());
    progress.cancel();
    assert!(one.turn("failing", &progress).await.is_err(), "who is not wanted any more does not wait");
}

#[test]
fn contents_of_before_they_were_shared_are_taken_over() {
    let claim = Claim::new();
    let own = claim.0.path().join("replica-0");
    let alone = Store::open(&own).unwrap();
    let content = stage(&alone, "a");
    alone.point("m", &content).unwrap();
    alone.record("m", |record| record.active = Some(content.clone())).unwrap();
    drop(alone);
    let store = claim.replica(0);
    assert_eq!((store.linked("m"), store.ledger()["m"].active.clone()), (Some(content.clone()), Some(content.clone())));
    assert_eq!(fs::read_to_string(store.repository().join("m/1/model.py")).unwrap(), "a");
    assert!(store.files(&content).is_some() && !own.join("store").exists() && !own.join("listings").exists());
}
