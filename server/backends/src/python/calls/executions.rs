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
