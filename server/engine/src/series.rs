//! Metrics that go on where a version is loaded anew: its statistics start anew, its series do not.
//!
//! Source: Triton keeps one reporter of metrics per model and version for as long as any instance of it lives.

use std::sync::Arc;

use parking_lot::Mutex;
use server_core::stats::ModelSnapshot;

/// The counters of one loaded version, as those that replace it see them.
pub(crate) trait Series: Send + Sync {
    /// The counters now, with those of the versions that this one has replaced.
    fn metrics(&self) -> ModelSnapshot;

    /// Whether they change no more: the last request has ended, here and in the versions before.
    fn is_final(&self) -> bool;
}

/// The versions that a version has replaced.
#[derive(Default)]
pub(crate) struct Replaced(Mutex<State>);

#[derive(Default)]
struct State {
    /// Counts of those that are gone.
    counts: ModelSnapshot,
    /// The one before, while it still finishes requests.
    last: Option<Arc<dyn Series>>,
}

impl Replaced {
    /// One more version is replaced.
    pub(crate) fn push(&self, last: Arc<dyn Series>) {
        self.0.lock().last = Some(last);
    }

    /// Keeps of the versions that have ended their last request only the counts.
    pub(crate) fn settle(&self) {
        let mut state = self.0.lock();
        let Some(last) = state.last.clone().filter(|last| last.is_final()) else { return };
        state.counts.add_counts(&last.metrics());
        state.last = None;
    }

    /// Whether no version still finishes requests.
    pub(crate) fn is_final(&self) -> bool {
        self.settle();
        self.0.lock().last.is_none()
    }

    /// Adds the counts of all of them.
    pub(crate) fn add_to(&self, snapshot: &mut ModelSnapshot) {
        self.settle();
        let state = self.0.lock();
        snapshot.add_counts(&state.counts);
        if let Some(last) = &state.last {
            snapshot.add_counts(&last.metrics());
        }
    }
}
