//! Which instance the present thread executes. Nobody asks but who has to say why the process ends: a signal handler, which may read a
//! value of its thread and must not take a lock or memory. So names are made once, kept for good, and set beside each execution.

use std::{
    cell::Cell,
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use parking_lot::Mutex;

thread_local! {
    static EXECUTING: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Every name there ever was. As many as there are different instances of different models: one that is loaded anew has its name again.
static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

/// The instance that this thread executes, in words; none while it executes none. May be called in a signal handler.
pub fn executing() -> Option<&'static str> {
    EXECUTING.get()
}

/// The words for an instance.
pub(crate) fn name(instance: &str, model: &str) -> &'static str {
    let words = format!("instance '{instance}' of model '{model}'");
    let mut names = NAMES.lock();
    let names = names.get_or_insert_default();
    if let Some(known) = names.get(words.as_str()) {
        return known;
    }
    let kept: &'static str = Box::leak(words.into_boxed_str());
    names.insert(kept);
    kept
}

/// This thread executes the instance of that name until the guard is dropped.
pub(crate) fn begin(name: &'static str) -> Executing {
    Executing(EXECUTING.replace(Some(name)))
}

/// Ends with what was executed before: an instance may call another one on its thread.
pub(crate) struct Executing(Option<&'static str>);

impl Drop for Executing {
    fn drop(&mut self) {
        EXECUTING.set(self.0);
    }
}

/// A panic drops the batches, and every request in them is counted and answers with an internal error.
pub(crate) fn unless_it_panics<R>(run: impl FnOnce() -> R) -> Option<R> {
    let result = catch_unwind(AssertUnwindSafe(run));
    if result.is_err() {
        tracing::error!("the backend panicked; the requests it was given were answered");
    }
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_names_the_innermost_instance_it_executes() {
        let (outer, inner) = (name("a_0", "a"), name("b_0", "b"));
        assert_eq!(outer, "instance 'a_0' of model 'a'");
        assert!(std::ptr::eq(outer, name("a_0", "a")), "a name is kept once");
        assert_eq!(executing(), None);
        let first = begin(outer);
        let panicked = std::panic::catch_unwind(|| {
            let _second = begin(inner);
            assert_eq!(executing(), Some(inner));
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(panicked.is_err());
        assert_eq!(executing(), Some(outer));
        assert_eq!(std::thread::spawn(executing).join().unwrap(), None);
        drop(first);
        assert_eq!(executing(), None);
    }
}
