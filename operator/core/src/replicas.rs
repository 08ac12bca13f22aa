//! Which number of replicas is written into the Deployment, if any. Whoever scales writes it otherwise, and leaving the field to him
//! must not change it: the number that is there stays whenever the field changes hands.
//!
//! | the server | the Deployment has | written |
//! |---|---|---|
//! | is suspended | any | 0; what it had before is noted ([`BEFORE`]) |
//! | sets `replicas` | any | that |
//! | sets nothing | one or more, or 0 that somebody chose | nothing |
//! | was suspended and sets nothing | 0 | what it had before |
//! | is autoscaled | no Deployment yet | its minimum, at least 1 |
//! | is autoscaled and does not rest, or was suspended | 0, with which an autoscaler leaves it alone for good | what it had before, within its bounds |
//! | is autoscaled | anything else | nothing: the autoscaler does |

use k8s_openapi::api::apps::v1::Deployment;

use crate::{autoscaling::Autoscale, defaults::MIN_REPLICAS};

/// Annotation of a Deployment whose server is suspended: the replicas it had before.
pub const BEFORE: &str = "triton-operator.dev/replicas-before";

/// What is known of a server and of the replicas its Deployment has.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its spec has `suspend`.
    pub is_suspended: bool,
    /// Its spec has `replicas`.
    pub set: Option<i32>,
    /// How it is scaled.
    pub autoscale: Option<&'a Autoscale>,
    /// Replicas the Deployment is to have; none if there is no Deployment yet.
    pub present: Option<i32>,
    /// What [`BEFORE`] says.
    pub before: Option<i32>,
    /// It goes to rest, and somebody is there to wake it.
    pub rests: bool,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The number; none: the field is not ours.
    pub replicas: Option<i32>,
    /// What [`BEFORE`] is to say.
    pub before: Option<i32>,
}

/// What [`BEFORE`] says on a Deployment.
pub fn noted(deployment: &Deployment) -> Option<i32> {
    deployment.metadata.annotations.as_ref()?.get(BEFORE)?.parse().ok().filter(|before| *before > 0)
}

/// Decides which number is written.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let write = |replicas| Decision { replicas, before: None };
    if facts.is_suspended {
        let present = facts.present.filter(|present| *present > 0);
        return Decision { replicas: Some(0), before: present.or(facts.before) };
    }
    if let Some(set) = facts.set {
        return write(Some(set));
    }
    match (facts.autoscale, facts.present) {
        (None, Some(0)) => write(facts.before),
        (None, _) => write(None),
        (Some(autoscale), None) => write(Some(autoscale.least())),
        (Some(autoscale), Some(0)) if !facts.rests || facts.before.is_some() => {
            let before = facts.before.unwrap_or(MIN_REPLICAS);
            write(Some(before.clamp(autoscale.least(), autoscale.max_replicas.max(autoscale.least()))))
        }
        (Some(_), Some(_)) => write(None),
    }
}

#[cfg(test)]
mod tests {
    use crds::TritonServerSpec;
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(spec: Value, present: Option<i32>, before: Option<i32>, rests: bool, expect: (Option<i32>, Option<i32>)) {
        let spec: TritonServerSpec = serde_json::from_value(spec).unwrap();
        let autoscale = Autoscale::of(&spec);
        let decision = decide(&Facts {
            is_suspended: spec.suspend == Some(true),
            set: spec.replicas,
            autoscale: autoscale.as_ref(),
            present,
            before,
            rests,
        });
        assert_eq!((decision.replicas, decision.before), expect);
    }

    #[test]
    fn a_number_that_is_set_is_written_whatever_there_is() {
        for present in [None, Some(0), Some(7)] {
            check(json!({ "replicas": 3 }), present, None, false, (Some(3), None));
        }
        check(json!({ "replicas": 0 }), Some(7), None, false, (Some(0), None));
    }

    #[test]
    fn a_number_that_nobody_sets_is_left_as_it_is() {
        for present in [None, Some(0), Some(7)] {
            check(json!({}), present, None, false, (None, None));
        }
    }

    #[test]
    fn an_autoscaler_is_not_written_over() {
        let scaled = json!({ "autoscaling": { "minReplicas": 2, "maxReplicas": 4 } });
        check(scaled.clone(), None, None, false, (Some(2), None));
        for present in [1, 2, 4, 9] {
            check(scaled.clone(), Some(present), None, false, (None, None));
        }
    }

    #[test]
    fn a_server_at_zero_that_does_not_rest_is_started_again() {
        let scaled = |min: i32| json!({ "autoscaling": { "minReplicas": min, "maxReplicas": 4 } });
        check(scaled(2), Some(0), None, false, (Some(2), None));
        check(scaled(0), Some(0), None, false, (Some(1), None));
        check(scaled(0), Some(0), None, true, (None, None));
    }

    #[test]
    fn a_suspended_server_comes_back_with_what_it_had() {
        let scaled = |suspend| json!({ "suspend": suspend, "autoscaling": { "minReplicas": 1, "maxReplicas": 4 } });
        check(scaled(true), Some(3), None, false, (Some(0), Some(3)));
        check(scaled(true), Some(0), Some(3), false, (Some(0), Some(3)));
        check(scaled(true), None, None, false, (Some(0), None));
        check(scaled(false), Some(0), Some(3), false, (Some(3), None));
        check(scaled(false), Some(0), Some(9), false, (Some(4), None));
        check(json!({ "suspend": true }), Some(5), None, false, (Some(0), Some(5)));
        check(json!({}), Some(0), Some(5), false, (Some(5), None));
        check(json!({ "suspend": true, "replicas": 3 }), Some(5), Some(2), false, (Some(0), Some(5)));
    }

    /// Whatever happens to a server, each step from what the one before left: its Deployment never passes through one replica unless
    /// one was asked for, and while an autoscaler owns the number nothing is written.
    #[test]
    fn no_way_between_states_passes_through_one() {
        let states = [
            json!({ "replicas": 3 }),
            json!({}),
            json!({ "autoscaling": { "minReplicas": 2, "maxReplicas": 5 } }),
            json!({ "suspend": true, "autoscaling": { "minReplicas": 2, "maxReplicas": 5 } }),
            json!({ "suspend": true, "replicas": 3 }),
        ];
        let mut present_before = vec![(Some(3), None)];
        for _ in 0..4 {
            let mut next = vec![];
            for (present, before) in &present_before {
                for state in &states {
                    let spec: TritonServerSpec = serde_json::from_value(state.clone()).unwrap();
                    let autoscale = Autoscale::of(&spec);
                    let decision = decide(&Facts {
                        is_suspended: spec.suspend == Some(true),
                        set: spec.replicas,
                        autoscale: autoscale.as_ref(),
                        present: *present,
                        before: *before,
                        rests: false,
                    });
                    let now = decision.replicas.or(*present);
                    assert_ne!(now, Some(1), "{state} from {present:?}");
                    assert_eq!(now == Some(0), spec.suspend == Some(true), "{state} from {present:?}");
                    next.push((now, decision.before));
                }
            }
            next.sort_unstable();
            next.dedup();
            present_before = next;
        }
    }
}
