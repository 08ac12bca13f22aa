//! Who asks when a library makes a request: the instance whose `Execute` the thread is in. The server has to know, or models that ask
//! each other in a circle would wait for each other for ever. A library's other threads belong to no instance.

use std::{cell::RefCell, sync::Arc};

use server_core::{
    backend::Health,
    caller::{Blocking, Caller},
};

use crate::backend::model::Model;

thread_local! {
    static EXECUTING: RefCell<Option<Executing>> = const { RefCell::new(None) };
}

/// An execution of an instance, on this thread.
struct Executing {
    model: Arc<Model>,
    health: Health,
    parent: Option<Arc<Caller>>,
    /// Made for the first request, which most executions do not make.
    mark: Option<Arc<Blocking>>,
}

/// An execution until it returns. What this thread was in before goes on then.
pub(crate) struct Execution(Option<Executing>);

/// This thread is in an execution of the instance of that health, for requests of `parent`.
pub(crate) fn begin(model: &Arc<Model>, health: &Health, parent: Option<Arc<Caller>>) -> Execution {
    let executing = Executing { model: model.clone(), health: health.clone(), parent, mark: None };
    Execution(EXECUTING.replace(Some(executing)))
}

impl Drop for Execution {
    fn drop(&mut self) {
        drop(EXECUTING.replace(self.0.take()));
    }
}

/// The instance that asks on this thread, if any.
pub(super) fn caller() -> Option<Arc<Caller>> {
    EXECUTING.with_borrow_mut(|executing| {
        let Executing { model, health, parent, mark } = executing.as_mut()?;
        let mark = mark.get_or_insert_default();
        let name = model.name.to_string_lossy();
        Some(Caller::blocking((&*name).into(), model.version, health.clone(), mark, parent.clone()))
    })
}
