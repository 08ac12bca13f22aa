//! The folder as it is after each step, and what outlives the process.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::time::SystemTime;

use super::*;
use crate::verify::{self, Files};

fn stage(store: &Store, text: &str) -> ContentHash {
    let partial = store.partial().unwrap();
    let path = partial.model().join("1/model.py");
    let hash = verify::write_file(&path, &mut text.as_bytes(), false, Reason::StoreFailed, |_| Ok(())).unwrap();
    store.commit(&partial, &Files::from([("1/model.py".into(), hash)])).unwrap().content().clone()
}

fn staged(content: &ContentHash) -> Staged {
    Staged { key: "k".into(), revision: None, content: content.clone(), origin: None }
}

#[test]
fn what_a_content_is_made_of_is_known_as_long_as_it_is_there() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let content = stage(&store, "a");
    let files = store.files(&content).unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["1/model.py"]);
    assert_eq!(ContentHash::from(verify::hash_of_folder(&files)), content);
    fs::write(store.listing(&content), "0  x\n").unwrap();
    assert_eq!(store.files(&content), None, "a listing of something else");
    store.remove(&content).unwrap();
    assert_eq!(fs::read_dir(root.path().join("listings")).unwrap().count(), 0);
}

#[test]
fn files_that_stay_keep_their_time() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let a = stage(&store, "a");
    store.point("m", &a).unwrap();
    let time = |path: &str| fs::metadata(store.repository().join("m").join(path)).unwrap().modified().unwrap();
    let before = time("1/model.py");
    let partial = store.partial().unwrap();
    fs::create_dir(partial.model().join("1")).unwrap();
    fs::hard_link(store.content(&a).join("1/model.py"), partial.model().join("1/model.py")).unwrap();
    let mut files = store.files(&a).unwrap();
    let path = partial.model().join("2/model.py");
    let hash = verify::write_file(&path, &mut &b"b"[..], false, Reason::StoreFailed, |_| Ok(())).unwrap();
    files.insert("2/model.py".into(), hash);
    let both = store.commit(&partial, &files).unwrap().content().clone();
    File::open(store.content(&both).join("2/model.py")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    store.point("m", &both).unwrap();
    assert_eq!(time("1/model.py"), before);
    assert!(time("2/model.py") >= before, "what is new to the server looks new");
}

#[test]
fn a_content_appears_whole_under_its_hash_and_once() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let content = stage(&store, "a");
    assert_eq!(stage(&store, "a"), content);
    assert_ne!(stage(&store, "b"), content);
    assert_eq!(fs::read_to_string(store.content(&content).join("1/model.py")).unwrap(), "a");
    assert_eq!(fs::read_dir(root.path().join("partial")).unwrap().count(), 0);
}

#[test]
fn the_repository_follows_its_links() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let (a, b) = (stage(&store, "a"), stage(&store, "b"));
    let file = store.repository().join("m/1/model.py");
    store.point("m", &a).unwrap();
    assert_eq!((store.linked("m"), fs::read_to_string(&file).unwrap()), (Some(a.clone()), "a".into()));
    store.point("m", &b).unwrap();
    assert_eq!((store.linked("m"), fs::read_to_string(&file).unwrap()), (Some(b), "b".into()));
    let seen = fs::metadata(&file).unwrap().modified().unwrap();
    store.point("m", &a).unwrap();
    assert!(fs::metadata(&file).unwrap().modified().unwrap() >= seen, "going back must look like a change");
    store.unpoint("m").unwrap();
    assert_eq!((store.linked("m"), store.names().len()), (None, 0));
    for name in ["../m", "", ".hidden", "a/b"] {
        assert!(store.point(name, &a).is_err(), "{name}");
    }
}

#[test]
fn the_ledger_outlives_the_process_and_lost_contents_leave_it() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let (a, b) = (stage(&store, "a"), stage(&store, "b"));
    store.record("m", |record| record.active = Some(a.clone())).unwrap();
    store.record("n", |record| record.staged = Some(staged(&b))).unwrap();
    fs::create_dir_all(root.path().join("partial/7/fetched")).unwrap();
    assert!(Store::open(root.path()).unwrap_err().message.contains("in use"));
    drop(store);

    let store = Store::open(root.path()).unwrap();
    assert_eq!(store.ledger()["m"].active, Some(a));
    assert_eq!(fs::read_dir(root.path().join("partial")).unwrap().count(), 0);
    fs::remove_dir_all(store.content(&b)).unwrap();
    drop(store);
    let store = Store::open(root.path()).unwrap();
    assert_eq!(store.ledger().keys().collect::<Vec<_>>(), ["m"]);
    store.record("m", |record| *record = Record::default()).unwrap();
    assert!(store.ledger().is_empty());
}

#[test]
fn only_what_nobody_speaks_of_is_deleted() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let (a, b, c, d) = (stage(&store, "a"), stage(&store, "b"), stage(&store, "c"), stage(&store, "d"));
    store.point("m", &a).unwrap();
    store.record("m", |record| record.active = Some(b.clone())).unwrap();
    store.record("n", |record| record.staged = Some(staged(&c))).unwrap();
    assert_eq!(store.unreferenced(), BTreeSet::from([d.clone()]));
    let pins = (store.pin(&d), store.pin(&d));
    drop(pins.0);
    assert!(store.unreferenced().is_empty(), "somebody works with it");
    store.spare();
    assert!(store.content(&d).is_dir());
    drop(pins.1);
    for content in [&a, &b, &c] {
        assert!(store.remove(content).unwrap().is_none());
    }
    store.spare();
    assert!(store.content(&a).is_dir() && store.content(&b).is_dir() && store.content(&c).is_dir());
    assert!(!store.content(&d).exists());
}
