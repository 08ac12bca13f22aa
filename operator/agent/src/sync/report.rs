//! From what is observed and remembered to the words of the state.

use std::{collections::BTreeMap, time::Instant};

use operator_core::manifest::{ManifestModel, ModelRollout, RolloutPhase};
use tokio::sync::watch;

use super::memory::Memory;
use crate::{
    adopt::Following,
    attempts::Attempts,
    fault::Reason,
    load::{self, Index},
    plan::{Inputs, Served, Wanted},
    source::Stage,
    state::{Memory as MemoryHeld, ModelState, Phase, State},
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
        let before = before.models.get(name);
        let mut model = describe(wanted, observed, known, before.map(|before| &before.phase), name, now);
        model.memory = memory(&model, before, index.and_then(|index| index.memory(name)));
        (name.clone(), model)
    });
    leaving.chain(wanted).collect()
}

/// The most that what serves was seen to hold. While the server does not say, what it said before stays.
fn memory(model: &ModelState, before: Option<&ModelState>, now: Option<MemoryHeld>) -> Option<MemoryHeld> {
    model.serving.as_ref()?;
    let before = before.filter(|before| before.serving == model.serving).and_then(|before| before.memory);
    now.map_or(before, |now| Some(now.most(before)))
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
    observed: &Inputs,
    known: &Known<'_>,
    before: Option<&Phase>,
    name: &str,
    now: Instant,
) -> ModelState {
    let (memory, index) = (&known.memories[name], known.index);
    let is_serving = wanted.served == Served::Yes && index.is_some() && !wanted.is_overridden;
    let is_done = is_serving
        && wanted.staged.is_some()
        && wanted.staged == wanted.active
        && (wanted.linked == wanted.staged || wanted.linked.is_none());
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
        // one that lacks another model, which is on its way, has not failed
        let waits = failure.reason == Reason::LoadFailed && load::lacks_a_model(&failure.message);
        if waits && is_another_coming(name, observed, known, now) { Phase::Pending } else { Phase::Failed(failure) }
    } else if wanted.served == Served::Changing && wanted.staged.is_some() && wanted.staged == wanted.linked {
        Phase::Loading
    } else {
        Phase::Pending
    };
    let is_ready = phase == Phase::Ready;
    ModelState {
        phase,
        wanted: wanted.staged.clone(),
        serving: wanted.active.clone().filter(|_| is_serving),
        versions: index.map(|index| index.ready_versions(name)).unwrap_or_default(),
        memory: None,
        load_ms: memory.load_ms,
        entry: known.following.entries.get(name).map(|entry| entry.hash.clone()),
        crashes: wanted.staged.as_ref().map_or(0, |content| known.attempts.crashes(content)),
        crash: wanted
            .staged
            .as_ref()
            .and_then(|content| known.attempts.last_crash(content))
            .map(|crash| crash.sentence()),
        settled: (is_ready && wanted.staged.as_ref().is_some_and(|content| known.attempts.is_open(content)))
            .then_some(false),
        ends_servers: wanted.staged.as_ref().is_some_and(|content| known.attempts.has_unexplained_ends(content)),
    }
}

/// Whether a model other than that may come into service without anybody doing anything: this pod works on it, or is about to be given
/// its content.
fn is_another_coming(name: &str, observed: &Inputs, known: &Known<'_>, now: Instant) -> bool {
    let is_coming = |(other, wanted): (&String, &Wanted)| {
        let is_done = wanted.served == Served::Yes && wanted.staged.is_some() && wanted.staged == wanted.active;
        let has_failed = known.memories[other].failure(wanted.staged.as_ref(), &wanted.retry_policy, now).is_some();
        other != name && !is_done && (!has_failed || wanted.is_fetching || wanted.is_loading)
    };
    let is_given = |model: &ManifestModel| {
        let is_coming = |rollout: &ModelRollout| matches!(rollout.phase, RolloutPhase::Trial | RolloutPhase::Spreading);
        let withheld = known.following.entries.get(&model.name).is_none_or(|entry| entry.withheld.is_some());
        model.name != name && withheld && model.rollout.as_ref().is_some_and(is_coming)
    };
    observed.wanted.iter().any(is_coming) || known.following.published.models.iter().any(is_given)
}
