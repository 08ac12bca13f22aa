//! What the agent remembers of each model while it runs. What must outlive the process is in the ledger instead.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use crate::{
    fault::{Fault, Reason},
    load,
    plan::{RetryDecision, RetryPolicy, Tries},
    source::Progress,
    state::Failure,
    store::Record,
    verify::ContentHash,
};

/// What is remembered of one model.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The entry of the manifest and the state of its source that all of this is about.
    pub(super) key: String,
    /// Until when it is waited for a word on how what serves is to be unloaded.
    pub(super) word_due: Option<Instant>,
    /// What the fetch begun last had to open the source with.
    pub(super) credentials: Option<String>,
    /// The source was looked at since the process began, so what is staged for the key is still what lies there.
    pub(super) is_checked: bool,
    /// Failed fetches for the key.
    pub(super) fetches: Option<Failed>,
    /// Failed loads by content.
    pub(super) loads: BTreeMap<ContentHash, Failed>,
    /// The fetch under way, and its task.
    pub(super) fetching: Option<(Arc<Progress>, AbortHandle)>,
    /// The content being loaded.
    pub(super) loading: Option<ContentHash>,
    /// That load, as long as it may still be waiting for its turn.
    pub(super) waiting: Option<WaitingLoad>,
    /// How many loads of this server's models had succeeded when it began.
    pub(super) loads_before: u64,
    /// How long the last load took.
    pub(super) load_ms: Option<u64>,
}

/// A load that waits for its turn, until either it begins or somebody cancels it.
#[derive(Debug, Clone)]
pub(super) struct WaitingLoad {
    pub(super) is_over: Arc<AtomicBool>,
    pub(super) task: AbortHandle,
}

impl WaitingLoad {
    /// It is no longer wanted. `false` if it has begun.
    fn cancel(&self) -> bool {
        let is_first = !self.is_over.swap(true, Ordering::SeqCst);
        if is_first {
            self.task.abort();
        }
        is_first
    }
}

/// Attempts that failed, and why the last one did.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) tries: Tries,
    fault: Fault,
}

/// Whether a load failed for want of another model: an ensemble came before a model it is made of.
pub(super) fn lacks_a_model(fault: &Fault) -> bool {
    fault.reason == Reason::LoadFailed && load::lacks_a_model(&fault.message)
}

impl Memory {
    /// The model is about something else now: failures are forgotten, a fetch for the old key is ended.
    pub(super) fn set_key(&mut self, key: String) {
        if self.key == key {
            return;
        }
        self.cancel();
        self.key = key;
        self.word_due = None;
        self.fetches = None;
        self.loads.clear();
    }

    /// Nobody wants what is under way any more: a fetch ends at once, a load if it has not begun.
    pub(super) fn cancel(&mut self) {
        if let Some((progress, task)) = self.fetching.take() {
            progress.cancel(); // disk work runs on threads that only this ends
            task.abort();
        }
        if self.waiting.take().is_some_and(|load| load.cancel()) {
            self.loading = None;
        }
    }

    /// Whether it is still waited for a word on how what serves is to be unloaded, `limit` after that was asked first.
    pub(super) fn awaits_word(&mut self, limit: Duration, now: Instant) -> bool {
        now < *self.word_due.get_or_insert(now + limit)
    }

    /// Failures are those of the credentials at hand: what failed with others gets new chances with these.
    pub(super) fn set_credentials(&mut self, credentials: Option<&str>) {
        if self.credentials.as_deref() != credentials {
            self.fetches = None;
        }
    }

    /// A model came into service: loads that failed for want of another one are due at once, and have all their attempts.
    pub(super) fn another_serves(&mut self) {
        self.loads.retain(|_, failed| failed.tries.is_final || !lacks_a_model(&failed.fault));
    }

    /// Something was deleted: a fetch for which there was no room has all its attempts again.
    pub(super) fn room_was_made(&mut self) {
        self.fetches.take_if(|failed| failed.fault.reason == Reason::StoreFull);
    }

    /// Whether what is followed could not be brought into service. `record`: what the ledger has of the model.
    pub(super) fn has_failed(&self, record: &Record) -> bool {
        let staged = record.staged_for(&self.key);
        self.fetches.is_some() || staged.is_some_and(|staged| self.loads.contains_key(&staged.content))
    }

    /// Why the content the manifest wants does not serve, if an attempt has failed.
    pub(super) fn failure(
        &self,
        staged: Option<&ContentHash>,
        retry_policy: &RetryPolicy,
        now: Instant,
    ) -> Option<Failure> {
        let failed = match staged {
            Some(content) => self.loads.get(content),
            None => self.fetches.as_ref(),
        }?;
        Some(Failure {
            reason: failed.fault.reason,
            message: failed.fault.message.clone(),
            attempts: failed.tries.count,
            will_retry: retry_policy.retry(Some(&failed.tries), now) != RetryDecision::Never,
        })
    }
}

impl Failed {
    /// Given up after `count` attempts.
    pub(super) fn for_good(fault: Fault, count: u32, now: Instant) -> Self {
        Self { tries: Tries { count, last: now, is_final: true }, fault }
    }

    /// One more failure on top of those before.
    pub(super) fn again(before: Option<&Self>, fault: Fault, now: Instant) -> Self {
        let count = before.map_or(0, |failed| failed.tries.count) + 1;
        Self { tries: Tries { count, last: now, is_final: fault.reason.is_final() }, fault }
    }
}
