//! What becomes an event: only what changed between two statuses, never a state that lasts.

use crds::{
    TritonModelStatus, TritonServerStatus,
    parts::{Condition, ConditionStatus, condition},
};

use crate::{replica::Replica, text::one_line};

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Somebody should look at it.
    pub is_warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

/// Reasons of a server that is on its way, nothing being wrong.
const SERVER_UNDER_WAY: [&str; 4] = ["ReloadingModels", "RollingPods", "ScalingDown", "StartingReplicas"];
/// Reasons of a model that is on its way, nothing being wrong.
const MODEL_UNDER_WAY: [&str; 5] = ["Downloading", "Loading", "Pending", "ServerNotFound", "ServerNotReady"];

/// What happened to a server between two statuses.
pub fn of_server(before: &TritonServerStatus, after: &TritonServerStatus) -> Vec<Event> {
    let (old, new) = (&before.conditions, &after.conditions);
    // one that goes to rest is not missed: Ready says so
    let rests = condition::find(new, "Available").is_some_and(|available| available.reason == "ScaledToZero");
    let mut events = turned(old, new, "Available", "Available", if rests { "" } else { "Unavailable" });
    events.extend(of_ready(old, new, &SERVER_UNDER_WAY, false));
    events.extend(of_autoscaling(old, new));
    events.extend(rescaled(before, after));
    events
}

/// What happened to a model between two statuses.
pub fn of_model(before: &TritonModelStatus, after: &TritonModelStatus) -> Vec<Event> {
    let (old, new) = (&before.conditions, &after.conditions);
    let mut events = Vec::from_iter(of_ready(old, new, &MODEL_UNDER_WAY, true));
    // Ready says it of the first version; that its server rests is nothing to warn of
    let rests = condition::find(new, "Ready").is_some_and(|ready| ready.reason == "ScaledToZero");
    events.extend(turned(old, new, "Servable", "", if rests { "" } else { "NotServable" }));
    events
}

/// What happened to the pods of a server since the last reconcile, beyond what the kubelet reports.
pub fn of_replicas(replicas: &[Replica]) -> Vec<Event> {
    let event = |replica: &Replica, reason: &str, what: &str| Event {
        is_warning: true,
        reason: reason.into(),
        note: one_line(&format!("{}: {what}", replica.name)).into_owned(),
    };
    let crashed = replicas.iter().filter(|replica| replica.crashes > 0);
    let crashes = crashed.map(|replica| {
        let told = replica.report.as_ref().and_then(|report| report.last_crash.as_deref());
        let how = told.map_or_else(String::new, |told| format!(" ({told})"));
        let what = format!("the server crashed{how} and was started again at once; its log says more");
        event(replica, "ServerCrashed", &what)
    });
    let foreign = replicas.iter().filter_map(|replica| {
        let what = format!("{}; it is undone", replica.foreign_load.as_ref()?);
        Some(event(replica, "ForeignLoad", &what))
    });
    crashes.chain(foreign).collect()
}

fn of_ready(old: &[Condition], new: &[Condition], under_way: &[&str], compares_notes: bool) -> Option<Event> {
    let before = condition::find(old, "Ready");
    let after = condition::find(new, "Ready")?;
    let event = |is_warning| Event { is_warning, reason: after.reason.clone(), note: after.message.clone() };
    let was_ready = before.is_some_and(is_true);
    if after.reason == "ScaledToZero" {
        return before.is_none_or(|before| before.reason != after.reason).then(|| event(false));
    }
    if is_true(after) {
        return (!was_ready).then(|| event(false));
    }
    if under_way.contains(&after.reason.as_str()) {
        return was_ready.then(|| event(false));
    }
    let is_new = before.is_none_or(|before| {
        before.status != after.status
            || before.reason != after.reason
            || (compares_notes && before.message != after.message)
    });
    is_new.then(|| event(true))
}

/// What keeps the load from deciding, once for each reason; and that it decides again.
fn of_autoscaling(old: &[Condition], new: &[Condition]) -> Option<Event> {
    let after = condition::find(new, "AutoscalingActive")?;
    let before = condition::find(old, "AutoscalingActive");
    let is_new = before.is_none_or(|before| before.status != after.status || before.reason != after.reason);
    let event = |is_warning, reason: &str| Event { is_warning, reason: reason.into(), note: after.message.clone() };
    match after.status {
        _ if !is_new || after.reason == "ScaledToZero" => None, // Ready says that
        ConditionStatus::True if before.is_some_and(is_true) && after.reason == "Active" => None,
        ConditionStatus::True if after.reason == "Active" => Some(event(false, "AutoscalingActive")),
        ConditionStatus::True => Some(event(false, &after.reason)),
        ConditionStatus::False => Some(event(true, &after.reason)),
        ConditionStatus::Unknown => None,
    }
}

