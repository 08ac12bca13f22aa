//! How a new content of a model comes to the pods of its server: to one first (the canary), then to the others, and no further
//! once it fails. Pure: from the entries wanted, the manifest published last and what the pods report to the manifest to publish
//! and the contents each pod may adopt. Nothing is remembered elsewhere, so an operator that starts anew, or a pod that comes
//! or goes at any moment, leads to the same next step. Each model is judged alone.
//!
//! | what is seen of a content that is not proven | its phase | pods that may serve it |
//! |---|---|---|
//! | it has settled on no pod | `Trial` | the canary |
//! | it has settled on a pod | `Spreading` | those that have it, and a few others at a time |
//! | it has settled on every ready pod, and on one at least | none: it is proven | all |
//! | a pod failed with it, or the end of a server is held against it once | `Stopped` | those that have it |
//! | it has settled on that pod, the pod has gone back, or is gone | one of the first three | |
//! | the ends of [`CRASHES_MAX`] server processes are held against it, on whichever pods | `Quarantined` | none |
//! | the resource asks for another content | that one begins: `Trial`, or proven if it is the former one | |
//!
//! It settles on a pod whose server has lived on with it for a while, which the agent decides: what ends a server shortly after its load,
//! or at its first requests, does so on the canary. An agent that says nothing of that is taken to mean that it serves it.
//!
//! The former content is the one that was proven before, or one that has settled on a pod and serves on all. Pods that may not serve the new one serve it, and a pod is given the
//! new one only when it has come to an end with the former, so that it has something to go back to; or when servers end again and again
//! with the former, for then there is nothing to go back to. Quarantine ends only with
//! the content. Pods whose agent is too old to be told adopt everything at once.

mod adopt;
pub(crate) mod drains;
mod judge;
mod pods;
mod room;
mod step;

use self::step::Step;
pub use self::{adopt::Adopt, judge::CRASHES_MAX, step::Around};
use crds::TritonServerSpec;

use crate::{Compiled, Manifest, Reason, compile::Placement, surge::RollingUpdate};

/// How many ready pods of a server may be at work on a content at the same time: as many as may be missing.
pub fn at_once(server: &TritonServerSpec) -> usize {
    usize::try_from(RollingUpdate::of(server, false).unavailable).unwrap_or(0).max(1)
}

/// Takes the rollouts of all models one step further: `compiled` holds each model as it is asked for and comes back with the
/// manifest to publish. A content that cannot begin yet is left as it was, which its placement says.
pub fn advance(mut compiled: Compiled, around: &Around<'_>) -> (Compiled, Adopt) {
    let Manifest { namespace, server, models, sources, trace, .. } = compiled.manifest;
    let last = around.last.filter(|last| last.namespace == namespace && last.server == server);
    let mut steps: Vec<Step> = models.into_iter().map(|entry| Step::of(entry, last, around)).collect();
    let waiting = room::make_room(&mut steps, last, around);
    let mut adopt = adopt::decide(&steps, around);
    drains::add(&mut adopt, &steps, around);
    let entries = steps.into_iter().map(|step| step.entry).collect();
    let manifest = Manifest::new(namespace, server, entries).with_sources(sources);
    // the hash that pods report is that of all of it
    compiled.manifest = manifest.with_trace(trace).or_unchanged(last);
    for model in &mut compiled.models {
        if model.placement == Placement::Placed && waiting.contains(&model.name) {
            let message = "the manifest has no room for it beside the former content while other models are rolled out: it \
                           begins when they are done";
            model.placement = Placement::Kept { reason: Reason::Pending, message: message.into() };
        }
    }
    let adopt = adopt::with_unread(adopt, &compiled.manifest, around.replicas);
    (compiled, adopt)
}

#[cfg(test)]
mod tests;
