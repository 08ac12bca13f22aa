//! The versions of one model that are ready, and which of them runs a request that names none. It is made anew whenever a version
//! comes or goes or the configuration changes; what must outlive that (open sequences, counts) is handed on.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use server_core::{
    metrics::ShadowSnapshot,
    request::{CorrelationId, InferRequest, Sequence},
    version_routing::{SequenceVersions, Split, VersionRouting, sequence_idle},
};

use crate::{
    model::LoadedModel,
    shadow::{Shadow, ShadowCounts},
};

/// Routes the requests of one model that name no version.
pub(crate) struct VersionRouter {
    routing: Arc<VersionRouting>,
    /// Ascending by version.
    ready: Vec<Arc<LoadedModel>>,
    /// The split, and the place in `ready` that each of its places stands for; `None` if no version with a share is ready.
    split: Option<(Split, Vec<usize>)>,
    /// Requests dealt out by the split so far.
    dealt: AtomicU64,
    shadows: Vec<Shadow>,
    sequences: Arc<Mutex<SequenceVersions>>,
    counts: Arc<ShadowCounts>,
}

impl VersionRouter {
    /// The router for the `ready` versions (ascending), in the place of `before`: that one itself if nothing has changed.
    pub(crate) fn follow(before: Option<Arc<Self>>, ready: Vec<Arc<LoadedModel>>) -> Option<Arc<Self>> {
        let newest = ready.last()?;
        let routing = newest.routing.clone()?;
        let is_same_set = |before: &Self| {
            before.ready.len() == ready.len() && before.ready.iter().zip(&ready).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some(before) = before.as_ref().filter(|before| before.routing == routing && is_same_set(before)) {
            return Some(before.clone());
        }
        let versions: Vec<u64> = ready.iter().map(|model| model.interface.version).collect();
        let (places, weights): (Vec<usize>, Vec<u32>) = routing.shares(&versions).into_iter().unzip();
        let split = Split::new(&weights).map(|split| (split, places));
        let (sequences, counts) = match &before {
            Some(before) => (before.sequences.clone(), before.counts.clone()),
            None => (Arc::new(Mutex::new(SequenceVersions::new(sequence_idle(&newest.config)))), Arc::default()),
        };
        // a version that is loaded again, or a change of something else, does not begin the split anew
        let goes_on = |before: &&Arc<Self>| before.split == split;
        let dealt = before.as_ref().filter(goes_on).map_or(0, |before| before.dealt.load(Ordering::Relaxed));
        let shadow = |&(version, percent): &(u64, u32)| {
            let model = ready.iter().find(|model| model.interface.version == version).cloned();
            Shadow::new(version, percent, model, counts.of(version))
        };
        let shadows = routing.shadows.iter().map(shadow).collect();
        Some(Arc::new(Self { routing, ready, split, dealt: AtomicU64::new(dealt), shadows, sequences, counts }))
    }

    /// The version that runs the request; `None` if none of those that should is ready: then it goes where it would go without
    /// routing.
    pub(crate) fn route(&self, request: &InferRequest) -> Option<&Arc<LoadedModel>> {
        let Some(sequence) = request.sequence.as_ref().filter(|sequence| has_id(sequence)) else {
            return self.choose(request);
        };
        let of = |version: u64| self.ready.iter().find(|model| model.interface.version == version);
        let version = self.sequences.lock().version_for(
            sequence,
            request.received_at,
            |version| of(version).is_some(),
            || self.choose(request).map(|model| model.interface.version),
        );
        of(version?)
    }

    fn choose(&self, request: &InferRequest) -> Option<&Arc<LoadedModel>> {
        if let Some(canary) = &self.routing.canary
            && self.routing.is_marked(request)
            && let Some(model) = self.ready.iter().find(|model| model.interface.version == canary.version)
            && model.is_healthy()
        {
            return Some(model);
        }
        let (split, places) = self.split.as_ref()?;
        let number = self.dealt.fetch_add(1, Ordering::Relaxed);
        let first = &self.ready[places[split.pick(number)]];
        if first.is_healthy() {
            return Some(first);
        }
        let healthy: Vec<bool> = places.iter().map(|&place| self.ready[place].is_healthy()).collect();
        let next = (1..split.period() as u64).map(|ahead| split.pick(number.wrapping_add(ahead)));
        next.into_iter().find(|&place| healthy[place]).map(|place| &self.ready[places[place]])
    }

    /// The shadow versions that get a copy of a request which `by` runs.
    pub(crate) fn shadows_of(&self, request: &InferRequest, by: &LoadedModel) -> impl Iterator<Item = &Shadow> {
        // a copy of a part of a sequence, or of parts in another order, would show nothing
        let is_alone = request.sequence.as_ref().is_none_or(|sequence| !has_id(sequence));
        let version = by.interface.version;
        self.shadows.iter().filter(move |shadow| is_alone && shadow.version != version && shadow.is_due())
    }

    /// Counts of the copies, and what bounds them.
    pub(crate) fn counts(&self) -> &ShadowCounts {
        &self.counts
    }

    /// What the shadow versions were sent.
    pub(crate) fn shadow_snapshots(&self) -> Vec<ShadowSnapshot> {
        let Some(newest) = self.ready.last() else { return Vec::new() };
        self.shadows.iter().map(|shadow| shadow.snapshot(&newest.interface.model_name)).collect()
    }
}

/// 0 and the empty text are the ids of requests that belong to no sequence.
fn has_id(sequence: &Sequence) -> bool {
    match &sequence.id {
        CorrelationId::Number(number) => *number != 0,
        CorrelationId::Text(text) => !text.is_empty(),
    }
}
