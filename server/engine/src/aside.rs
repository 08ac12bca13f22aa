//! Work of a request that is long because the client said so, not because it sent much: a few bytes can name gigabytes in
//! shared memory.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

/// Runs `work` here. If it is long, the other tasks of this thread go on on another one meanwhile, where the runtime has
/// several.
pub(crate) fn aside<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    let has_others = || {
        let runtime = Handle::try_current();
        runtime.is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
    };
    if is_long && has_others() { block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn work_is_done_wherever_it_is_asked_for() {
        assert_eq!(aside(true, || 7), 7);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(async { aside(true, || 7) }), 7);
    }

    #[test]
    fn long_work_holds_up_no_other_task() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            tokio::spawn(async {
                let (done, wait) = mpsc::channel();
                tokio::spawn(async move { done.send(()).unwrap() });
                // the only worker waits for what another task has to do
                aside(true, || wait.recv().unwrap());
            })
            .await
            .unwrap();
        });
    }
}
