//! Which models a server in a pod starts with, and which its first start waits for. Pure. The server is not ready without the models
//! that it starts with, so what has never served anywhere must not be among them where there is anything else to serve.

use std::{collections::BTreeSet, time::Duration};

use operator_core::manifest::RolloutPhase;

use crate::adopt::Entry;

/// How long the first start waits for contents that have not served anywhere yet.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A model without which the manifest does not want a replica to be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Required {
    /// Its name.
    pub name: String,
    /// What is known of the content that this pod is to serve.
    pub standing: Standing,
    /// It lies in the repository.
    pub is_here: bool,
    /// An attempt to bring it into service has failed.
    pub has_failed: bool,
    /// It is not loaded any more: it ends servers.
    pub is_given_up: bool,
    /// Some content of it has served in this pod.
    pub was_confirmed: bool,
}

/// What is known of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has served on some pod.
    Proven,
    /// One pod tries it, this one or another.
    OnTrial,
    /// It has failed somewhere, and nothing was proven before it.
    Halted,
}

/// What the first start of a server comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstStart {
    /// It waits for these.
    WaitFor(Vec<String>),
    /// It may start, with these.
    With(BTreeSet<String>),
}

impl Standing {
    /// That of a model in such a phase, of which this pod follows `entry`, if it follows any.
    pub fn of(phase: Option<RolloutPhase>, entry: Option<&Entry>) -> Self {
        match (phase, entry) {
            (_, Some(entry)) if entry.is_proven => Self::Proven,
            (Some(RolloutPhase::Trial), _) => Self::OnTrial,
            (None | Some(RolloutPhase::Spreading), _) => Self::Proven,
            (Some(RolloutPhase::Stopped | RolloutPhase::Quarantined), _) => Self::Halted,
        }
    }
}

/// Of a pod whose server has not started yet. `waited`: for how long that has been.
pub fn first_start(required: &[Required], waited: Duration) -> FirstStart {
    let is_waited_for = |model: &&Required| {
        !model.is_here
            && match model.standing {
                Standing::Proven => true,
                Standing::OnTrial => waited < PATIENCE && !model.has_failed,
                Standing::Halted => false,
            }
    };
    let missing: Vec<String> = required.iter().filter(is_waited_for).map(|model| model.name.clone()).collect();
    if !missing.is_empty() {
        return FirstStart::WaitFor(missing);
    }
    let has_proven = required.iter().any(|model| model.standing == Standing::Proven);
    let is_part = |model: &&Required| {
        model.is_here
            && match model.standing {
                Standing::Proven => true,
                Standing::OnTrial => !has_proven,
                Standing::Halted => false,
            }
    };
    FirstStart::With(names(required.iter().filter(is_part)))
}

/// Of a pod whose server starts anew: what it started with `last`, and what was confirmed since. A model that was added later and
/// never worked, or that ends servers, must not keep it from being ready.
pub fn next_start(required: &[Required], last: &BTreeSet<String>) -> BTreeSet<String> {
    let is_part = |model: &&Required| {
        let is_available = model.is_here || (model.standing == Standing::Proven && !model.is_given_up);
        is_available && (last.contains(&model.name) || model.was_confirmed)
    };
    names(required.iter().filter(is_part))
}

fn names<'a>(models: impl Iterator<Item = &'a Required>) -> BTreeSet<String> {
    models.map(|model| model.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, standing: Standing) -> Required {
        let name = name.to_owned();
        Required { name, standing, is_here: true, has_failed: false, is_given_up: false, was_confirmed: false }
    }

    fn absent(name: &str, standing: Standing) -> Required {
        Required { is_here: false, ..model(name, standing) }
    }

    fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    #[track_caller]
    fn waits(required: &[Required], seconds: u64, expect: &[&str]) {
        let expect = FirstStart::WaitFor(expect.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(first_start(required, Duration::from_secs(seconds)), expect);
    }

    #[track_caller]
    fn starts<const N: usize>(required: &[Required], seconds: u64, expect: [&str; N]) {
        assert_eq!(first_start(required, Duration::from_secs(seconds)), FirstStart::With(set(expect)));
    }

    use Standing::{Halted, OnTrial, Proven};

    #[test]
    fn a_server_waits_for_what_is_proven_however_long_that_takes() {
        let required = [model("a", Proven), absent("b", Proven)];
        waits(&required, 0, &["b"]);
        waits(&required, 3600, &["b"]);
        waits(&[Required { has_failed: true, ..absent("b", Proven) }], 3600, &["b"]);
        starts(&[model("a", Proven), model("b", Proven)], 0, ["a", "b"]);
    }

    #[test]
    fn what_has_never_served_is_waited_for_a_while_and_not_once_it_has_failed() {
        let required = [model("a", Proven), absent("new", OnTrial)];
        waits(&required, 19, &["new"]);
        starts(&required, 20, ["a"]);
        starts(&[model("a", Proven), Required { has_failed: true, ..absent("new", OnTrial) }], 0, ["a"]);
        starts(&[model("a", Proven), absent("new", Halted)], 0, ["a"]);
        starts(&[absent("new", Halted)], 0, []);
    }

    #[test]
    fn readiness_depends_on_unproven_contents_only_where_there_is_nothing_else() {
        starts(&[model("a", Proven), model("new", OnTrial)], 0, ["a"]);
        starts(&[model("first", OnTrial), model("second", OnTrial)], 0, ["first", "second"]);
        starts(&[model("first", OnTrial), model("second", Halted)], 0, ["first"]);
        starts(&[], 0, []);
    }

    #[test]
    fn a_restarted_server_is_not_held_to_models_that_came_later_and_never_worked() {
        let worked = |name| Required { was_confirmed: true, ..model(name, Proven) };
        let required = [model("a", Proven), worked("good"), model("bad", Proven)];
        assert_eq!(next_start(&required, &set(["a", "gone"])), set(["a", "good"]));
    }

    #[test]
    fn a_restarted_server_waits_for_what_was_loading_beside_the_one_that_ended_it() {
        let last = set(["a", "b"]);
        let beside = Required { is_here: false, ..model("b", Proven) };
        assert_eq!(next_start(&[model("a", Proven), beside.clone()], &last), last);
        let guilty = Required { is_given_up: true, ..beside };
        assert_eq!(next_start(&[model("a", Proven), guilty], &last), set(["a"]));
        assert_eq!(next_start(&[model("a", Proven), absent("b", OnTrial)], &last), set(["a"]));
    }

    #[test]
    fn a_pod_that_follows_what_was_proven_before_waits_for_that() {
        let entry = |is_proven| Entry {
            hash: String::new(),
            is_proven,
            is_in_trial: !is_proven,
            withheld: None,
            is_in_rollout: true,
        };
        let of = |phase, entry: Option<Entry>| Standing::of(phase, entry.as_ref());
        assert_eq!(of(None, Some(entry(true))), Proven);
        for phase in [RolloutPhase::Trial, RolloutPhase::Stopped, RolloutPhase::Quarantined] {
            assert_eq!(of(Some(phase), Some(entry(true))), Proven, "the former one");
        }
        assert_eq!(of(Some(RolloutPhase::Spreading), Some(entry(true))), Proven);
        assert_eq!(of(Some(RolloutPhase::Trial), Some(entry(false))), OnTrial);
        assert_eq!(of(Some(RolloutPhase::Trial), None), OnTrial, "another pod tries it");
        assert_eq!(of(Some(RolloutPhase::Stopped), Some(entry(false))), Halted);
        assert_eq!(of(Some(RolloutPhase::Quarantined), None), Halted);
    }
}
