//! Models that ask models: who waits for a request, and how an instance that waits runs another request meanwhile, so that
//! models may ask each other, and themselves, without waiting for each other for ever.
//!
//! An instance that has asked another model is marked ([`crate::health::Health::begin_call`]) until it has its answer. A
//! request of a model for a model of which every instance is marked does not enter the queue: one of those instances runs it
//! in the middle of its own call. So of all requests that models have asked for, the latest can always run.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

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

/// An execution of an instance that runs nothing else before it returns, as those of libraries: kept as long as it lasts.
#[derive(Debug, Default)]
pub struct Blocking(());

/// Runs requests on an instance that waits for the answer of a request of its own.
pub trait Reentry: Send + Sync {
    /// Runs a batch of one request before the instance goes on with its own call, or, where the instance does not come to
    /// wait any more, when its `execute` ends. May block until it has run, or return before. As with
    /// [`crate::backend::Instance::execute`], every request must get its end.
    fn execute(&self, batch: Batch);
}

/// One model instance that waits for a request, and those that wait for it in turn.
#[derive(Clone)]
pub struct Caller {
    model: Name,
    version: u64,
    health: Health,
    reentry: Weak<dyn Reentry>,
    /// The execution that asks, if the instance runs nothing else before it returns.
    execution: Option<Weak<Blocking>>,
    parent: Option<Arc<Caller>>,
    depth: usize,
}

/// An instance that never runs anything while it waits.
enum Never {}

impl Reentry for Never {
    fn execute(&self, _batch: Batch) {
        match *self {}
    }
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
        Self::made(model, version, health, reentry, None, parent)
    }

    /// The same for an instance that asks in the middle of `execution`: it may wait for the answer, and runs nothing meanwhile. When
    /// the execution has returned it waits no more, and later chains are without it.
    pub fn blocking(
        model: Name,
        version: u64,
        health: Health,
        execution: &Arc<Blocking>,
        parent: Option<Arc<Caller>>,
    ) -> Arc<Self> {
        Self::made(model, version, health, Weak::<Never>::new(), Some(Arc::downgrade(execution)), parent)
    }

    fn made(
        model: Name,
        version: u64,
        health: Health,
        reentry: Weak<dyn Reentry>,
        execution: Option<Weak<Blocking>>,
        parent: Option<Arc<Caller>>,
    ) -> Arc<Self> {
        let caller = Self { model, version, health, reentry, execution, parent: None, depth: 1 };
        caller.below(parent.and_then(Self::that_wait))
    }

    fn below(self, parent: Option<Arc<Self>>) -> Arc<Self> {
        let depth = parent.as_ref().map_or(1, |parent| parent.depth + 1);
        Arc::new(Self { parent, depth, ..self })
    }

    /// The chain without those whose executions have returned: models that ask on and on without waiting make it no longer.
    fn that_wait(self: Arc<Self>) -> Option<Arc<Self>> {
        if !self.chain().any(Self::is_over) {
            return Some(self);
        }
        let waiting: Vec<&Self> = self.chain().filter(|caller| !caller.is_over()).collect();
        waiting.into_iter().rev().fold(None, |parent, caller| Some(caller.clone().below(parent)))
    }

    /// Whether it asked in an execution that has returned.
    fn is_over(&self) -> bool {
        self.execution.as_ref().is_some_and(|execution| execution.strong_count() == 0)
    }

    /// Whether that instance runs nothing before one of this chain has returned: it is the one that asked, in an execution that lasts.
    pub fn blocks(&self, instance: &Health) -> bool {
        self.chain().any(|caller| caller.blocks_itself(instance))
    }

    /// The same of the nearest one alone: it is that instance.
    pub fn blocks_itself(&self, instance: &Health) -> bool {
        self.is_blocking() && self.health.is_of_same_instance(instance)
    }

    /// Whether it asks in an execution that lasts, and runs nothing before that returns.
    pub fn is_blocking(&self) -> bool {
        self.execution.is_some() && !self.is_over()
    }

    /// Whether it or one of those that wait for it is blocking.
    pub fn is_behind_blocking(&self) -> bool {
        self.chain().any(Self::is_blocking)
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
        Err(Error::internal(format!(
            "model '{}' cannot ask model '{asked}': {} models wait for each other already ({}), and {MOST_NESTED} may; models that \
             ask each other in a circle need a condition to end it",
            self.model,
            self.depth,
            self.path_to(asked)
        )))
    }

    /// What a request to that model ends with that has waited so long for instances which wait for it.
    pub fn circle(&self, asked: &str, waited: Duration) -> Error {
        Error::internal(format!(
            "model '{}' asked model '{asked}', all instances of which have waited for the answer for {} s ({}): models whose backends \
             ask each other in a circle need more instances, or must not wait for the answer",
            self.model,
            waited.as_secs(),
            self.path_to(asked)
        ))
    }

    fn path_to(&self, asked: &str) -> String {
        let mut names: Vec<&str> = self.chain().map(|caller| &*caller.model).collect();
        names.reverse();
        names.push(asked);
        if names.len() <= 2 * SHOWN {
            return names.join(" -> ");
        }
        format!("{} -> ... -> {}", names[..SHOWN].join(" -> "), names[names.len() - SHOWN..].join(" -> "))
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
    fn an_instance_is_blocked_as_long_as_its_execution_lasts() {
        let (health, other, execution) = (Health::default(), Health::default(), Arc::default());
        let first = Caller::blocking("a".into(), 1, health.clone(), &execution, None);
        let caller = Caller::new("b".into(), 1, other.clone(), Weak::<Nothing>::new(), Some(first));
        assert!(caller.blocks(&health) && !caller.blocks(&other));
        assert_eq!(
            caller.circle("a", Duration::from_secs(10)).message,
            "model 'b' asked model 'a', all instances of which have waited for the answer for 10 s (a -> b -> a): models whose \
             backends ask each other in a circle need more instances, or must not wait for the answer"
        );
        drop(execution);
        assert!(!caller.blocks(&health));
    }

    #[test]
    fn who_asks_and_does_not_wait_makes_no_chain_longer() {
        let (mut last, mut before) = (chain(&["first"]), None);
        for _ in 0..3 * MOST_NESTED {
            let execution = Arc::default();
            let caller = Caller::blocking("m".into(), 1, Health::default(), &execution, last);
            assert_eq!(caller.check_depth("m"), Ok(()));
            assert!(caller.chain().count() <= 3, "{caller:?}");
            last = Some(caller);
            before = Some(execution); // the one before it returns now
        }
        drop(before);
        let caller = Caller::blocking("last".into(), 1, Health::default(), &Arc::default(), last);
        assert_eq!(format!("{caller:?}"), "[last:1, first:1]");
    }

    #[test]
    fn a_chain_names_the_nearest_first() {
        let caller = chain(&["a", "b"]).unwrap();
        assert_eq!(format!("{caller:?}"), "[b:1, a:1]");
    }
}
