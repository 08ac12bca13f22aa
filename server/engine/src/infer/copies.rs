//! Copies of requests for shadow versions, whose answers are dropped. A copy runs in a task of its own, so that the caller of the
//! original never waits for it, and only so many are in flight: the others are counted and not made.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use server_core::request::{InferRequest, VersionChoice};
use tokio::time::timeout;

use super::infer;
use crate::{
    model::ModelHandle,
    registry::Registry,
    shadow::{MOST_KIB, Shadow, ShadowCounts},
};

/// What a copy counts at least, KiB: so 128 of them are in flight at most.
const LEAST_KIB: u32 = MOST_KIB / 128;

/// How long one copy may take: nobody reads its responses, so nobody would ever end one that goes on without end.
const LONGEST_COPY: Duration = Duration::from_secs(60);

/// Runs a copy beside everything else, if it may; never waits.
pub(super) fn send(registry: &Arc<Registry>, counts: &ShadowCounts, shadow: &Shadow, request: InferRequest) {
    let registry = registry.clone();
    let kib = u32::try_from(request.input_bytes() >> 10).unwrap_or(u32::MAX).clamp(LEAST_KIB, MOST_KIB);
    let permit = counts.permits.clone().try_acquire_many_owned(kib);
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
        match infer(&registry, &ModelHandle(model), request) {
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
