//! Models that ask models: who waits for a request, and how an instance that waits runs another request meanwhile, so that
//! models may ask each other, and themselves, without waiting for each other for ever.
//!
//! An instance that has asked another model is marked ([`crate::health::Health::begin_call`]) until it has its answer. A
//! request of a model for a model of which every instance is marked does not enter the queue: one of those instances runs it
//! in the middle of its own call. So of all requests that models have asked for, the latest can always run.

use std::{fmt, sync::Arc, sync::Weak};

use crate::{
    batch::Batch,
    error::{Error, Result},
    health::{Health, InCall},
    request::InferRequest,
    tensor::Name,
};

/// Most models that may wait for each other in a row.
pub const MOST_NESTED: usize = 100;

/// Names shown at either end of a chain that is too long.
const SHOWN: usize = 4;

/// Runs requests on an instance that waits for the answer of a request of its own.
pub trait Reentry: Send + Sync {
    /// Runs a batch of one request before the instance goes on with its own call, or, where the instance does not come to
    /// wait any more, when its `execute` ends. May block until it has run, or return before. As with
    /// [`crate::backend::Instance::execute`], every request must get its end.
    fn execute(&self, batch: Batch);
}

/// One model instance that waits for a request, and those that wait for it in turn.
pub struct Caller {
    model: Name,
    version: u64,
    health: Health,
    reentry: Weak<dyn Reentry>,
    parent: Option<Arc<Caller>>,
    depth: usize,
}

impl Caller {
    /// An instance of that version of a model, which is about to ask another while it runs requests of `parent`.
    ///
    /// `health` is the instance's own. `reentry` runs other requests on it until it has its answer; one that is gone, e.g.
    /// `Weak::<T>::new()`, says that the instance itself does not wait: the request comes from a thread beside it.
    pub fn new(
        model: Name,
        version: u64,
        health: Health,
        reentry: Weak<dyn Reentry>,
        parent: Option<Arc<Caller>>,
    ) -> Arc<Self> {
        let depth = parent.as_ref().map_or(1, |parent| parent.depth + 1);
        Arc::new(Self { model, version, health, reentry, parent, depth })
    }

    /// Those who wait for one of the requests: of several chains, the longest. For the parent of what a batch asks for.
    pub fn longest_of<'a>(requests: impl IntoIterator<Item = &'a InferRequest>) -> Option<Arc<Self>> {
        requests.into_iter().filter_map(|request| request.callers.as_ref()).max_by_key(|caller| caller.depth).cloned()
    }

    /// The instance that waits.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Marks the instance as waiting, if it does.
    pub fn begin_call(&self) -> Option<InCall> {
        (self.reentry.strong_count() > 0).then(|| self.health.begin_call(self.reentry.clone()))
    }

    /// Runs other requests on the instance while it waits.
    pub fn reentry(&self) -> &Weak<dyn Reentry> {
        &self.reentry
    }

    /// This one and those that wait for it, the nearest first.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |caller| caller.parent.as_deref())
    }

    /// Errors: so many wait already that one more is taken for a chain without an end.
    pub fn check_depth(&self, asked: &str) -> Result<()> {
        if self.depth <= MOST_NESTED {
            return Ok(());
        }
        let mut names: Vec<&str> = self.chain().map(|caller| &*caller.model).collect();
        names.reverse();
        names.push(asked);
        let (first, last) = (names[..SHOWN].join(" -> "), names[names.len() - SHOWN..].join(" -> "));
        Err(Error::internal(format!(
            "model '{}' cannot ask model '{asked}': {} models wait for each other already ({first} -> ... -> {last}), and \
             {MOST_NESTED} may; models that ask each other in a circle need a condition to end it",
            self.model, self.depth
        )))
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for caller in self.chain() {
            list.entry(&format_args!("{}:{}", caller.model, caller.version));
        }
        list.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Reentry for Nothing {
        fn execute(&self, _batch: Batch) {}
    }

    fn chain(models: &[&str]) -> Option<Arc<Caller>> {
        models.iter().fold(None, |parent, model| {
            Some(Caller::new((*model).into(), 1, Health::default(), Weak::<Nothing>::new(), parent))
        })
    }

    #[test]
    fn a_chain_of_callers_is_bounded_and_shown() {
        let at_most: Vec<&str> = ["a", "b"].into_iter().cycle().take(MOST_NESTED).collect();
        assert_eq!(chain(&at_most).unwrap().check_depth("a"), Ok(()));
        let too_many: Vec<&str> = ["a", "b"].into_iter().cycle().take(MOST_NESTED + 1).collect();
        let error = chain(&too_many).unwrap().check_depth("c").unwrap_err();
        assert_eq!(
            error.message,
            "model 'a' cannot ask model 'c': 101 models wait for each other already (a -> b -> a -> b -> ... -> a -> b -> \
             a -> c), and 100 may; models that ask each other in a circle need a condition to end it"
        );
    }

    #[test]
    fn a_chain_names_the_nearest_first() {
        let caller = chain(&["a", "b"]).unwrap();
        assert_eq!(format!("{caller:?}"), "[b:1, a:1]");
    }
}
