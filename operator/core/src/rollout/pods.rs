//! Which pods may serve a content that is not proven.

use std::collections::BTreeSet;

use super::judge::Sighting;
use crate::{
    manifest::{ModelRollout, RolloutPhase},
    replica::Replica,
};

/// The pods that may serve a content, by name.
pub(super) fn pods(rollout: &ModelRollout, sightings: &[Sighting<'_>], at_once: usize) -> BTreeSet<String> {
    let name = |it: &Sighting<'_>| it.replica.name.clone();
    match rollout.phase {
        RolloutPhase::Quarantined => BTreeSet::new(),
        RolloutPhase::Trial => canary(sightings).map(name).into_iter().collect(),
        // a new pod that took it by itself goes back to the former one, if there is one
        RolloutPhase::Stopped => {
            let keeps = |it: &&Sighting<'_>| it.may_adopt || it.serves() || (rollout.former.is_none() && it.has_it());
            sightings.iter().filter(keeps).map(name).collect()
        }
        RolloutPhase::Spreading => {
            let at_work = sightings.iter().filter(|it| it.replica.is_ready && it.has_it() && !it.serves()).count();
            let others = || sightings.iter().filter(|it| !it.has_it() && it.can_begin());
            let unready = others().filter(|it| !it.replica.is_ready);
            let ready = others().filter(|it| it.replica.is_ready).take(at_once.max(1).saturating_sub(at_work));
            sightings.iter().filter(|it| it.has_it()).chain(unready).chain(ready).map(name).collect()
        }
    }
}

/// The pod that tries a content first: the one that does already, as long as it can run; else one that is ready, tries
/// others already and is oldest. At the first start of a server no pod is ready.
fn canary<'a, 'b>(sightings: &'b [Sighting<'a>]) -> Option<&'b Sighting<'a>> {
    sightings.iter().filter(|it| it.can_begin()).min_by_key(|it| {
        let Replica { is_ready, has_started, trouble, may_adopt, created, name, .. } = it.replica;
        let can_run = *has_started || trouble.is_none();
        let rank = match () {
            () if it.has_it() && can_run => 0,
            () if *is_ready => 1,
            () if *has_started => 2,
            () if can_run => 3,
            () => 4,
        };
        (rank, may_adopt.is_empty(), created.clone(), name)
    })
}
