//! Which batches a worker is in the middle of, and which of their calls wait for an answer: so that a call knows who waits
//! for it in turn, and other batches can run in the middle of it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    thread::{self, Thread},
};

use parking_lot::Mutex;
use server_core::{
    backend::Health,
    batch::Batch,
    caller::{Caller, Reentry},
    health::InCall,
};

/// Number of the execution on the instance's own thread; others run in the middle of calls and have higher ones.
pub(in super::super) const MAIN: u64 = 0;

/// Executions of one worker that are under way.
#[derive(Default)]
pub(super) struct Executions {
    /// Those who wait for each.
    running: BTreeMap<u64, Option<Arc<Caller>>>,
    last: u64,
    /// Calls that wait for an answer, by their channel.
    waits: HashMap<u64, Wait>,
}

/// A call that waits for an answer.
pub(super) struct Wait {
    execution: u64,
    in_call: InCall,
    interrupts: Arc<Interrupts>,
}

/// Batches that are to run in the middle of a call.
struct Interrupts {
    thread: Thread,
    batches: Mutex<VecDeque<Batch>>,
}

impl Reentry for Interrupts {
    fn execute(&self, batch: Batch) {
        self.batches.lock().push_back(batch);
        self.thread.unpark();
    }
}

impl Wait {
    /// It does not wait any more. Returns what was to run in its middle, and did not.
    pub(super) fn end(self) -> VecDeque<Batch> {
        drop(self.in_call); // from now on nobody finds the way to it
        let mut interrupts = self.interrupts;
        loop {
            match Arc::try_unwrap(interrupts) {
                Ok(interrupts) => return interrupts.batches.into_inner(),
                // somebody has found it before, and is about to hand over a batch
                Err(in_use) => interrupts = in_use,
            }
            thread::yield_now();
        }
    }
}

impl Executions {
    pub(super) fn begin_main(&mut self, batch: &Batch) {
        self.running.insert(MAIN, callers(batch));
    }

    /// A batch is about to run in the middle of a call.
    pub(super) fn begin(&mut self, batch: &Batch) -> u64 {
        self.last += 1;
        self.running.insert(self.last, callers(batch));
        self.last
    }

    /// It has run. Returns the calls of it that still wait: nobody is left who would run anything in their middle.
    pub(super) fn end(&mut self, execution: u64) -> Vec<Wait> {
        self.running.remove(&execution);
        self.waits.extract_if(|_, wait| wait.execution == execution).map(|(_, wait)| wait).collect()
    }

    /// The execution that a call belongs to, and those who wait for it. `None` asks for the latest: the call comes from a
    /// thread of the model's own.
    pub(super) fn of_call(&self, execution: Option<u64>) -> Option<(u64, Option<Arc<Caller>>)> {
        let found = match execution {
            Some(number) => self.running.get_key_value(&number),
            None => self.running.last_key_value(),
        };
        found.map(|(number, callers)| (*number, callers.clone()))
    }

    /// The call on that channel waits from now on, on this thread.
    pub(super) fn wait(&mut self, channel: u64, execution: u64, health: &Health) {
        let interrupts = Arc::new(Interrupts { thread: thread::current(), batches: Mutex::default() });
        let reentry: Arc<dyn Reentry> = interrupts.clone();
        let in_call = health.begin_call(Arc::downgrade(&reentry));
        self.waits.insert(channel, Wait { execution, in_call, interrupts });
    }

    /// A batch that is to run in the middle of the call on that channel.
    pub(super) fn interrupt(&self, channel: u64) -> Option<Batch> {
        self.waits.get(&channel)?.interrupts.batches.lock().pop_front()
    }

    /// The call on that channel has its answer.
    pub(super) fn answered(&mut self, channel: u64) -> Option<Wait> {
        self.waits.remove(&channel)
    }
}

fn callers(batch: &Batch) -> Option<Arc<Caller>> {
    Caller::longest_of(batch.pending().iter().map(|pending| &pending.request))
}

#[cfg(test)]
mod tests {
    use std::{sync::Weak, time::Instant};

    use server_core::{
        batch::Pending,
        completion::{Completion, RequestRecord},
        request::InferRequest,
        responder::DEFAULT_SLOT_BYTES,
    };

    use super::*;
    use crate::{testing, testing_over_time::Ledger};

    fn batch_of(callers: Option<Arc<Caller>>) -> Batch {
        let request = InferRequest { callers, ..testing::request([]) };
        let now = Instant::now();
        let record = RequestRecord { received_at: now, queued_at: now, batch_size: 1 };
        let (completion, _) = Completion::new(record, Arc::new(Ledger::default()), DEFAULT_SLOT_BYTES);
        Batch::new(vec![Pending { request, completion }], now)
    }

    fn caller() -> Arc<Caller> {
        struct Nothing;
        impl Reentry for Nothing {
            fn execute(&self, _batch: Batch) {}
        }
        Caller::new("m".into(), 1, Health::default(), Weak::<Nothing>::new(), None)
    }

    #[test]
    fn a_call_belongs_to_the_execution_it_names_or_the_latest() {
        let mut executions = Executions::default();
        assert!(executions.of_call(Some(MAIN)).is_none() && executions.of_call(None).is_none());
        executions.begin_main(&batch_of(None));
        let inner = executions.begin(&batch_of(Some(caller())));
        let found = |executions: &Executions, asked| {
            executions.of_call(asked).map(|(number, parent)| (number, parent.is_some()))
        };
        assert_eq!(found(&executions, Some(MAIN)), Some((MAIN, false)));
        assert_eq!(found(&executions, None), Some((inner, true)));
        assert!(executions.end(inner).is_empty());
        assert_eq!(found(&executions, None), Some((MAIN, false)));
        assert_eq!(found(&executions, Some(inner)), None, "it is over");
    }

    #[test]
    fn what_comes_in_the_middle_of_a_call_is_run_or_left_over() {
        let (mut executions, health) = (Executions::default(), Health::default());
        executions.begin_main(&batch_of(None));
        executions.wait(7, MAIN, &health);
        let way = health.reentry().expect("it waits");
        way.execute(batch_of(None));
        way.execute(batch_of(None));
        drop(way);
        assert!(executions.interrupt(7).is_some() && executions.interrupt(8).is_none());
        let left = executions.answered(7).expect("it waits").end();
        assert_eq!(left.len(), 1);
        assert!(!health.is_in_call() && executions.answered(7).is_none());
    }

    #[test]
    fn the_end_of_an_execution_ends_what_still_waits_in_it() {
        let (mut executions, health) = (Executions::default(), Health::default());
        executions.begin_main(&batch_of(None));
        let inner = executions.begin(&batch_of(None));
        executions.wait(1, MAIN, &health);
        executions.wait(2, inner, &health);
        let ended = executions.end(inner);
        assert_eq!(ended.len(), 1);
        ended.into_iter().for_each(|wait| assert!(wait.end().is_empty()));
        assert!(health.is_in_call(), "the other goes on");
        assert_eq!(executions.end(MAIN).len(), 1);
        assert!(!health.is_in_call());
    }
}
