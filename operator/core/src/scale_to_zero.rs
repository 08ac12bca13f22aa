//! When a server goes to rest and when it is woken: between zero and one replica. How many there are above that is an autoscaler's
//! business. Pure: times are handed in as durations, so that nothing here depends on whose clock they come from.
//!
//! | replicas | state | requests go to | replicas become |
//! |---|---|---|---|
//! | 0 | nobody asks | activator | 0 |
//! | 0 | somebody asks, or no activator is there for [`UNATTENDED`] | activator | 1 |
//! | 1.. | no pod has been ready for [`SETTLED`] | activator and, if ready, pods | as they are |
//! | 1.. | in use, or idle for less than `after` | pods | as they are |
//! | 1.. | idle for `after`, activators listen | activator and pods | 0, once the activator has been led to for [`SETTLED`] |

use std::{net::IpAddr, time::Duration};

use crds::{TritonServerSpec, parts::autoscaling::AutoscalingEngine};

/// How long no request may have come, where the spec does not say.
pub const AFTER: Duration = Duration::from_secs(300);
/// Until every node has learned where a Service leads.
pub const SETTLED: Duration = Duration::from_secs(4);
/// How long a server may rest while no activator listens for it.
pub const UNATTENDED: Duration = Duration::from_secs(60);

/// The way from the Service of a server to the activators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Port of each activator that is for this server.
    pub port: u16,
    /// Whether activators have addresses of version 6.
    pub is_ipv6: bool,
    /// Those that requests are to go to, sorted.
    pub addresses: Vec<IpAddr>,
}

/// The shortest time until it is looked again.
const MOMENT: Duration = Duration::from_secs(1);

/// Whether a server may rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Its spec does not ask for it.
    NotAsked,
    /// It cannot be: why, and what would help.
    Impossible(String),
    /// It may, after so long without a request.
    Possible {
        /// How long no request may have come.
        after: Duration,
        /// Whether the operator takes it between zero and one, and not KEDA.
        is_ours: bool,
    },
}

/// Whether a server of that spec may rest, where there are activators or none.
pub fn rest(spec: &TritonServerSpec, has_activators: bool) -> Rest {
    let Some(autoscaling) = spec.autoscaling.as_ref().filter(|it| it.min_replicas == Some(0)) else {
        return Rest::NotAsked;
    };
    if spec.suspend == Some(true) {
        return Rest::NotAsked;
    }
    let is_ours = autoscaling.engine.unwrap_or_default() != AutoscalingEngine::Keda;
    let impossible = |why: &str| match is_ours {
        true => Rest::Impossible(format!("spec.autoscaling.minReplicas is 0 and one replica stays: {why}")),
        false => Rest::NotAsked, // KEDA does it by what it is told of by others
    };
    if !has_activators {
        return impossible(
            "no activator is there to hold the first request (set activator.enabled among the values of the operator's chart, or set \
             spec.autoscaling.engine to KEDA)",
        );
    }
    let policy = spec.network_policy.as_ref().filter(|policy| policy.enabled == Some(true));
    if policy.is_some_and(|policy| !policy.clients.is_empty()) {
        return impossible(
            "spec.networkPolicy.clients names who may reach its pods, and an activator takes requests from everybody (remove \
             the clients, or set minReplicas to 1)",
        );
    }
    let after = autoscaling.scale_to_zero.as_ref().and_then(|it| it.after).map_or(AFTER, Into::into);
    Rest::Possible { after, is_ours }
}

/// What is known of a server that may rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How long no request may have come.
    pub after: Duration,
    /// Whether this operator takes it between zero and one, and no other scaler does.
    pub is_ours: bool,
    /// Replicas its Deployment has; `None` where there is no Deployment yet.
    pub replicas: Option<i32>,
    /// How long no request has come to its pods; `None` while some are under way or it is not known.
    pub idle_for: Option<Duration>,
    /// How long some pod has been ready; `None` if none is.
    pub ready_for: Option<Duration>,
    /// Whether an activator has requests for it.
    pub is_wanted: bool,
    /// How long no activator has listened for it; `None` if one does.
    pub unattended_for: Option<Duration>,
    /// How long its Service has led to activators; `None` if it does not.
    pub led_for: Option<Duration>,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Its Service leads to the activators.
    pub is_led: bool,
    /// Replicas to set; `None`: leave them.
    pub replicas: Option<i32>,
    /// When to look again, if no event comes.
    pub look_again: Option<Duration>,
}

