//! What the reports of the pods mean for a content that is not proven.

use std::collections::BTreeMap;

use crate::{
    Reason,
    manifest::{ModelRollout, RolloutFailure, RolloutPhase},
    replica::{ModelReport, OOM_KILLED, Phase, Replica},
    text::cut,
};

/// Server processes that a content may take down before no pod may serve it any more. The agents count as far.
pub const CRASHES_MAX: u32 = 2;

/// A content by its hashes.
pub(super) struct Content<'a> {
    pub(super) hash: &'a str,
    pub(super) word: &'a str,
    /// Hash of the content that was proven before.
    pub(super) former: Option<&'a str>,
}

/// What is seen of a content on one pod that does not leave.
pub(super) struct Sighting<'a> {
    pub(super) replica: &'a Replica,
    /// Its annotation names the content.
    pub(super) may_adopt: bool,
    /// What it has read of its annotation does: it may not know yet that this was taken back.
    has_read_so: bool,
    /// What it says of the model, if that is about this content.
    report: Option<&'a ModelReport>,
    /// It serves the former content, has failed with it, its servers end with it, or there is none.
    is_through_with_former: bool,
}

impl<'a> Sighting<'a> {
    /// What is seen of a content of model `name`. `published`: hash of the manifest of which it is part, if it was published.
    pub(super) fn of(replica: &'a Replica, name: &str, content: &Content<'_>, published: Option<&str>) -> Self {
        let report = replica.report.as_ref();
        let model = report.and_then(|report| Some((report, report.models.get(name)?)));
        let about = |hash: &str, published| model.filter(|(report, model)| model.is_about(hash, report, published));
        let has_ended = |former: &str| {
            about(former, None).is_some_and(|(_, model)| {
                matches!(model.phase, Phase::Ready | Phase::Failed { .. }) || model.ends_servers
            })
        };
        let is_older = report.is_some_and(|report| report.adopts.is_none());
        Self {
            replica,
            may_adopt: replica.may_adopt.contains(content.word),
            has_read_so: report.and_then(|it| it.adopts.as_ref()).is_some_and(|words| words.contains(content.word)),
            report: about(content.hash, published).map(|(_, model)| model),
            is_through_with_former: is_older || content.former.is_none_or(has_ended),
        }
    }

    /// It may be given the content.
    pub(super) fn can_begin(&self) -> bool {
        self.has_it() || self.is_through_with_former
    }

    /// It failed with the content, was not named by its annotation, and is back at the former one.
    fn has_gone_back(&self) -> bool {
        !self.has_it() && self.is_through_with_former
    }

    /// The pod may serve it, or does its work on it.
    pub(super) fn has_it(&self) -> bool {
        self.may_adopt || self.has_read_so || self.report.is_some()
    }

    pub(super) fn serves(&self) -> bool {
        self.report.is_some_and(|report| report.phase == Phase::Ready)
    }

    /// It serves it, and its server has lived on with it.
    fn has_settled(&self) -> bool {
        self.report.is_some_and(ModelReport::has_settled)
    }

    fn failure(&self) -> Option<RolloutFailure> {
        let report = self.report?;
        let (reason, message) = match &report.phase {
            Phase::Failed { reason, message, .. } => (reason.clone(), cut(message, RolloutFailure::MESSAGE_MAX)),
            _ if report.crashes > 0 && !report.has_settled() => {
                let how = report.crash.as_deref().unwrap_or("the server ended with this content");
                let (reason, message) = self.of_end(&format!("{how}; it is tried once more, by itself"));
                (reason, cut(&message, RolloutFailure::MESSAGE_MAX))
            }
            _ => return None,
        };
        Some(RolloutFailure { reason, message, pod: self.replica.name.clone(), reported_restarts: None })
    }
}

impl Sighting<'_> {
    /// Reason and words for the end of its server, which is held against the content.
    fn of_end(&self, words: &str) -> (String, String) {
        match &self.replica.memory_end {
            Some(memory_end) => (OOM_KILLED.to_owned(), format!("{memory_end}; {words}")),
            None => (Reason::ServerCrashed.to_string(), words.to_owned()),
        }
    }
}

