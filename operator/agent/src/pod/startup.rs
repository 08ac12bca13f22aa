//! The start-up set: the models a server loads when its process starts, and without which it is not ready. It
//! lies in a file beside the store, so that a server that is started anew at any moment finds the right one. What is in it is
//! decided in [`triton_agent::startup`].

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use triton_agent::startup::{FirstStart, Required, first_start, next_start};

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

    /// Whether the server has not been allowed to start yet.
    pub(super) const fn is_waiting(&self) -> bool {
        self.noted.is_none()
    }

    /// Follows what is required. Returns the models that the first start of the server waits for, which it has done for the time
    /// `waited`: until then nothing is noted.
    pub(super) fn follow(&mut self, required: &[Required], waited: Duration) -> io::Result<Vec<String>> {
        let models = match &self.noted {
            Some(last) => next_start(required, last),
            None => match first_start(required, waited) {
                FirstStart::WaitFor(missing) => return Ok(missing),
                FirstStart::With(models) => models,
            },
        };
        if self.noted.as_ref() != Some(&models) {
            self.write(&models)?;
            self.noted = Some(models);
        }
        Ok(Vec::new())
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
    use triton_agent::startup::{PATIENCE, Standing};

    use super::*;

    fn model(name: &str, is_here: bool, was_confirmed: bool) -> Required {
        let (name, standing) = (name.to_owned(), Standing::Proven);
        Required { name, standing, is_here, has_failed: false, is_given_up: false, was_confirmed }
    }

    fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    #[test]
    fn a_server_waits_until_all_it_starts_with_is_there() {
        let root = tempfile::tempdir().unwrap();
        let mut startup = Startup::open(root.path(), "pod-1");
        let missing = startup.follow(&[model("a", true, false), model("b", false, false)], PATIENCE).unwrap();
        assert_eq!(missing, ["b"]);
        assert!(noted(root.path()).is_err() && startup.is_waiting());
        let required = [model("a", true, false), model("b", true, false)];
        assert!(startup.follow(&required, Duration::ZERO).unwrap().is_empty());
        assert_eq!(noted(root.path()).unwrap(), set(["a", "b"]));
        assert!(!startup.is_waiting());
    }

    #[test]
    fn a_model_that_came_later_counts_once_it_was_confirmed_and_no_longer_once_it_left() {
        let root = tempfile::tempdir().unwrap();
        let mut startup = Startup::open(root.path(), "pod-1");
        let mut follow = |required: &[Required]| {
            startup.follow(required, Duration::ZERO).unwrap();
            noted(root.path()).unwrap()
        };
        assert_eq!(follow(&[model("a", true, false)]), set(["a"]));
        assert_eq!(follow(&[model("a", true, true), model("bad", true, false)]), set(["a"]));
        assert_eq!(follow(&[model("a", true, true), model("bad", true, true)]), set(["a", "bad"]));
        assert_eq!(follow(&[model("bad", true, true)]), set(["bad"]));
    }

    #[test]
    fn the_set_outlives_the_agent_but_not_its_pod() {
        let root = tempfile::tempdir().unwrap();
        let a = || model("a", true, false);
        Startup::open(root.path(), "pod-1").follow(&[a()], Duration::ZERO).unwrap();
        let both = [a(), model("b", false, false)];
        let mut same = Startup::open(root.path(), "pod-1");
        assert!(same.follow(&both, Duration::ZERO).unwrap().is_empty());
        assert_eq!(noted(root.path()).unwrap(), set(["a"]));
        let mut next = Startup::open(root.path(), "pod-2");
        assert_eq!(next.follow(&both, Duration::ZERO).unwrap(), ["b"]);
    }
}
