//! Which pods leave the Service before they unload what serves, where a model says `UnloadFirst`: one after the other, and only while
//! others serve the model. What a pod is told stands in its annotation beside the content it may adopt, as one more word for each
//! ([`adopt_words`](crate::adopt_words)).
//!
//! A pod that goes back to the former content, or to one that is proven, unloads as well, and gets the same words for that.
//!
//! A pod that is not ready for another reason is waited for as well, so that no more are missing than may be; if its agent says that it
//! has nothing left to fetch or to load, only for [`WAITED`].
//!
//! A pod is out from the moment its annotation says so, and as long as the annotation or its own report does, or it loads: a word is
//! taken back only when the pod is ready again, and the next pod gets its own only when that has been read. Agents that do not know
//! these words pass them over.

use std::{borrow::Cow, collections::BTreeSet};

use crds::parts::load::LoadOrder;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::SignedDuration};

use super::{
    adopt::Adopt,
    step::{Around, Step},
};
use crate::{
    ManifestModel,
    adopt_words::{DRAIN, HOLD},
    manifest::RolloutPhase,
    replica::{NOTICED, Phase, Replica},
};

/// How long a pod is waited for that is not ready though its agent says that everything is done.
const WAITED: SignedDuration = SignedDuration::from_mins(5);

/// Whether nobody else may leave for it: it has left, or may, or is not back before the kubelet has asked it again.
fn is_missing(replica: &Replica) -> bool {
    replica.is_out() || (replica.has_started && !replica.is_ready && replica.unreachable.is_none())
}

/// Whether it is not waited for any more: what keeps it from being ready is not what others wait for.
fn is_given_up(replica: &Replica, now: &Time) -> bool {
    is_settled(replica) && unready_for(replica, now).is_some_and(|time| time >= WAITED)
}

/// Whether its agent says that nothing is on its way: a new pod fetches and loads for as long as it takes.
fn is_settled(replica: &Replica) -> bool {
    let is_done = |phase: &Phase| matches!(phase, Phase::Ready | Phase::Failed { .. });
    replica.report.as_ref().is_some_and(|report| report.models.values().all(|model| is_done(&model.phase)))
}

fn unready_for(replica: &Replica, now: &Time) -> Option<SignedDuration> {
    let since = replica.unready_since.as_ref().filter(|_| !replica.is_ready)?;
    Some(now.0.duration_since(since.0))
}

/// What is said of settled pods that keep others from leaving the Service for a model that is unloaded before it is loaded, if there
/// are any: until when they are waited for, or that they are not any more. The same at any moment between.
pub(crate) fn said_of_waiting(replicas: &[Replica], now: &Time) -> Option<String> {
    let is_noticed = |replica: &&Replica| {
        let is_missing = !replica.is_leaving && replica.trouble.is_none() && is_missing(replica);
        is_missing && is_settled(replica) && unready_for(replica, now).is_some_and(|time| time >= NOTICED)
    };
    let said: Vec<String> = replicas
        .iter()
        .filter(is_noticed)
        .filter_map(|replica| {
            let (name, since) = (&replica.name, replica.unready_since.as_ref()?.0);
            Some(match is_given_up(replica, now) {
                true => format!("{name}, not ready since {since}, is not waited for any more"),
                false => {
                    format!("{name}, not ready since {since}, is waited for until {}", since.checked_add(WAITED).ok()?)
                }
            })
        })
        .collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// A content that a pod may load only after it has unloaded what it serves of the model.
struct Reload<'a> {
    word: Cow<'a, str>,
    model: &'a str,
    /// The pod goes back to it: it follows the content whatever its annotation says.
    is_back: bool,
    /// The pod has tried, and will try again: others go first.
    has_failed: bool,
}

/// Adds to what each pod may adopt whether it leaves the Service for it, and takes away what a pod may not begin yet.
pub(super) fn add(adopt: &mut Adopt, steps: &[Step], around: &Around<'_>) {
    let staying: Vec<&Replica> = around.replicas.iter().filter(|replica| !replica.is_leaving).collect();
    if !steps.iter().any(may_unload_first) && !staying.iter().any(|replica| is_missing(replica)) {
        return;
    }
    let mut turns: Vec<Turn<'_>> = staying.iter().map(|replica| Turn::of(replica, steps, around.now)).collect();
    turns.sort_by_key(Turn::has_only_failed);
    let mut out: BTreeSet<&str> = turns.iter().filter(|turn| turn.is_out()).map(Turn::name).collect();
    let most = around.at_once.max(1);
    let waits = |turn: &Turn<'_>, out: &BTreeSet<&str>| {
        let others = || staying.iter().filter(|other| other.name != turn.name());
        let is_first_try =
            |reload: &Reload<'_>| !reload.has_failed && others().any(|other| serves(other, reload.model));
        !out.contains(turn.name()) && turn.reloads.iter().any(is_first_try)
    };
    let is_awaited = out.len() >= most && turns.iter().any(|turn| waits(turn, &out));
    for turn in &turns {
        let Some(words) = adopt.get_mut(turn.name()) else { continue };
        let has_turn = turn.replica.trouble.is_none() && turn.replica.has_word(DRAIN);
        let is_at_work = !turn.replica.is_ready || turn.is_under_way;
        // others count it as out until it has read that it is not
        let gives_way =
            has_turn && !is_at_work && (has_lost_its_word(turn.replica) || (is_awaited && turn.has_only_failed()));
        for reload in &turn.reloads {
            let is_served = is_served_elsewhere(&staying, turn, reload, &out);
            let others_out = out.iter().filter(|name| **name != turn.name()).count();
            let may_leave = if has_turn { !gives_way } else { others_out < most };
            if is_served && may_leave {
                out.insert(turn.name());
                words.insert(format!("{DRAIN}{}/{}", turn.replica.leaves_after.as_secs(), reload.word));
            } else if is_served || others_out > 0 {
                if reload.is_back || turn.replica.may_adopt.contains(&*reload.word) {
                    words.insert(format!("{HOLD}{}", reload.word));
                } else {
                    words.remove(&*reload.word);
                }
            } else {
                words.insert(reload.word.to_string());
            }
        }
        if turn.is_out() && is_at_work && !words.iter().any(|word| word.contains('/')) {
            words.extend(turn.replica.may_adopt.iter().filter(|word| word.contains('/')).cloned());
        }
    }
}