/// What to do about a server that may rest.
pub fn decide(facts: &Facts) -> Decision {
    let Some(replicas) = facts.replicas else { return Decision::default() };
    if replicas == 0 {
        let must_wake = facts.is_wanted || facts.unattended_for.is_some_and(|time| time >= UNATTENDED);
        return Decision {
            is_led: true,
            replicas: (facts.is_ours && must_wake).then_some(1),
            look_again: facts.unattended_for.map(|time| UNATTENDED.saturating_sub(time).max(MOMENT)),
        };
    }
    let Some(ready_for) = facts.ready_for else {
        return Decision { is_led: true, replicas: None, look_again: None }; // pods send events
    };
    if ready_for < SETTLED {
        return Decision { is_led: true, replicas: None, look_again: Some(SETTLED - ready_for) };
    }
    let is_attended = facts.unattended_for.is_none();
    if !facts.is_ours || !is_attended || facts.is_wanted {
        return Decision { is_led: false, replicas: None, look_again: None }; // its end is told
    }
    // a pod that was just started has not had its time
    let idle_for = facts.idle_for.unwrap_or_default().min(ready_for);
    match facts.after.checked_sub(idle_for).filter(|left| !left.is_zero()) {
        Some(left) => Decision { is_led: false, replicas: None, look_again: Some(left.max(MOMENT)) },
        None => match facts.led_for {
            Some(time) if time >= SETTLED => Decision { is_led: true, replicas: Some(0), look_again: None },
            led_for => {
                let left = SETTLED - led_for.unwrap_or_default();
                Decision { is_led: true, replicas: None, look_again: Some(left) }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: u64 = 300;

    fn seconds(time: u64) -> Option<Duration> {
        Some(Duration::from_secs(time))
    }

    /// One replica that has been ready for an hour, in use.
    fn busy() -> Facts {
        Facts {
            after: AFTER,
            is_ours: true,
            replicas: Some(1),
            idle_for: None,
            ready_for: seconds(3600),
            is_wanted: false,
            unattended_for: None,
            led_for: None,
        }
    }

    #[track_caller]
    fn check(facts: &Facts, is_led: bool, replicas: Option<i32>) {
        let decision = decide(facts);
        assert_eq!((decision.is_led, decision.replicas), (is_led, replicas), "{facts:?}");
    }

    #[test]
    fn only_a_server_that_can_be_woken_rests() {
        let rest =
            |spec: serde_json::Value, has_activators| rest(&serde_json::from_value(spec).unwrap(), has_activators);
        let zero = |engine: &str| serde_json::json!({ "autoscaling": { "minReplicas": 0, "maxReplicas": 4, "engine": engine } });
        let possible = |is_ours| Rest::Possible { after: AFTER, is_ours };
        assert_eq!(rest(zero("Operator"), true), possible(true));
        assert_eq!(rest(zero("PrometheusAdapter"), true), possible(true));
        assert_eq!(rest(zero("KEDA"), true), possible(false));
        assert_eq!(rest(zero("KEDA"), false), Rest::NotAsked);
        assert_eq!(rest(serde_json::json!({ "autoscaling": { "maxReplicas": 4 } }), true), Rest::NotAsked);
        let why = |rest: Rest| match rest {
            Rest::Impossible(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(why(rest(zero("Operator"), false)).contains("activator.enabled"));
        let mut closed = zero("Operator");
        closed["networkPolicy"] = serde_json::json!({ "enabled": true });
        assert_eq!(rest(closed.clone(), true), possible(true));
        closed["networkPolicy"]["clients"] = serde_json::json!([{ "podSelector": {} }]);
        assert!(why(rest(closed, true)).contains("spec.networkPolicy.clients"));
        let mut suspended = zero("Operator");
        suspended["suspend"] = true.into();
        assert_eq!(rest(suspended, true), Rest::NotAsked);
        let mut soon = zero("Operator");
        soon["autoscaling"]["scaleToZero"] = serde_json::json!({ "after": "90s" });
        assert_eq!(rest(soon, true), Rest::Possible { after: Duration::from_secs(90), is_ours: true });
    }

    #[test]
    fn a_server_goes_to_rest_once_it_is_idle_and_its_service_leads_to_an_activator() {
        let idle = |time| Facts { idle_for: seconds(time), ..busy() };
        check(&busy(), false, None);
        check(&idle(IDLE - 1), false, None);
        check(&idle(IDLE), true, None);
        check(&Facts { led_for: seconds(3), ..idle(IDLE) }, true, None);
        check(&Facts { led_for: seconds(4), ..idle(IDLE) }, true, Some(0));
        // whoever comes at that very moment keeps it awake, by whichever way
        check(&Facts { led_for: seconds(4), is_wanted: true, ..idle(IDLE) }, false, None);
        check(&Facts { led_for: seconds(4), idle_for: seconds(0), ..idle(IDLE) }, false, None);
        // one that has just started has its whole time
        check(&Facts { ready_for: seconds(IDLE - 1), ..idle(IDLE) }, false, None);
        // several replicas that nobody needs
        check(&Facts { replicas: Some(3), led_for: seconds(4), ..idle(IDLE) }, true, Some(0));
    }

    #[test]
    fn a_server_at_rest_is_woken_by_a_request_and_nothing_else() {
        let resting = Facts { replicas: Some(0), ready_for: None, led_for: seconds(60), ..busy() };
        check(&resting, true, None);
        check(&Facts { idle_for: seconds(9), ..resting.clone() }, true, None);
        check(&Facts { is_wanted: true, ..resting.clone() }, true, Some(1));
        // the pods that are going may be ready still
        check(&Facts { ready_for: seconds(900), ..resting }, true, None);
    }

    #[test]
    fn a_server_that_starts_is_led_to_until_every_node_knows_its_pods() {
        let starting = Facts { ready_for: None, is_wanted: true, led_for: seconds(60), ..busy() };
        check(&starting, true, None);
        check(&Facts { ready_for: seconds(3), ..starting.clone() }, true, None);
        check(&Facts { ready_for: seconds(4), ..starting.clone() }, false, None);
        // nobody waits any more: it starts all the same, and rests after its time
        check(&Facts { is_wanted: false, idle_for: seconds(IDLE), ..starting }, true, None);
        assert_eq!(decide(&Facts { replicas: None, ..busy() }), Decision::default(), "there is no Deployment yet");
    }

    #[test]
    fn without_an_activator_nothing_rests_for_long() {
        let idle = Facts { idle_for: seconds(IDLE), led_for: seconds(9), unattended_for: seconds(1), ..busy() };
        check(&idle, false, None);
        let resting = |time| Facts { replicas: Some(0), ready_for: None, unattended_for: seconds(time), ..busy() };
        check(&resting(59), true, None);
        check(&resting(60), true, Some(1));
        assert!(decide(&resting(10)).look_again.is_some(), "no event comes of time");
    }

    #[test]
    fn another_scaler_is_left_alone_and_helped() {
        let theirs = Facts { is_ours: false, ..busy() };
        check(&Facts { idle_for: seconds(IDLE), led_for: seconds(9), ..theirs.clone() }, false, None);
        check(&Facts { replicas: Some(0), is_wanted: true, ..theirs.clone() }, true, None);
        check(&Facts { ready_for: None, ..theirs }, true, None);
    }

    #[test]
    fn what_changes_with_time_alone_is_looked_at_again_when_it_may_have_changed() {
        let next = |facts: Facts| decide(&facts).look_again.map(|time| time.as_secs());
        assert_eq!(next(busy()), Some(IDLE), "not before, however often it is asked");
        assert_eq!(next(Facts { idle_for: seconds(IDLE - 20), ..busy() }), Some(20));
        assert_eq!(next(Facts { idle_for: Some(AFTER - Duration::from_millis(1)), ..busy() }), Some(1));
        assert_eq!(next(Facts { idle_for: seconds(IDLE), ..busy() }), Some(4));
        assert_eq!(next(Facts { idle_for: seconds(IDLE), led_for: seconds(3), ..busy() }), Some(1));
        assert_eq!(next(Facts { ready_for: seconds(1), ..busy() }), Some(3));
        assert_eq!(next(Facts { is_wanted: true, ..busy() }), None, "an activator says when it is not wanted any more");
    }
}
