//! What is said of replicas that have not been ready for a while, though nothing has crashed or was refused. What they wait for is in
//! [`Waiting`]; here it is joined with what agent and server say. The same at any moment while nothing happens.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::SignedDuration};

use crate::{
    pod,
    replica::{NOTICED, Phase, Replica, Waiting},
};

/// Reason of a server of which a replica's probe fails, and nothing is on its way that could change that.
const REPLICA_NOT_READY: &str = "ReplicaNotReady";
/// Reason of a server of which a replica lacks a ResourceClaim.
const NO_RESOURCE_CLAIM: &str = "NoResourceClaim";
/// How long a claim may take to be made.
const CLAIM_MADE: SignedDuration = SignedDuration::from_secs(10);
/// Most replicas that are named.
const REPLICAS_MAX: usize = 3;
/// Most models that are named of one.
const MODELS_MAX: usize = 3;

/// What is said of replicas that are not ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unready {
    /// A sentence for each of the first few.
    pub(super) sentences: Vec<String>,
    /// The reason to give in place of that of a usual start.
    pub(super) reason: Option<&'static str>,
}

impl Unready {
    /// Of the replicas of a server. `is_overdue`: its rollout has taken longer than it may, so that nothing is too early to be said.
    pub(super) fn of(replicas: &[Replica], namespace: &str, is_overdue: bool, now: &Time) -> Self {
        let patience = if is_overdue { SignedDuration::ZERO } else { NOTICED };
        let said = replicas.iter().filter(|replica| replica.trouble.is_none()).filter_map(|replica| {
            let (clause, fault) = said(replica, patience, now)?;
            let name = &replica.name;
            Some((format!("{name} is {clause}; kubectl describe pod {name} -n {namespace} says more"), fault))
        });
        let (sentences, faults): (Vec<_>, Vec<_>) = said.unzip();
        let reason = faults.into_iter().flatten().next();
        Self { sentences: sentences.into_iter().take(REPLICAS_MAX).collect(), reason }
    }
}

/// Of one replica.
pub(super) fn of_replica(replica: &Replica, now: &Time) -> Option<String> {
    said(replica, NOTICED, now).map(|(clause, _)| clause)
}

/// What is said of a replica, and the reason to give where waiting alone is not expected to help.
fn said(replica: &Replica, patience: SignedDuration, now: &Time) -> Option<(String, Option<&'static str>)> {
    let is_noticed = |waiting: &&Waiting| {
        let patience = if waiting.lacks_claim { patience.min(CLAIM_MADE) } else { patience };
        now.0.duration_since(waiting.since.0) >= patience
    };
    let waiting = replica.waiting.as_ref().filter(is_noticed)?;
    let probed = waiting.probed.as_ref();
    let is_agent = probed.is_some_and(|probed| probed.container == pod::AGENT_CONTAINER);
    // both are said elsewhere, with their reasons
    let is_explained = replica.is_out() || (is_agent && has_failed(replica));
    if replica.is_leaving || is_explained {
        return None;
    }
    let server_is_ready = replica.report.as_ref().and_then(|report| report.server_is_ready);
    let is_server = probed.is_some_and(|probed| probed.container == pod::SERVER_CONTAINER);
    let though = match server_is_ready.filter(|_| is_server) {
        Some(true) => ", though the server itself says that it is ready",
        Some(false) => ", and the server itself does not say that it is ready",
        None => "",
    };
    let (since, what) = (waiting.since.0, &waiting.what);
    let on_their_way = on_their_way(replica);
    let is_fault = on_their_way.is_empty()
        && probed.is_some_and(|probed| probed.has_started || (is_server && server_is_ready == Some(true)));
    let fault = match waiting.lacks_claim {
        true => Some(NO_RESOURCE_CLAIM),
        false => is_fault.then_some(REPLICA_NOT_READY),
    };
    Some((format!("not ready since {since}: {what}{though}{}", named(&on_their_way)), fault))
}

fn has_failed(replica: &Replica) -> bool {
    let mut models = replica.report.iter().flat_map(|report| report.models.values());
    models.any(|model| matches!(model.phase, Phase::Failed { .. }))
}

/// The models that its agent fetches or has loaded; without an agent nobody knows.
fn on_their_way(replica: &Replica) -> Vec<&str> {
    let report = replica.report.iter().filter(|report| report.crashes.is_some());
    let models = report.flat_map(|report| &report.models);
    let is_on_its_way = |phase: &Phase| matches!(phase, Phase::Pending | Phase::Downloading | Phase::Loading);
    models.filter(|(_, model)| is_on_its_way(&model.phase)).map(|(name, _)| name.as_str()).collect()
}

