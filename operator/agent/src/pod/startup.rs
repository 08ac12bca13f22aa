//! The start-up set: the models a server loads when its process starts, and without which it is not ready. It
//! lies in a file beside the store, so that a server that is started anew at any moment finds the right one.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use triton_agent::plan::startup_models;

/// The file with the set, below the agent's folder.
const FILE: &str = "startup.json";

/// The start-up set of the server in this pod.
#[derive(Debug)]
pub(super) struct Startup {
    path: PathBuf,
    host: String,
    noted: Option<BTreeSet<String>>,
}

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The pod it is about: a store may outlive its pod, and the next pod starts afresh.
    host: String,
    models: BTreeSet<String>,
}

impl Startup {
    /// The set as it was last noted for `host`, if it was.
    pub(super) fn open(root: &Path, host: &str) -> Self {
        let noted = read(root).ok().filter(|note| note.host == host).map(|note| note.models);
        Self { path: root.join(FILE), host: host.to_owned(), noted }
    }

    /// Follows what is required and what was confirmed. Returns the models the server should start with that are not in
    /// the repository yet: while a pod has never had them all, nothing is noted and its server has to wait.
    pub(super) fn follow(
        &mut self,
        required: &BTreeSet<String>,
        confirmed: &BTreeSet<String>,
        is_in_repository: impl Fn(&str) -> bool,
    ) -> io::Result<Vec<String>> {
        let models = startup_models(required, confirmed, self.noted.as_ref());
        let missing: Vec<String> = models.iter().filter(|name| !is_in_repository(name)).cloned().collect();
        if (self.noted.is_some() || missing.is_empty()) && self.noted.as_ref() != Some(&models) {
            self.write(&models)?;
            self.noted = Some(models);
        }
        Ok(missing)
    }

    fn write(&self, models: &BTreeSet<String>) -> io::Result<()> {
        let note = Note { host: self.host.clone(), models: models.clone() };
        let temporary = self.path.with_extension("json.new");
        fs::write(&temporary, serde_json::to_vec(&note)?)?;
        fs::rename(temporary, &self.path)
    }
}

/// The set noted below `root`.
pub(super) fn noted(root: &Path) -> io::Result<BTreeSet<String>> {
    read(root).map(|note| note.models)
}

fn read(root: &Path) -> io::Result<Note> {
    Ok(serde_json::from_slice(&fs::read(root.join(FILE))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    #[test]
    fn a_server_waits_until_all_it_starts_with_is_there() {
        let root = tempfile::tempdir().unwrap();
        let mut startup = Startup::open(root.path(), "pod-1");
        let required = set(["a", "b"]);
        assert_eq!(startup.follow(&required, &set([]), |name| name == "a").unwrap(), ["b"]);
        assert!(noted(root.path()).is_err());
        assert!(startup.follow(&required, &set([]), |_| true).unwrap().is_empty());
        assert_eq!(noted(root.path()).unwrap(), required);
    }

    #[test]
    fn a_model_that_came_later_counts_once_it_was_confirmed_and_no_longer_once_it_left() {
        let root = tempfile::tempdir().unwrap();
        let mut startup = Startup::open(root.path(), "pod-1");
        let mut follow = |required, confirmed| {
            startup.follow(&required, &confirmed, |_| true).unwrap();
            noted(root.path()).unwrap()
        };
        assert_eq!(follow(set(["a"]), set([])), set(["a"]));
        assert_eq!(follow(set(["a", "bad"]), set(["a"])), set(["a"]));
        assert_eq!(follow(set(["a", "bad"]), set(["a", "bad"])), set(["a", "bad"]));
        assert_eq!(follow(set(["bad"]), set(["a", "bad"])), set(["bad"]));
    }

    #[test]
    fn the_set_outlives_the_agent_but_not_its_pod() {
        let root = tempfile::tempdir().unwrap();
        Startup::open(root.path(), "pod-1").follow(&set(["a"]), &set([]), |_| true).unwrap();
        let both = set(["a", "b"]);
        let mut same = Startup::open(root.path(), "pod-1");
        assert!(same.follow(&both, &set([]), |name| name == "a").unwrap().is_empty());
        let mut next = Startup::open(root.path(), "pod-2");
        assert_eq!(next.follow(&both, &set([]), |name| name == "a").unwrap(), ["b"]);
    }
}
