//! What to do next: a pure function of what the manifest wants, what lies on disk, what the server says, what failed and
//! what is under way. It is asked again after everything that happens, so no step relies on the step before it.
//!
//! The rules, in order of weight:
//! - what serves goes on serving: content that was once confirmed stays linked and loaded until newer content is confirmed;
//! - each model by itself: nothing waits for another model, least of all the unloading of what left the manifest; only contents
//!   in rollout are tried one at a time once one of them has ended a server;
//! - the index is the truth about the server, not memory: after a restart everything is loaded anew.

mod known;
mod step;
mod trials;

use std::{collections::BTreeSet, time::Instant};

pub use self::{
    known::{Inputs, RetryDecision, RetryPolicy, Served, Trials, Tries, Wanted},
    step::{Plan, Step},
};
use crate::verify::ContentHash;

/// What to do at `now`.
pub fn plan(observed: &Inputs, now: Instant) -> Plan {
    let mut plan = Plan { is_settled: true, ..Plan::default() };
    for (name, model) in &observed.wanted {
        plan_model(name, model, observed.server_is_live, now, &mut plan);
    }
    trials::hold_back(observed, &mut plan);
    plan_unloads(observed, &mut plan);
    plan_deletions(observed, now, &mut plan);
    plan
}

fn plan_model(name: &str, model: &Wanted, server_is_live: bool, now: Instant, plan: &mut Plan) {
    if model.is_fetching {
        plan.is_settled = false;
    } else if model.staged.is_none() {
        match model.retry_policy.retry(model.fetches.as_ref(), now) {
            RetryDecision::Now => plan.begin(Step::Fetch(name.to_owned())),
            RetryDecision::At(due) => plan.wake_at(due),
            RetryDecision::Never => {}
        }
    }
    if model.is_loading {
        plan.is_settled = false;
        return;
    }

    let Some(target) = model.target(now, plan) else {
        if model.is_overridden && model.served == Served::Yes && server_is_live {
            plan.begin(Step::Evict(name.to_owned()));
        }
        return;
    };
    let is_serving = model.active.as_ref() == Some(target)
        && model.linked.as_ref() == Some(target)
        && model.served == Served::Yes
        && !model.is_overridden;
    if is_serving && server_is_live {
        return;
    }
    plan.is_settled = false;
    if !server_is_live {
        // a server that starts must find something good
        let is_good = !model.suspects.contains(target);
        if is_good
            && model.linked.as_ref() != Some(target)
            && (model.active.is_none()
                || model.active.as_ref() == Some(target)
                || model.is_withheld
                || model.active_ends_servers)
        {
            plan.begin(Step::Link(name.to_owned(), target.clone()));
        }
    } else if model.served != Served::Changing {
        plan.begin(Step::Load(name.to_owned(), target.clone()));
    }
}

impl Wanted {
    /// The content that should serve now: what the manifest wants, or else what was confirmed before. While nothing
    /// serves, as after a restart of the server, what was confirmed comes first: it is known to work.
    fn target(&self, now: Instant, plan: &mut Plan) -> Option<&ContentHash> {
        let (wanted, proven) = (self.staged.as_ref(), self.active.as_ref().filter(|_| !self.is_withheld));
        let is_proven_first = self.served == Served::No && !self.active_ends_servers;
        let order = if is_proven_first { [proven, wanted] } else { [wanted, proven] };
        for content in order.into_iter().flatten() {
            match self.retry_policy.retry(self.loads.get(content), now) {
                RetryDecision::Now => return Some(content),
                RetryDecision::At(due) => plan.wake_at(due),
                RetryDecision::Never => {}
            }
        }
        None
    }
}

fn plan_unloads(observed: &Inputs, plan: &mut Plan) {
    if observed.unwanted.is_empty() {
        return;
    }
    plan.is_settled = false;
    if observed.server_is_live {
        let waiting = observed.unwanted.iter().filter(|(_, is_unloading)| !**is_unloading);
        plan.steps.extend(waiting.map(|(name, _)| Step::Unload(name.clone())));
    }
}

fn plan_deletions(observed: &Inputs, now: Instant, plan: &mut Plan) {
    // a fetch may be about to bring the very content that is being deleted
    if observed.wanted.values().any(|model| model.is_fetching) || plan.steps.iter().any(|s| matches!(s, Step::Fetch(_)))
    {
        return;
    }
    for (content, since) in &observed.unreferenced {
        match *since + observed.grace {
            due if due <= now => plan.steps.push(Step::Delete(content.clone())),
            due => plan.wake = Some(plan.wake.map_or(due, |wake| wake.min(due))),
        }
    }
}

impl Plan {
    fn begin(&mut self, step: Step) {
        self.is_settled = false;
        self.steps.push(step);
    }

    fn wake_at(&mut self, due: Instant) {
        self.is_settled = false;
        self.wake = Some(self.wake.map_or(due, |wake| wake.min(due)));
    }
}

/// Models a server that starts should load at once: those it is not ready without.
///
/// `required` are the manifest's. Of a server that starts for the first time (`last` is `None`) all of them are asked for;
/// of one that starts again those it was asked for before, and those confirmed since: a model that was added later and
/// never worked must not keep a restarted server from being ready.
pub fn startup_models(
    required: &BTreeSet<String>,
    confirmed: &BTreeSet<String>,
    last: Option<&BTreeSet<String>>,
) -> BTreeSet<String> {
    required
        .iter()
        .filter(|name| last.is_none_or(|last| last.contains(*name)) || confirmed.contains(*name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
