//! From what is observed and remembered to the words of the state.

use std::{collections::BTreeMap, time::Instant};

use tokio::sync::watch;

use super::memory::Memory;
use crate::{
    adopt::Following,
    attempts::Attempts,
    load::Index,
    plan::{Inputs, Served, Wanted},
    source::Stage,
    state::{ModelState, Phase, State},
};

/// What is known beside what the plan is made of.
pub(super) struct Known<'a> {
    pub(super) following: &'a Following,
    pub(super) memories: &'a BTreeMap<String, Memory>,
    pub(super) attempts: &'a Attempts,
    pub(super) index: Option<&'a Index>,
}

/// Where every model stands. `before` is the state so far: how far a fetch is, only the fetch itself knows.
pub(super) fn describe_all(
    observed: &Inputs,
    known: &Known<'_>,
    before: &State,
    now: Instant,
) -> BTreeMap<String, ModelState> {
    let index = known.index;
    let leaving = observed.unwanted.keys().map(|name| {
        let versions = index.map(|index| index.ready_versions(name)).unwrap_or_default();
        (name.clone(), ModelState { phase: Phase::Unloading, versions, ..ModelState::default() })
    });
    let wanted = observed.wanted.iter().map(|(name, wanted)| {
        let before = before.models.get(name).map(|model| &model.phase);
        (name.clone(), describe(wanted, known, before, name, now))
    });
    leaving.chain(wanted).collect()
}

/// How far a fetch is; the rest of the state stays.
pub(super) fn progress(state: &watch::Sender<State>, name: &str, stage: Stage) {
    state.send_if_modified(|state| {
        let phase = match stage {
            Stage::Downloading(bytes, total) => Phase::Downloading { bytes, total },
            Stage::Verifying => Phase::Verifying,
        };
        let Some(model) = state.models.get_mut(name).filter(|model| model.phase != phase) else { return false };
        model.phase = phase;
        true
    });
}

/// Where a model of the manifest stands, in the words of the state.
fn describe(wanted: &Wanted, known: &Known<'_>, before: Option<&Phase>, name: &str, now: Instant) -> ModelState {
    let (memory, index) = (&known.memories[name], known.index);
    let is_serving = wanted.served == Served::Yes && index.is_some() && !wanted.is_overridden;
    let is_done = is_serving && wanted.staged.is_some() && wanted.staged == wanted.active;
    let phase = if memory.fetching.is_some() {
        match before {
            Some(phase @ (Phase::Downloading { .. } | Phase::Verifying)) => phase.clone(),
            _ => Phase::Pending,
        }
    } else if memory.loading.is_some() && memory.loading == wanted.staged {
        Phase::Loading
    } else if is_done {
        Phase::Ready
    } else if let Some(failure) = memory.failure(wanted.staged.as_ref(), &wanted.retry_policy, now) {
        Phase::Failed(failure)
    } else if wanted.served == Served::Changing && wanted.staged.is_some() && wanted.staged == wanted.linked {
        Phase::Loading
    } else {
        Phase::Pending
    };
    ModelState {
        phase,
        wanted: wanted.staged.clone(),
        serving: wanted.active.clone().filter(|_| is_serving),
        versions: index.map(|index| index.ready_versions(name)).unwrap_or_default(),
        load_ms: memory.load_ms,
        entry: known.following.entries.get(name).map(|entry| entry.hash.clone()),
        crashes: wanted.staged.as_ref().map_or(0, |content| known.attempts.crashes(content)),
    }
}
