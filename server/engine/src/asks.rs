//! What instances ask for in the middle of executions that run nothing else, at this moment: where they wait for each other in a ring,
//! whoever closes it is told.

use std::{iter::zip, sync::Arc};

use parking_lot::Mutex;
use server_core::{
    caller::Caller,
    health::Health,
    request::{InferRequest, RequestedOutput},
};
use smallvec::SmallVec;

use crate::runner::Runner;

/// A request of an instance, or of a step of an ensemble that it has asked.
pub(crate) struct Ask {
    callers: Arc<Caller>,
    runner: Runner,
    outputs: SmallVec<[RequestedOutput; 2]>,
}

impl Ask {
    /// The request of an instance to what runs it, if an instance asks and it or one that waits for it runs nothing meanwhile: without
    /// one there is no ring.
    pub(crate) fn of(request: &InferRequest, runner: &Runner) -> Option<Arc<Self>> {
        let callers = request.callers.as_ref().filter(|callers| callers.is_behind_blocking())?.clone();
        Some(Arc::new(Self { callers, runner: runner.clone(), outputs: request.outputs.clone() }))
    }

    /// Whether it is answered by steps that begin one after the other: whom it waits for may change.
    pub(crate) fn has_steps(&self) -> bool {
        matches!(self.runner, Runner::Ensemble(_))
    }

    /// Who asks, and who waits for that.
    pub(crate) fn callers(&self) -> &Caller {
        &self.callers
    }

    /// Whether it cannot be answered while those instances are blocked.
    fn waits_for(&self, is_blocked: &dyn Fn(&Health) -> bool) -> bool {
        self.runner.waits_for(&self.outputs, is_blocked)
    }
}

/// All that are under way whose instances run nothing meanwhile.
#[derive(Default)]
pub(crate) struct Asks(Mutex<Vec<Arc<Ask>>>);

/// One of them, until it is dropped.
pub(crate) struct UnderWay {
    asks: Arc<Asks>,
    ask: Arc<Ask>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.asks.0.lock().retain(|ask| !Arc::ptr_eq(ask, &self.ask));
    }
}

impl Asks {
    /// Adds a request of an instance that runs nothing meanwhile, which is about to enter a queue. One to an ensemble enters none: the
    /// steps under way stand for it, for it may have come past the one that another would wait for. To be called before
    /// [`Asks::is_closed_by`]: of those that close a ring together, the last sees the others.
    pub(crate) fn begin(self: &Arc<Self>, request: &InferRequest, runner: &Runner) -> Option<UnderWay> {
        request.callers.as_ref().filter(|callers| callers.is_blocking())?;
        let ask = Ask::of(request, runner).filter(|ask| !ask.has_steps())?;
        self.0.lock().push(ask.clone());
        Some(UnderWay { asks: self.clone(), ask })
    }

    /// Whether the instances that could answer the request are blocked, and would not be without those that wait for it. The executions
    /// may also do without an answer, which nobody can tell before.
    pub(crate) fn is_closed_by(&self, ask: &Ask) -> bool {
        is_closed_by(&self.0.lock(), ask)
    }

    /// The same of one of its steps under way.
    pub(crate) fn is_closed_by_step_of(&self, ask: &Ask) -> bool {
        let asks = self.0.lock();
        asks.iter().any(|step| Arc::ptr_eq(&step.callers, &ask.callers) && is_closed_by(&asks, step))
    }
}

fn is_closed_by(asks: &[Arc<Ask>], ask: &Ask) -> bool {
    is_blocked(asks, ask, /* are_callers */ true) && !is_blocked(asks, ask, /* are_callers */ false)
}

/// Whether no instance is free for the request, where each is blocked that asks for what is blocked itself, in a ring as well; `are_callers`
/// says whether those that wait for the request are.
fn is_blocked(asks: &[Arc<Ask>], ask: &Ask, are_callers: bool) -> bool {
    let mut may_wait = vec![true; asks.len()];
    loop {
        let is_blocked = |instance: &Health| {
            let is_caller = ask.callers.blocks(instance);
            let asks_in_vain =
                || zip(asks, &may_wait).any(|(other, &waits)| waits && other.callers.blocks_itself(instance));
            if is_caller { are_callers } else { asks_in_vain() }
        };
        if !ask.waits_for(&is_blocked) {
            return false;
        }
        let still: Vec<bool> =
            zip(asks, &may_wait).map(|(other, &waits)| waits && other.waits_for(&is_blocked)).collect();
        if still == may_wait {
            return true;
        }
        may_wait = still;
    }
}
