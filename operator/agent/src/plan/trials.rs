//! Contents in rollout once one of them has ended a server: one at a time, each of which has to settle before the next, so that the next
//! end is that of a single one. Those that were there when a server ended come first, in the order in which they were tried first;
//! they wait until the server has loaded what is proven.

use super::{
    known::{Inputs, Wanted},
    step::{Plan, Step},
};

/// Takes loads out of the plan that would begin too early.
pub(super) fn hold_back(observed: &Inputs, plan: &mut Plan) {
    let mut candidates: Vec<(bool, u64, &str)> = Vec::new();
    for step in &plan.steps {
        if let Some((name, model)) = trial(observed, step) {
            let is_suspect = model.staged.as_ref().is_some_and(|content| model.suspects.contains(content));
            candidates.push((!is_suspect, model.number, name));
        }
    }
    let has_suspect = candidates.iter().any(|(is_fresh, ..)| !is_fresh);
    if !has_suspect && !observed.trials.open.values().any(|was_accused| *was_accused) {
        return;
    }
    candidates.sort_unstable();
    let may_begin = |(is_fresh, _, name): &&(bool, u64, &str)| {
        (*is_fresh || !observed.trials.is_starting) && !is_another_open(observed, name)
    };
    let next = candidates.iter().find(may_begin).map(|(.., name)| (*name).to_owned());
    plan.steps.retain(|step| trial(observed, step).is_none_or(|(name, _)| Some(name) == next.as_deref()));
}

/// The model whose content in rollout the step would load.
fn trial<'a>(observed: &'a Inputs, step: &Step) -> Option<(&'a str, &'a Wanted)> {
    let Step::Load(name, content) = step else { return None };
    let (name, model) = observed.wanted.get_key_value(name)?;
    (model.is_in_trial && model.staged.as_ref() == Some(content)).then_some((name.as_str(), model))
}

/// Whether a content in rollout is open other than that which a load of this model takes the place of.
fn is_another_open(observed: &Inputs, name: &str) -> bool {
    let replaced = observed.wanted.get(name).and_then(|model| model.linked.as_ref());
    let is_loading =
        observed.wanted.iter().any(|(other, model)| other != name && model.is_in_trial && model.is_loading);
    is_loading || observed.trials.open.keys().any(|content| Some(content) != replaced)
}
