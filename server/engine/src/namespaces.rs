//! Models of one name in several repositories (`--model-namespacing`): each repository is a namespace, called as it is called
//! on the command line. A model's key is its name behind its namespace; without namespaces it is the name alone.

use std::sync::Arc;

use server_core::repository::model_key;

/// The namespaces, or that there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces(Option<Arc<[String]>>);

impl Namespaces {
    /// One for each repository.
    pub(crate) fn of(repositories: impl Iterator<Item = String>) -> Self {
        Self(Some(repositories.collect()))
    }

    /// Whether there are any.
    pub(crate) fn are_used(&self) -> bool {
        self.0.is_some()
    }

    /// The key of a model in a repository.
    pub(crate) fn key(&self, repository: &str, name: &str) -> String {
        model_key(if self.are_used() { repository } else { "" }, name)
    }

    /// Namespace and name of a key. A model of no repository, for its files came with a load request, has no namespace.
    pub(crate) fn split<'a>(&'a self, key: &'a str) -> (&'a str, &'a str) {
        let namespaces = self.0.iter().flat_map(|namespaces| namespaces.iter());
        let split = |namespace: &'a String| {
            let name = key.strip_prefix(namespace.as_str())?.strip_prefix("::")?;
            Some((namespace.as_str(), name))
        };
        namespaces.filter_map(split).next().unwrap_or(("", key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_behind_their_repositories() {
        let namespaces = Namespaces::of(["/models/a", "/models"].map(str::to_owned).into_iter());
        for (repository, name) in [("/models/a", "m"), ("/models", "m"), ("/models", "a::b")] {
            let key = namespaces.key(repository, name);
            assert_eq!(key, format!("{repository}::{name}"));
            assert_eq!(namespaces.split(&key), (repository, name));
        }
        assert_eq!(namespaces.split("m"), ("", "m"));
        let none = Namespaces::default();
        assert_eq!(none.key("/models", "a::b"), "a::b");
        assert_eq!(none.split("a::b"), ("", "a::b"));
    }
}
