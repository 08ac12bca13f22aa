//! Shadow versions, which get copies of requests: of which, and how many were made. The copies are sent in `infer/copies.rs`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use server_core::metrics::ShadowSnapshot;
use tokio::sync::Semaphore;

use crate::model::LoadedModel;

/// Memory of one model's copies in flight, KiB: a copy keeps the tensors of its original, and what that was granted of the byte
/// budget of all requests. A larger one goes alone.
pub(crate) const MOST_KIB: u32 = 64 << 10;

/// A version that gets copies.
pub(crate) struct Shadow {
    pub(crate) version: u64,
    percent: u64,
    /// `None` while it is not ready.
    pub(crate) model: Option<Arc<LoadedModel>>,
    pub(crate) count: Arc<Count>,
}

/// Counts of one shadow version.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Requests of which it could have had a copy.
    seen: AtomicU64,
    pub(crate) copies: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// What outlives the shadows of one model when they change: counts by version, and the copies in flight.
#[derive(Debug)]
pub(crate) struct ShadowCounts {
    by_version: Mutex<BTreeMap<u64, Arc<Count>>>,
    pub(crate) permits: Arc<Semaphore>,
}

impl Default for ShadowCounts {
    fn default() -> Self {
        Self { by_version: Mutex::default(), permits: Arc::new(Semaphore::new(MOST_KIB as usize)) }
    }
}

impl Shadow {
    pub(crate) fn new(version: u64, percent: u32, model: Option<Arc<LoadedModel>>, count: Arc<Count>) -> Self {
        Self { version, percent: u64::from(percent), model, count }
    }

    /// Whether this request is one of its percentage, which is spread evenly.
    pub(crate) fn is_due(&self) -> bool {
        let number = self.count.seen.fetch_add(1, Ordering::Relaxed) % 100;
        (number + 1) * self.percent / 100 > number * self.percent / 100
    }

    pub(crate) fn snapshot(&self, model: &str) -> ShadowSnapshot {
        ShadowSnapshot {
            model: model.to_owned(),
            version: self.version,
            copies: self.count.copies.load(Ordering::Relaxed),
            refused: self.count.refused.load(Ordering::Relaxed),
        }
    }
}

impl ShadowCounts {
    /// The counts of a version.
    pub(crate) fn of(&self, version: u64) -> Arc<Count> {
        self.by_version.lock().entry(version).or_default().clone()
    }
}
