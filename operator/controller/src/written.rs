//! What was written last. Stores lag behind what was written; these notes say by how much. Nothing here is an authority: all of it is
//! made anew when the operator starts again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use operator_core::kind::Kind;
use serde_json::Value;
use tokio::time::Instant;

use crate::{queue::ServerKey, rewrites::Rewrites};

/// What was written last. Stores lag behind what was written; these notes say by how much.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<ServerKey, Notes>>);

/// Notes about one server, its objects and models.
#[derive(Debug, Default)]
struct Notes {
    /// Version of each object after our last write.
    versions: HashMap<(Kind, String), u64>,
    /// Fields of an object, as we applied it, that the API server does not keep.
    dropped_fields: HashMap<(Kind, String), (Value, BTreeSet<String>)>,
    /// Status of each resource after our last write, by uid.
    statuses: HashMap<String, OwnStatus>,
    /// A reconcile is under way.
    is_at_work: bool,
    rewrites: Rewrites,
}

/// A status that was written.
#[derive(Debug)]
struct OwnStatus {
    /// Of the resource with it.
    version: u64,
    text: String,
    /// The store has had that version.
    has_come_back: bool,
}

/// A reconcile of one server, which ends with this.
#[derive(Debug)]
pub(crate) struct AtWork<'a> {
    written: &'a Written,
    key: &'a ServerKey,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if let Some(notes) = self.written.notes().get_mut(self.key) {
            notes.is_at_work = false;
            notes.statuses.retain(|_, status| !status.has_come_back);
            notes.statuses.shrink_to_fit();
        }
    }
}

impl Written {
    /// An object was written and has this version now.
    pub(crate) fn object(&self, key: &ServerKey, kind: Kind, name: &str, version: Option<&str>) {
        let version = version.and_then(number).unwrap_or(0);
        self.notes().entry(key.clone()).or_default().versions.insert((kind, name.to_owned()), version);
    }

    /// Whether an object of that version, found in a store, is no older than our last write.
    pub(crate) fn is_fresh(&self, key: &ServerKey, kind: Kind, name: &str, version: Option<&str>) -> bool {
        let mut notes = self.notes();
        let Some(versions) = notes.get_mut(key).map(|notes| &mut notes.versions) else { return true };
        let id = (kind, name.to_owned());
        let Some(written) = versions.get(&id) else { return true };
        let is_fresh = version.and_then(number).is_none_or(|version| version >= *written);
        if is_fresh {
            versions.remove(&id);
        }
        is_fresh
    }

    /// The API server did not keep these fields of an object with that hash.
    pub(crate) fn note_dropped(&self, key: &ServerKey, kind: Kind, name: &str, hash: Value, paths: BTreeSet<String>) {
        self.notes().entry(key.clone()).or_default().dropped_fields.insert((kind, name.to_owned()), (hash, paths));
    }

    /// Whether it is known of all these fields that the API server does not keep them.
    pub(crate) fn are_dropped(&self, key: &ServerKey, kind: Kind, name: &str, hash: &Value, paths: &[String]) -> bool {
        let notes = self.notes();
        let Some((written, dropped_fields)) =
            notes.get(key).and_then(|notes| notes.dropped_fields.get(&(kind, name.to_owned())))
        else {
            return false;
        };
        written == hash && paths.iter().all(|path| dropped_fields.contains(path))
    }

    /// Whether a status may be written: somebody else may write it as well.
    pub(crate) fn may_write_status(&self, key: &ServerKey, uid: &str, status: &Value) -> bool {
        self.notes().get(key).is_none_or(|notes| notes.rewrites.allow(uid, status, Instant::now()))
    }

    /// How long a status of a resource that tells of progress only waits from now on, if it waits.
    pub(crate) fn wait_for_progress(&self, key: &ServerKey, uid: &str, hold: Duration) -> Option<Duration> {
        self.notes().entry(key.clone()).or_default().rewrites.wait(uid, hold, Instant::now())
    }

    /// The status of a resource was written.
    pub(crate) fn status(&self, key: &ServerKey, uid: &str, version: Option<&str>, status: Value) {
        let version = version.and_then(number).unwrap_or(0);
        let mut notes = self.notes();
        let notes = notes.entry(key.clone()).or_default();
        notes.rewrites.note(uid, &status, Instant::now());
        notes.statuses.insert(uid.to_owned(), OwnStatus { version, text: status.to_string(), has_come_back: false });
    }

