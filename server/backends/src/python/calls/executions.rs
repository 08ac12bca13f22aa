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
    /// Calls whose requests are not over, by their channel.
    waits: HashMap<u64, Wait>,
    parked: Arc<Parked>,
}

/// Threads that have nothing to do until an answer comes, by their channel. Any of them runs what was to run in the middle of a
/// call whose thread is not among them: the model holds an iterator and does not ask for the next response, or a batch runs
/// in the middle of the call already.
#[derive(Default)]
struct Parked(Mutex<HashMap<u64, Thread>>);

impl Parked {
    fn wake_all(&self) {
        self.0.lock().values().for_each(Thread::unpark);
    }
}

/// A call that waits for an answer.
pub(super) struct Wait {
    execution: u64,
    in_call: InCall,
    interrupts: Arc<Interrupts>,
}

/// Batches that are to run in the middle of the call on a channel.
struct Interrupts {
    channel: u64,
    batches: Mutex<VecDeque<Batch>>,
    parked: Arc<Parked>,
}

impl Reentry for Interrupts {
    fn execute(&self, batch: Batch) {
        self.batches.lock().push_back(batch);
        let parked = self.parked.0.lock();
        match parked.get(&self.channel) {
            Some(thread) => thread.unpark(),
            None => parked.values().for_each(Thread::unpark),
        }
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

    /// The request of the call on that channel begins, and the worker may be asked to run batches in its middle.
    pub(super) fn wait(&mut self, channel: u64, execution: u64, health: &Health) {
        let interrupts = Arc::new(Interrupts { channel, batches: Mutex::default(), parked: self.parked.clone() });
        let reentry: Arc<dyn Reentry> = interrupts.clone();
        let in_call = health.begin_call(Arc::downgrade(&reentry));
        self.waits.insert(channel, Wait { execution, in_call, interrupts });
    }

    /// A batch that this thread, which serves that channel and waits, is to run in the middle of the call. Without one the
    /// thread parks, and then says that it is [`Executions::awake`].
    pub(super) fn interrupt(&self, channel: u64) -> Option<Batch> {
        self.parked.0.lock().insert(channel, thread::current()); // who comes from now on wakes it
        let first_of = |wait: &Wait| wait.interrupts.batches.lock().pop_front();
        let own = self.waits.get(&channel).and_then(first_of);
        let found = own.or_else(|| {
            let parked = self.parked.0.lock();
            self.waits.iter().filter(|(other, _)| !parked.contains_key(other)).find_map(|(_, wait)| first_of(wait))
        });
        if found.is_some() {
            self.awake(channel);
        }
        found
    }

    /// The thread of that channel has other things to do: another one runs what is left to be run in the middle of its call.
    pub(super) fn awake(&self, channel: u64) {
        self.parked.0.lock().remove(&channel);
        if self.waits.get(&channel).is_some_and(|wait| !wait.interrupts.batches.lock().is_empty()) {
            self.parked.wake_all();
        }
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
    use std::{
        sync::Weak,
        time::{Duration, Instant},
    };

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
        assert!(executions.interrupt(7).is_some());
        let left = executions.answered(7).expect("it waits").end();
        assert_eq!(left.len(), 1);
        assert!(!health.is_in_call() && executions.answered(7).is_none());
    }

    #[test]
    fn a_batch_for_a_call_that_nobody_looks_at_runs_in_another_that_waits() {
        let (mut executions, health) = (Executions::default(), Health::default());
        executions.begin_main(&batch_of(None));
        for channel in [1, 2] {
            executions.wait(channel, MAIN, &health);
        }
        assert!(executions.interrupt(1).is_none());
        let latest = health.reentry().expect("both wait");
        let began = Instant::now();
        thread::scope(|scope| {
            scope.spawn(move || latest.execute(batch_of(None)));
            thread::park_timeout(Duration::from_secs(60));
        });
        assert!(began.elapsed() < Duration::from_secs(60), "it was not woken");
        executions.awake(1);
        assert!(executions.interrupt(1).is_some(), "the thread of the other is not there");
        let latest = health.reentry().expect("both wait");
        assert!(executions.interrupt(2).is_none());
        latest.execute(batch_of(None));
        assert!(executions.interrupt(1).is_none(), "it is there now, and runs its own");
        assert!(executions.interrupt(2).is_some());
        drop(latest);
        for channel in [1, 2] {
            assert!(executions.answered(channel).expect("it waits").end().is_empty());
        }
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