/// A pod, and what it is to unload and load.
struct Turn<'a> {
    replica: &'a Replica,
    reloads: Vec<Reload<'a>>,
    /// It loads something of a model that is unloaded first, be it what is asked for now or not.
    is_under_way: bool,
    /// Nobody waits for it any more.
    is_given_up: bool,
}

impl<'a> Turn<'a> {
    fn of(replica: &'a Replica, steps: &'a [Step], now: &Time) -> Self {
        let is_loading = |step: &Step| {
            let report = replica.report.as_ref().and_then(|report| report.models.get(&step.entry.name));
            step.entry.load.order == LoadOrder::UnloadFirst
                && report.is_some_and(|report| report.phase == Phase::Loading)
        };
        let is_under_way = steps.iter().any(is_loading);
        Self { replica, reloads: reloads(replica, steps), is_under_way, is_given_up: is_given_up(replica, now) }
    }

    fn name(&self) -> &'a str {
        &self.replica.name
    }

    fn is_out(&self) -> bool {
        self.replica.trouble.is_none() && (self.is_under_way || (is_missing(self.replica) && !self.is_given_up))
    }

    /// It has nothing to do but what it has failed with.
    fn has_only_failed(&self) -> bool {
        self.reloads.iter().all(|reload| reload.has_failed)
    }
}

/// Whether callers who leave `turn`'s pod find the model on another one.
fn is_served_elsewhere(staying: &[&Replica], turn: &Turn<'_>, reload: &Reload<'_>, out: &BTreeSet<&str>) -> bool {
    let others = staying.iter().filter(|other| other.name != turn.name() && !out.contains(other.name.as_str()));
    let mut ready = others.filter(|other| other.is_ready);
    ready.any(|other| serves(other, reload.model))
}

/// Its annotation does not say any more that it may leave the Service, but it has not read that.
fn has_lost_its_word(replica: &Replica) -> bool {
    !replica.may_adopt.iter().any(|word| word.starts_with(DRAIN))
}

/// Whether a pod may have to unload something for the entry of `step`, or to go back from it.
fn may_unload_first(step: &Step) -> bool {
    let former = step.entry.rollout.as_ref().and_then(|rollout| rollout.former.as_deref());
    [Some(&step.entry), former].into_iter().flatten().any(|entry| entry.load.order == LoadOrder::UnloadFirst)
}

/// What the pod of that name is to serve of the model of `step`, with the word for it; whether it goes back to it.
fn followed<'a>(step: &'a Step, pod: &str) -> Option<(&'a ManifestModel, Cow<'a, str>, bool)> {
    match &step.entry.rollout {
        None => Some((&step.entry, Cow::Borrowed(&step.word), true)),
        Some(rollout) if rollout.phase != RolloutPhase::Quarantined && step.pods.contains(pod) => {
            Some((&step.entry, Cow::Borrowed(&step.word), false))
        }
        Some(rollout) => rollout.former.as_deref().map(|former| (former, Cow::Owned(former.adopt_word()), true)),
    }
}

/// What `replica` is to unload and load.
fn reloads<'a>(replica: &Replica, steps: &'a [Step]) -> Vec<Reload<'a>> {
    let Some(reports) = &replica.report else { return vec![] };
    let reloads = steps.iter().filter(|step| may_unload_first(step)).filter_map(|step| {
        let (entry, word, is_back) = followed(step, &replica.name)?;
        let report = reports.models.get(&step.entry.name)?;
        if is_back && (reports.adopts.is_none() || report.entry.is_none()) {
            return None; // an agent that does not say what it follows goes back by itself
        }
        let is_about = report.entry.as_deref().is_some_and(|entry| entry.starts_with(&*word));
        let has_failed = match &report.phase {
            Phase::Ready if is_about => return None,
            Phase::Failed { will_retry: false, .. } if is_about => return None,
            phase => is_about && matches!(phase, Phase::Failed { .. }),
        };
        // one that goes back was told so; any other that loads what is proven has just been started
        let was_told = |words: &BTreeSet<String>| words.iter().any(|it| it.starts_with(DRAIN) && it.ends_with(&*word));
        let is_under_way = is_about && report.phase == Phase::Loading && (!is_back || was_told(&replica.may_adopt));
        let is_loaded = !report.versions.is_empty();
        let is_reload = entry.load.order == LoadOrder::UnloadFirst && (is_loaded || is_under_way);
        is_reload.then_some(Reload { word, model: &step.entry.name, is_back, has_failed })
    });
    reloads.collect()
}

fn serves(replica: &Replica, model: &str) -> bool {
    let report = replica.report.as_ref().filter(|_| replica.unreachable.is_none());
    report.and_then(|report| report.models.get(model)).is_some_and(|model| !model.versions.is_empty())
}

#[cfg(test)]
mod tests;
