//! One look at all repositories: what each model's folder shows, and which repositories can be read at all.

use std::collections::{BTreeMap, BTreeSet};

use server_core::{
    error::{Error, Result},
    repository::watch::Sight,
};

use crate::repository::{Place, Repositories, Repository};

/// What is remembered of the repositories from look to look, by what they are called.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Which folder each repository was when it was read last.
    identities: BTreeMap<String, Option<(u64, u64)>>,
    /// Those that could not be read at the last look.
    unreadable: BTreeSet<String>,
    /// Where each model was seen last, and in which repository.
    places: BTreeMap<String, Vec<(String, Place)>>,
}

impl Memory {
    /// Looks at every model. One that was seen before and is not there now is in the result, too.
    ///
    /// A repository that cannot be read keeps its models as they are. So does one that is empty and another folder than
    /// before: that is the place where a file system was mounted. Both are logged once, and when they are over.
    pub(super) fn look(&mut self, repositories: &Repositories) -> BTreeMap<String, Sight> {
        let mut found: BTreeMap<String, Vec<(String, Place)>> = BTreeMap::new();
        let mut unreadable = BTreeSet::new();
        for repository in repositories.each() {
            let called = repository.to_string();
            match self.list(repository, &called) {
                Ok(models) => {
                    for (name, place) in models {
                        let name = repositories.key(repository, &name);
                        found.entry(name).or_default().push((called.clone(), place));
                    }
                }
                Err(error) => {
                    if !self.unreadable.contains(&called) {
                        tracing::error!(
                            "failed to poll model repository '{called}': {error}; its models stay as they are"
                        );
                    }
                    unreadable.insert(called);
                }
            }
        }
        for repository in self.unreadable.difference(&unreadable) {
            tracing::info!("model repository '{repository}' can be read again");
        }
        self.unreadable = unreadable;
        let gone = self.places.keys().map(|name| (name.clone(), self.without_place(name)));
        let mut sights: BTreeMap<String, Sight> = gone.collect();
        for (name, places) in found {
            sights.insert(name.clone(), sight(&places));
            self.places.insert(name, places);
        }
        sights
    }

    /// Looks at some models again, soon after a look at all.
    pub(super) fn look_again(&self, repositories: &Repositories, names: &[String]) -> BTreeMap<String, Sight> {
        let is_as_it_was = |repository: &Repository| {
            let before = self.identities.get(&repository.to_string());
            repository.identity().is_ok_and(|now| before == Some(&now))
        };
        let can_be_trusted = repositories.each().iter().all(is_as_it_was);
        let of_model = |name: &String| match sight(self.places.get(name).map_or(&[][..], Vec::as_slice)) {
            Sight::Gone if !can_be_trusted => Sight::Unknown,
            sight => sight,
        };
        names.iter().map(|name| (name.clone(), of_model(name))).collect()
    }

    /// Nothing is expected of a model any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.places.remove(name);
    }

    /// What it means that a model that was seen before has no place now.
    fn without_place(&self, name: &str) -> Sight {
        let is_unreadable = |(repository, _): &(String, Place)| self.unreadable.contains(repository);
        if self.places[name].iter().any(is_unreadable) { Sight::Unknown } else { Sight::Gone }
    }

    /// Errors: the repository cannot be read, or it is empty and not the folder that it was.
    fn list(&mut self, repository: &Repository, called: &str) -> Result<Vec<(String, Place)>> {
        let identity = repository.identity()?;
        let models = repository.list()?;
        let before = self.identities.get(called);
        if models.is_empty() && before.is_some_and(|before| *before != identity) {
            return Err(Error::internal(
                "it is empty and not the folder that it was, as if its file system were not mounted",
            ));
        }
        self.identities.insert(called.to_owned(), identity);
        Ok(models)
    }
}

fn sight(places: &[(String, Place)]) -> Sight {
    let mut sights = places.iter().map(|(_, place)| place.look()).filter(|sight| *sight != Sight::Gone);
    match (sights.next(), sights.next()) {
        (None, _) => Sight::Gone,
        (Some(sight), None) => sight,
        (Some(_), Some(_)) => Sight::Ambiguous,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_repository_that_goes_or_is_replaced_by_an_empty_one_says_nothing_of_its_models() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        for model in [one.join("a"), one.join("b"), two.join("b"), two.join("c")] {
            fs::create_dir_all(model).unwrap();
        }
        let repositories = Repositories::new(&[one.clone(), two.clone()]);
        let mut memory = Memory::default();
        let mut look = || {
            let word = |sight: Sight| match sight {
                Sight::There(_) => "there",
                Sight::Gone => "gone",
                Sight::Ambiguous => "ambiguous",
                Sight::Unknown => "unknown",
            };
            let sights = memory.look(&repositories);
            sights.into_iter().map(|(name, sight)| format!("{name} {}", word(sight))).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(look(), "a there, b ambiguous, c there");
        fs::rename(&one, folder.path().join("away")).unwrap();
        assert_eq!(look(), "a unknown, b there, c there");
        fs::create_dir(&one).unwrap();
        assert_eq!(look(), "a unknown, b there, c there", "the mount point");
        fs::remove_dir(&one).unwrap();
        fs::rename(folder.path().join("away"), &one).unwrap();
        assert_eq!(look(), "a there, b ambiguous, c there");
        fs::remove_dir(one.join("a")).unwrap();
        fs::remove_dir(one.join("b")).unwrap();
        assert_eq!(look(), "a gone, b there, c there", "emptied by its owner");
    }
}