/// The autoscaler has changed the number of replicas.
fn rescaled(before: &TritonServerStatus, after: &TritonServerStatus) -> Option<Event> {
    let (old, new) = (before.autoscaling.as_ref()?, after.autoscaling.as_ref()?);
    let (from, to) = (old.desired_replicas?, new.desired_replicas?);
    (old.last_scale_time != new.last_scale_time && from != to).then(|| Event {
        is_warning: false,
        reason: "Rescaled".into(),
        note: format!("from {from} to {to} replicas, as the load asked for"),
    })
}

/// A condition that became true or stopped being so. An empty reason gives no event.
fn turned(old: &[Condition], new: &[Condition], type_: &str, on: &str, off: &str) -> Vec<Event> {
    let Some(after) = condition::find(new, type_) else { return vec![] };
    let was_true = condition::find(old, type_).is_some_and(is_true);
    let (is_warning, reason) = match (was_true, is_true(after)) {
        (false, true) => (false, on),
        (true, false) => (true, off),
        _ => return vec![],
    };
    if reason.is_empty() {
        return vec![];
    }
    vec![Event { is_warning, reason: reason.into(), note: after.message.clone() }]
}

fn is_true(condition: &Condition) -> bool {
    condition.status == ConditionStatus::True
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::replica::Report;

    fn ready(status: &str, reason: &str, message: &str) -> TritonModelStatus {
        serde_json::from_value(json!({ "conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] }))
        .unwrap()
    }

    #[track_caller]
    fn check(before: &TritonModelStatus, after: &TritonModelStatus, expect: &[&str]) {
        let told: Vec<_> = of_model(before, after)
            .into_iter()
            .map(|event| format!("{} {}", if event.is_warning { "Warning" } else { "Normal" }, event.reason))
            .collect();
        assert_eq!(told, expect);
    }

    #[test]
    fn crashes_are_told_of_the_pod_that_had_them() {
        let replica = |name: &str, crashes| Replica { name: name.into(), crashes, ..Replica::default() };
        let told = of_replicas(&[replica("a", 0), replica("b", 2)]);
        assert_eq!(told.len(), 1);
        assert!(told[0].is_warning && told[0].note.starts_with("b: the server crashed and was"), "{told:?}");
        let last_crash = Some("SIGSEGV, executing instance 'm_0' of model 'm'".to_owned());
        let report = Some(Report { last_crash, ..Report::default() });
        let told = of_replicas(&[Replica { report, ..replica("c", 1) }]);
        let note = "c: the server crashed (SIGSEGV, executing instance 'm_0' of model 'm') and was started again at once; \
                    its log says more";
        assert_eq!(told[0].note, note);
    }

    #[test]
    fn what_somebody_else_has_loaded_is_told_of_the_pod_that_undid_it() {
        let what = Some("somebody else has loaded model 'x', which no TritonModel asks for".to_owned());
        let replicas = [
            Replica { name: "vision-a".into(), foreign_load: what, ..Replica::default() },
            Replica { name: "vision-b".into(), ..Replica::default() },
        ];
        let events = of_replicas(&replicas);
        let note = "vision-a: somebody else has loaded model 'x', which no TritonModel asks for; it is undone";
        let expected = Event { is_warning: true, reason: "ForeignLoad".into(), note: note.into() };
        assert_eq!(events, [expected]);
    }

    #[test]
    fn only_changes_are_told() {
        let nothing = TritonModelStatus::default();
        let loading = ready("False", "Loading", "0 of 2");
        let loaded = ready("True", "Loaded", "2 of 2");
        let failed = ready("False", "LoadFailed", "no such op");
        check(&nothing, &loading, &[]);
        check(&loading, &loaded, &["Normal Loaded"]);
        check(&loaded, &loaded, &[]);
        check(&loaded, &loading, &["Normal Loading"]);
        check(&loading, &failed, &["Warning LoadFailed"]);
        check(&failed, &failed, &[]);
        check(&failed, &ready("False", "LoadFailed", "another op"), &["Warning LoadFailed"]);
    }
}