    /// The status we wrote, if the store has an older version of the resource.
    pub(crate) fn newer_status(&self, key: &ServerKey, uid: &str, version: Option<&str>) -> Option<Value> {
        let mut notes = self.notes();
        let statuses = &mut notes.get_mut(key)?.statuses;
        let status = statuses.get(uid)?;
        if version.and_then(number).is_none_or(|version| version >= status.version) {
            statuses.remove(uid);
            return None;
        }
        serde_json::from_str(&status.text).ok()
    }

    /// A reconcile begins: until it ends, a status that was written is kept, though the store may have it by then. It may have found the
    /// resource as it was before.
    pub(crate) fn at_work<'a>(&'a self, key: &'a ServerKey) -> AtWork<'a> {
        self.notes().entry(key.clone()).or_default().is_at_work = true;
        AtWork { written: self, key }
    }

    /// A store has this version of a resource now. Whether it is the very status that we wrote: nothing new for whoever wrote it.
    pub(crate) fn is_echo(&self, key: &ServerKey, uid: &str, version: &str) -> bool {
        let mut notes = self.notes();
        let Some(notes) = notes.get_mut(key) else { return false };
        let Some(status) = notes.statuses.get_mut(uid).filter(|status| number(version) == Some(status.version)) else {
            return false;
        };
        status.has_come_back = true;
        if !notes.is_at_work {
            notes.statuses.remove(uid);
        }
        true
    }

    /// Nothing is left of a server.
    pub(crate) fn forget(&self, key: &ServerKey) {
        self.notes().remove(key);
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<ServerKey, Notes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Versions count up; where one is no number, what the store has is believed.
fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> ServerKey {
        ServerKey { namespace: "ml".into(), name: "vision".into() }
    }

    #[test]
    fn a_store_that_lags_behind_a_write_is_not_believed() {
        let written = Written::default();
        let is_fresh = |version| written.is_fresh(&key(), Kind::Service, "vision", version);
        assert!(is_fresh(Some("5")), "nothing was written");
        written.object(&key(), Kind::Service, "vision", Some("9"));
        assert!(!is_fresh(Some("8")));
        assert!(is_fresh(Some("9")));
        assert!(is_fresh(Some("8")), "the store has caught up once; what is in it now is newer by its own count");
    }

    #[test]
    fn our_own_status_counts_until_the_store_has_it() {
        let written = Written::default();
        written.status(&key(), "uid", Some("9"), json!({ "a": 1 }));
        assert_eq!(written.newer_status(&key(), "uid", Some("8")), Some(json!({ "a": 1 })));
        assert_eq!(written.newer_status(&key(), "uid", Some("10")), None);
        assert_eq!(written.newer_status(&key(), "uid", Some("8")), None);
    }

    #[test]
    fn our_own_status_is_known_when_it_comes_back_and_no_other() {
        let (written, key) = (Written::default(), key());
        let is_echo = |uid, version| written.is_echo(&key, uid, version);
        let at_work = written.at_work(&key);
        written.status(&key, "uid", Some("9"), json!({ "a": 1 }));
        written.status(&key, "late", Some("10"), json!({ "a": 1 }));
        assert!(!is_echo("other", "9") && !is_echo("uid", "8") && is_echo("uid", "9"));
        assert!(
            written.newer_status(&key, "uid", Some("8")).is_some(),
            "the reconcile under way may have the older one"
        );
        drop(at_work);
        assert_eq!(
            written.newer_status(&key, "uid", Some("8")),
            None,
            "the store has it, and everybody reads it there"
        );
        assert!(written.newer_status(&key, "late", Some("8")).is_some(), "the store does not have it");
        assert!(is_echo("late", "10") && !is_echo("late", "10"));
        assert!(written.notes()[&key].statuses.is_empty(), "nothing is kept twice at rest");
        written.status(&key, "uid", Some("12"), json!({ "a": 1 }));
        assert!(!is_echo("uid", "13"), "somebody has written since");
        assert_eq!(written.newer_status(&key, "uid", Some("13")), None, "the store has caught up");
    }

    #[test]
    fn fields_the_api_server_does_not_keep_are_written_once() {
        let written = Written::default();
        let (hash, paths) = (json!("h1"), vec!["spec.new".to_owned()]);
        assert!(!written.are_dropped(&key(), Kind::Service, "vision", &hash, &paths));
        written.note_dropped(&key(), Kind::Service, "vision", hash.clone(), paths.iter().cloned().collect());
        assert!(written.are_dropped(&key(), Kind::Service, "vision", &hash, &paths));
        assert!(!written.are_dropped(&key(), Kind::Service, "vision", &hash, &["spec.replicas".to_owned()]));
        assert!(!written.are_dropped(&key(), Kind::Service, "vision", &json!("h2"), &paths));
    }
}
