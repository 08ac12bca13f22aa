//! From what is observed and remembered to the words of the state.

use std::{collections::BTreeMap, time::Instant};

use tokio::sync::watch;

use super::memory::Memory;
use crate::{
    load::Index,
    plan::{Inputs, Served, Wanted},
    source::Stage,
    state::{ModelState, Phase, State},
};

/// Where every model stands. `before` is the state so far: how far a fetch is, only the fetch itself knows.
pub(super) fn describe_all(
    observed: &Inputs,
    memories: &BTreeMap<String, Memory>,
    before: &State,
    index: Option<&Index>,
    now: Instant,
) -> BTreeMap<String, ModelState> {
    let leaving = observed.unwanted.keys().map(|name| {
        let versions = index.map(|index| index.ready_versions(name)).unwrap_or_default();
        (name.clone(), ModelState { phase: Phase::Unloading, versions, ..ModelState::default() })
    });
    let wanted = observed.wanted.iter().map(|(name, wanted)| {
        let before = before.models.get(name).map(|model| &model.phase);
        (name.clone(), describe(wanted, &memories[name], before, index, name, now))
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
fn describe(
    wanted: &Wanted,
    memory: &Memory,
    before: Option<&Phase>,
    index: Option<&Index>,
    name: &str,
    now: Instant,
) -> ModelState {
    let is_serving = wanted.served == Served::Yes && index.is_some();
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
        ..ModelState::default()
    }
}