/// How far a content is, having been at `before`; nothing once it is proven.
pub(super) fn judge(before: ModelRollout, sightings: &[Sighting<'_>]) -> Option<ModelRollout> {
    if before.phase == RolloutPhase::Quarantined {
        let failure = before.failure.map(|failure| explained(failure, sightings));
        return Some(ModelRollout { failure, ..before });
    }
    let failure = failure(before.failure.as_ref(), sightings);
    let mut next = ModelRollout { crashes: all_crashes(before.crashes, sightings), failure, ..before };
    if next.crash_count() >= CRASHES_MAX {
        let failure = fatal(next.failure.take(), &next.crashes, sightings);
        next.failure = Some(RolloutFailure { reported_restarts: reported_restarts(&failure, sightings), ..failure });
        next.phase = RolloutPhase::Quarantined;
        return Some(next);
    }
    if next.failure.is_some() {
        next.phase = RolloutPhase::Stopped;
        return Some(next);
    }
    let has_settled = sightings.iter().any(Sighting::has_settled);
    // one that is out of the Service to load it counts, too
    let counts = |it: &&Sighting<'_>| it.replica.is_ready || it.replica.is_out();
    let is_everywhere = sightings.iter().filter(counts).all(Sighting::has_settled);
    if has_settled && is_everywhere {
        return None;
    }
    next.phase = match next.phase {
        RolloutPhase::Spreading => RolloutPhase::Spreading,
        _ if has_settled => RolloutPhase::Spreading,
        _ => RolloutPhase::Trial,
    };
    Some(next)
}

/// A server may end twice before the kubelet reports the first end. The restarts of its container that were reported by then, if the
/// reason is still to come. Where the launcher restarted the server, the container has not ended, and the kubelet reports nothing.
fn reported_restarts(failure: &RolloutFailure, sightings: &[Sighting<'_>]) -> Option<i32> {
    let sighting = sightings.iter().find(|it| it.replica.name == failure.pod)?;
    let has_no_reason = failure.reason == Reason::ServerCrashed.to_string() && sighting.replica.memory_end.is_none();
    let has_ended_its_container = sighting.replica.report.as_ref()?.crashes == Some(0);
    (has_no_reason && has_ended_its_container).then_some(sighting.replica.restarts)
}

/// The failure of a content in quarantine, with what the kubelet has said since of the ends that are held against it.
fn explained(failure: RolloutFailure, sightings: &[Sighting<'_>]) -> RolloutFailure {
    let Some(reported) = failure.reported_restarts else { return failure };
    let Some(sighting) = sightings.iter().find(|it| it.replica.name == failure.pod) else { return failure };
    let Replica { restarts, memory_end, .. } = sighting.replica;
    let is_of_them = *restarts <= reported.saturating_add_unsigned(CRASHES_MAX);
    match memory_end {
        Some(_) if is_of_them => {
            let (reason, message) = sighting.of_end(&failure.message);
            let message = cut(&message, RolloutFailure::MESSAGE_MAX);
            RolloutFailure { reason, message, reported_restarts: None, ..failure }
        }
        None if *restarts <= reported => failure,
        _ => RolloutFailure { reported_restarts: None, ..failure }, // it was something else
    }
}

/// What stands against a content. A pod that failed goes on by its own policy: until the content settles or the pod is gone, what it
/// does meanwhile changes nothing.
fn failure(before: Option<&RolloutFailure>, sightings: &[Sighting<'_>]) -> Option<RolloutFailure> {
    let known = before.and_then(|before| {
        let pod = sightings.iter().find(|it| it.replica.name == before.pod)?;
        (!pod.has_settled() && !pod.has_gone_back()).then(|| pod.failure().unwrap_or_else(|| before.clone()))
    });
    known.or_else(|| sightings.iter().find_map(Sighting::failure))
}

/// Each pod counts its own and forgets with its end, so the highest count of each pod is kept: seeing a report twice, or not
/// at all for a while, changes nothing.
fn all_crashes(mut crashes: BTreeMap<String, u32>, sightings: &[Sighting<'_>]) -> BTreeMap<String, u32> {
    for sighting in sightings {
        let count = sighting.report.map_or(0, |report| report.crashes);
        if count > 0 {
            let known = crashes.entry(sighting.replica.name.clone()).or_default();
            *known = count.max(*known);
        }
    }
    crashes
}

/// What is said of a content in quarantine: the words of a pod that gave it up, or how often it was tried.
fn fatal(
    failure: Option<RolloutFailure>,
    crashes: &BTreeMap<String, u32>,
    sightings: &[Sighting<'_>],
) -> RolloutFailure {
    let is_of_end = |reason: &str| reason == OOM_KILLED || reason == Reason::ServerCrashed.to_string();
    let gave_up = sightings.iter().find_map(|it| {
        let is_final = matches!(it.report?.phase, Phase::Failed { .. });
        it.failure().filter(|failure| is_final && is_of_end(&failure.reason))
    });
    gave_up.unwrap_or_else(|| {
        let pod = failure.map(|failure| failure.pod).filter(|pod| crashes.contains_key(pod));
        let pod = pod.or_else(|| crashes.keys().next_back().cloned()).unwrap_or_default();
        let count: u32 = crashes.values().fold(0, |sum, count| sum.saturating_add(*count));
        let message = format!("{count} server processes ended with this content");
        let (reason, message) = match sightings.iter().find(|it| it.replica.name == pod) {
            Some(sighting) => sighting.of_end(&message),
            None => (Reason::ServerCrashed.to_string(), message),
        };
        RolloutFailure { reason, message: cut(&message, RolloutFailure::MESSAGE_MAX), pod, reported_restarts: None }
    })
}