fn named(models: &[&str]) -> String {
    let names: Vec<_> = models.iter().take(MODELS_MAX).map(|name| format!("'{name}'")).collect();
    let more = match models.len().saturating_sub(MODELS_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    if models.is_empty() { String::new() } else { format!("; models on their way: {}{more}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::replica::{ModelReport, Probed, Report};

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::new(second, 0).unwrap())
    }

    /// Not ready since second 100.
    fn replica(container: &str, has_started: bool, server_is_ready: Option<bool>, phases: &[Phase]) -> Replica {
        let models = phases.iter().enumerate();
        let models = models
            .map(|(at, phase)| (format!("m{at}"), ModelReport { phase: phase.clone(), ..ModelReport::default() }));
        let report = Report {
            crashes: server_is_ready.map(|_| 0),
            server_is_ready,
            models: BTreeMap::from_iter(models),
            ..Report::default()
        };
        let probed = Some(Probed { container: container.into(), has_started });
        Replica {
            name: "vision-x".into(),
            waiting: Some(Waiting { what: "a probe fails".into(), since: at(100), probed, lacks_claim: false }),
            report: Some(report),
            ..Replica::default()
        }
    }

    #[track_caller]
    fn check(replica: &Replica, expect: Option<&str>, is_fault: bool) {
        let said = said(replica, NOTICED, &at(160)).map(|(clause, fault)| (clause, fault.is_some()));
        assert_eq!(said.as_ref().map(|(text, _)| text.as_str()), expect);
        assert_eq!(said.is_some_and(|(_, is_fault)| is_fault), is_fault);
    }

    const LOADING: Phase = Phase::Loading;

    #[test]
    fn a_probe_that_fails_is_told_from_a_server_that_is_not_ready() {
        let since = "not ready since 1970-01-01T00:01:40Z: a probe fails";
        let though = format!("{since}, though the server itself says that it is ready");
        let and = format!("{since}, and the server itself does not say that it is ready");
        check(&replica("server", false, Some(true), &[Phase::Ready]), Some(&though), true);
        check(&replica("server", false, Some(false), &[]), Some(&and), false);
        check(&replica("server", true, Some(false), &[]), Some(&and), true);
        check(&replica("server", true, None, &[LOADING]), Some(since), true);
        check(&replica("server", false, None, &[]), Some(since), false);
        check(&replica("proxy", false, Some(true), &[]), Some(since), false);
    }

    #[test]
    fn what_is_on_its_way_is_named_and_no_fault() {
        let words = "not ready since 1970-01-01T00:01:40Z: a probe fails, and the server itself does not say that it is ready; \
                     models on their way: ";
        check(&replica("server", false, Some(false), &[LOADING]), Some(&format!("{words}'m0'")), false);
        let five = [Phase::Pending, Phase::Downloading, LOADING, LOADING, LOADING];
        check(
            &replica("server", true, Some(false), &five),
            Some(&format!("{words}'m0', 'm1', 'm2' and 2 more")),
            false,
        );
    }

    #[test]
    fn nothing_is_said_of_what_has_just_begun_or_is_explained_elsewhere() {
        let unready = replica("server", true, Some(true), &[]);
        assert_eq!(said(&unready, NOTICED, &at(159)), None);
        assert!(said(&unready, SignedDuration::ZERO, &at(100)).is_some());
        check(&Replica { is_leaving: true, ..unready.clone() }, None, false);
        check(&Replica { waiting: None, ..unready.clone() }, None, false);
        check(&Replica { may_adopt: ["drain/18/0123456789abcdef".to_owned()].into(), ..unready }, None, false);
        let failed = Phase::Failed { reason: "LoadFailed".into(), message: "no".into(), will_retry: true };
        check(&replica("agent", false, Some(false), &[failed]), None, false);
    }

    #[test]
    fn a_claim_that_is_not_made_is_told_soon_and_with_a_reason_of_its_own() {
        let waiting = Waiting { what: "no claim".into(), since: at(100), probed: None, lacks_claim: true };
        let lacking = Replica { name: "vision-x".into(), waiting: Some(waiting), ..Replica::default() };
        let of = |second| Unready::of(std::slice::from_ref(&lacking), "ml", false, &at(second));
        assert_eq!(of(109), Unready::default());
        let words =
            "vision-x is not ready since 1970-01-01T00:01:40Z: no claim; kubectl describe pod vision-x -n ml says more";
        assert_eq!((of(110).sentences, of(110).reason), (vec![words.to_owned()], Some("NoResourceClaim")));
    }

    #[test]
    fn the_first_few_replicas_are_named_with_where_to_look() {
        let one = replica("server", true, Some(true), &[]);
        let starting = replica("server", false, Some(false), &[LOADING]);
        let of = |replicas: &[Replica]| Unready::of(replicas, "ml", false, &at(160));
        let unready = of(std::slice::from_ref(&one));
        let words = "vision-x is not ready since 1970-01-01T00:01:40Z: a probe fails, though the server itself says that it is \
                     ready; kubectl describe pod vision-x -n ml says more";
        assert_eq!((unready.sentences, unready.reason), (vec![words.to_owned()], Some("ReplicaNotReady")));
        assert_eq!(of(std::slice::from_ref(&starting)).reason, None);
        let five = of(&[starting.clone(), starting.clone(), starting.clone(), starting, one]);
        assert_eq!((five.sentences.len(), five.reason), (3, Some("ReplicaNotReady")));
    }
}
