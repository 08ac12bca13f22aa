//! Room for former contents: while a content is rolled out the manifest holds the one before as well, and a ConfigMap is
//! limited.

use std::collections::BTreeSet;

use super::step::{Around, Step};
use crate::{
    Manifest, canonical,
    manifest::{RolloutFailure, RolloutPhase},
    text::cut,
};

/// Most bytes of all entries with their rollouts: what a ConfigMap holds, less its metadata. Entries without rollouts are
/// admitted up to [`crate::compile::MANIFEST_MAX`].
const ROOM: usize = 1_040_000;
/// Most bytes of the messages of all failures.
const MESSAGES: usize = 20_000;

/// Makes the entries fit. A content that does not fit beside its former one waits, by name, as long as others that are under
/// way take room; one that would never fit goes to all pods at once, as it cannot be staged.
pub(super) fn make_room(steps: &mut [Step], last: Option<&Manifest>, around: &Around<'_>) -> BTreeSet<String> {
    limit_messages(steps);
    let mut waiting = BTreeSet::new();
    let mut staged = steps.iter().filter(|step| has_former(step)).count();
    if staged == 0 {
        return waiting;
    }
    let mut total: usize = steps.iter().map(size).sum();
    for step in steps.iter_mut().rev().filter(|step| has_former(step) && step.is_new) {
        if total <= ROOM {
            return waiting;
        }
        total -= size(step);
        match last.and_then(|last| last.model(&step.entry.name)).filter(|_| staged > 1) {
            Some(kept) => {
                waiting.insert(kept.name.clone());
                *step = Step::of(kept.clone(), last, around);
                staged -= usize::from(!has_former(step));
            }
            None => step.entry.rollout = None,
        }
        total += size(step);
    }
    let is_open = |step: &Step| step.entry.rollout.as_ref().is_some_and(|it| it.phase != RolloutPhase::Quarantined);
    for step in steps.iter_mut().rev().filter(|step| has_former(step) && is_open(step)) {
        if total <= ROOM {
            return waiting;
        }
        total -= size(step);
        step.entry.rollout = None;
        total += size(step);
    }
    waiting
}

/// Shortens the messages of failures if there are many.
fn limit_messages(steps: &mut [Step]) {
    let failures = steps.iter_mut().filter_map(|step| step.entry.rollout.as_mut()?.failure.as_mut());
    let failures: Vec<_> = failures.collect();
    let longest = (MESSAGES / failures.len().max(1)).clamp(16, RolloutFailure::MESSAGE_MAX);
    for failure in failures {
        failure.message = cut(&failure.message, longest);
    }
}

fn has_former(step: &Step) -> bool {
    step.entry.rollout.as_ref().is_some_and(|rollout| rollout.former.is_some())
}

fn size(step: &Step) -> usize {
    canonical::to_string(&step.entry).len() + 1
}
