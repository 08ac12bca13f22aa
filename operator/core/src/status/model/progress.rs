//! How far the replicas of a model are, in words that name them. Pure.

use super::standing::Standing;
use crate::{
    Reason, labels,
    manifest::{ModelRollout, RolloutPhase},
    replica::Replica,
};

type Standings<'a, 'b> = [(&'a Replica, Standing<'b>)];

/// What is under way, if something is, and the reason it goes by.
pub(super) fn under_way(standings: &Standings<'_, '_>, rollout: Option<&ModelRollout>) -> Option<(Reason, String)> {
    let on = |is: fn(&Standing<'_>) -> bool| -> Vec<&str> {
        standings.iter().filter(|(_, standing)| is(standing)).map(|(replica, _)| replica.name.as_str()).collect()
    };
    let working = [
        (Reason::Downloading, on(|standing| matches!(standing, Standing::Downloading))),
        (Reason::Loading, on(|standing| matches!(standing, Standing::Loading))),
        (Reason::Pending, on(|standing| matches!(standing, Standing::Pending))),
    ];
    let working = working.into_iter().find(|(_, names)| !names.is_empty());
    let held = on(|standing| matches!(standing, Standing::Held));
    let settling = on(|standing| matches!(standing, Standing::Settling));
    let is_trial = rollout.is_some_and(|rollout| rollout.phase == RolloutPhase::Trial);
    let after = match held.as_slice() {
        [] => String::new(),
        [one] => format!("; {one} gets it after that"),
        several => format!("; {} get it after that", several.join(", ")),
    };
    let former = if rollout.is_some_and(|rollout| rollout.former.is_some()) && is_trial {
        "; the former content serves on"
    } else {
        ""
    };
    match working {
        Some((reason, names)) if is_trial && names.len() == 1 => {
            Some((reason, format!("{} tries it first{after}{former}", names[0])))
        }
        Some((reason, names)) => Some((reason, format!("under way on {}{after}{former}", names.join(", ")))),
        None if held.is_empty() => {
            let unreached = on(|standing| matches!(standing, Standing::Unreached));
            let verbs = if unreached.len() == 1 { ["has", "is"] } else { ["have", "are"] };
            let text = || format!("{} {} loaded it and {} not ready yet", unreached.join(", "), verbs[0], verbs[1]);
            (!unreached.is_empty()).then(|| (Reason::ServerNotReady, text()))
        }
        None if is_trial && !settling.is_empty() => {
            let names = settling.join(", ");
            Some((
                Reason::Pending,
                format!("{names} tries it first, and its server has yet to live on with it for a while{after}{former}"),
            ))
        }
        None if is_trial => {
            let names = held.join(", ");
            Some((Reason::Pending, format!("the first of {names} that serves the former content tries it{former}")))
        }
        None => Some((Reason::Pending, after.trim_start_matches("; ").replace(" after that", " next"))),
    }
}

/// What the failure of `pod` means for the other replicas: the end of a sentence, or several.
pub(super) fn containment(pod: &str, standings: &Standings<'_, '_>, rollout: &ModelRollout) -> String {
    let mut text = String::new();
    if rollout.phase == RolloutPhase::Quarantined {
        text.push_str("; no replica loads this content any more");
        if rollout.former.is_some() {
            text.push_str(", the former one goes on");
        }
        text.push_str(&format!(": change the model, or set its annotation {} to a new text", labels::RETRY));
        return text;
    }
    let others = || standings.iter().filter(|(replica, _)| replica.name != pod);
    let serve_it: Vec<&str> = others()
        .filter(|(_, standing)| matches!(standing, Standing::Loaded | Standing::Settling | Standing::Unreached))
        .map(|(replica, _)| replica.name.as_str())
        .collect();
    match serve_it.as_slice() {
        [] => {}
        [one] => text.push_str(&format!("; {one} serves it")),
        several => text.push_str(&format!("; {} serve it", several.join(", "))),
    }
    if others().any(|(_, standing)| matches!(standing, Standing::Held | Standing::Silent)) {
        text.push_str("; no further replica gets this content before that one serves it");
    }
    if rollout.former.is_some() {
        text.push_str(if text.is_empty() { "; the former one goes on" } else { ", the former one goes on" });
    }
    text
}
