//! Copies of requests for shadow versions, whose answers are dropped. A copy runs in a task of its own, so that the caller of the
//! original never waits for it, and only so many are in flight: the others are counted and not made.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use server_core::{
    error::Result,
    metrics::ShadowSnapshot,
    request::{InferRequest, VersionChoice},
};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    infer::{Inference, ModelHandle},
    model::LoadedModel,
};

/// Memory of one model's copies in flight, KiB: a copy keeps the tensors of its original, and what that was granted of the byte
/// budget of all requests. A larger one goes alone.
const MOST_KIB: u32 = 64 << 10;
/// What a copy counts at least, KiB: so 128 of them are in flight at most.
const LEAST_KIB: u32 = MOST_KIB / 128;

/// How long one copy may take: nobody reads its responses, so nobody would ever end one that goes on without end.
const LONGEST_COPY: Duration = Duration::from_secs(60);

/// A version that gets copies.
pub(crate) struct Shadow {
    pub(crate) version: u64,
    percent: u64,
    /// `None` while it is not ready.
    model: Option<Arc<LoadedModel>>,
    count: Arc<Count>,
}

/// Counts of one shadow version.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Requests of which it could have had a copy.
    seen: AtomicU64,
    copies: AtomicU64,
    refused: AtomicU64,
}

/// What outlives the shadows of one model when they change: counts by version, and the copies in flight.
#[derive(Debug)]
pub(crate) struct ShadowCounts {
    by_version: Mutex<BTreeMap<u64, Arc<Count>>>,
    permits: Arc<Semaphore>,
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

    /// Runs a copy beside everything else, if it may; never waits. `infer` is what runs a request.
    pub(crate) fn send(
        &self,
        shadow: &Shadow,
        request: InferRequest,
        infer: impl FnOnce(ModelHandle, InferRequest) -> Result<Inference> + Send + 'static,
    ) {
        let kib = u32::try_from(request.input_bytes() >> 10).unwrap_or(u32::MAX).clamp(LEAST_KIB, MOST_KIB);
        let permit = self.permits.clone().try_acquire_many_owned(kib);
        // a backend that asks other models does so from a thread of its own
        let runtime = tokio::runtime::Handle::try_current();
        let (Some(model), Ok(permit), Ok(runtime)) = (shadow.model.clone(), permit, runtime) else {
            shadow.count.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (version, count) = (shadow.version, shadow.count.clone());
        drop(runtime.spawn(async move {
            // nobody waits for a copy
            let request =
                InferRequest { model_version: VersionChoice::Exact(version), callers: None, trace: None, ..request };
            match infer(ModelHandle(model), request) {
                Ok(mut inference) => {
                    count.copies.fetch_add(1, Ordering::Relaxed);
                    let drain = async { while poll_fn(|context| inference.poll_next(context)).await.is_some() {} };
                    _ = timeout(LONGEST_COPY, drain).await; // dropping what goes on cancels it
                }
                Err(_) => {
                    count.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            drop(permit);
        }));
    }
}
