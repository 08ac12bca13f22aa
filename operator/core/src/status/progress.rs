//! Which changes of a status are nothing but progress: one more step of what is under way, upon which nobody acts. Those may be written a
//! little later, and with the next one; where thousands of models start at once, that is most of all writes. The first status is progress
//! too, while nothing has come of it: a resource without one says as much, by its `observedGeneration` of -1.

use crds::{
    TritonModelStatus, TritonServerStatus,
    parts::{Condition, ConditionStatus, condition},
};

use super::RECONCILE_FAILED;

/// Whether a model's status goes from `before` to `after` with nothing but progress.
pub fn is_progress_of_model(before: &TritonModelStatus, after: &TritonModelStatus) -> bool {
    let goes_on_serving = before.active_versions.iter().all(|version| after.active_versions.contains(version));
    before.failures == after.failures
        && before.last_failure == after.last_failure
        && goes_on_serving
        && is_progress((before.observed_generation, &before.conditions), (after.observed_generation, &after.conditions))
}

/// The same for a server. That its reconciles fail no more is waited for.
pub fn is_progress_of_server(before: &TritonServerStatus, after: &TritonServerStatus) -> bool {
    let had_failed = condition::find(&before.conditions, "Ready").is_some_and(|it| it.reason == RECONCILE_FAILED);
    !had_failed
        && is_progress((before.observed_generation, &before.conditions), (after.observed_generation, &after.conditions))
}

/// It was and is reconciling the same generation, or nothing was said before; and no condition that was true is true no more.
fn is_progress(before: (Option<i64>, &[Condition]), after: (Option<i64>, &[Condition])) -> bool {
    let is_true = |conditions: &[Condition], type_: &str| {
        condition::find(conditions, type_).is_some_and(|it| it.status == ConditionStatus::True)
    };
    let is_first = before.1.is_empty();
    let goes_on = before.0 == after.0 && is_true(before.1, "Reconciling");
    let keeps = |it: &Condition| it.status != ConditionStatus::True || is_true(after.1, &it.type_);
    (is_first || goes_on) && is_true(after.1, "Reconciling") && before.1.iter().all(keeps)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(ready: &str, reason: &str, reconciling: bool) -> TritonModelStatus {
        let condition = |type_: &str, status: &str| {
            json!({ "type": type_, "status": status, "reason": reason, "message": reason,
                    "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        let mut conditions = vec![condition("Ready", ready)];
        if reconciling {
            conditions.push(condition("Reconciling", "True"));
        }
        serde_json::from_value(json!({ "observedGeneration": 2, "conditions": conditions })).unwrap()
    }

    #[test]
    fn a_step_forward_is_progress_and_neither_an_end_nor_a_step_back_is() {
        let loading = status("False", "Loading", true);
        let serving = |versions: &[i64], servable: &str| {
            let mut status = status("False", "Loading", true);
            status.active_versions = versions.to_vec();
            let condition = json!({ "type": "Servable", "status": servable, "reason": "R", "message": "m",
                                    "lastTransitionTime": "2026-01-01T00:00:00Z" });
            status.conditions.push(serde_json::from_value(condition).unwrap());
            status
        };
        let none = TritonModelStatus { observed_generation: Some(-1), ..TritonModelStatus::default() };
        for (before, after) in [
            (status("False", "Pending", true), loading.clone()),
            (none.clone(), loading.clone()),
            (TritonModelStatus::default(), loading.clone()),
            (serving(&[], "False"), serving(&[1], "True")),
            (serving(&[1], "True"), serving(&[1, 2], "True")),
            (loading.clone(), TritonModelStatus { content_hash: Some("sha256:1".into()), ..loading.clone() }),
        ] {
            assert!(is_progress_of_model(&before, &after), "{before:?} {after:?}");
        }
        for (before, after) in [
            (none, status("False", "ServerNotFound", false)),
            (loading.clone(), status("True", "Loaded", false)),
            (status("True", "Loaded", false), loading.clone()),
            (status("False", "Pending", false), loading.clone()),
            (loading.clone(), TritonModelStatus { observed_generation: Some(3), ..loading.clone() }),
            (serving(&[1], "True"), serving(&[1], "False")),
            (serving(&[1], "True"), serving(&[2], "True")),
        ] {
            assert!(!is_progress_of_model(&before, &after), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_failure_is_told_at_once() {
        let (before, mut after) = (status("False", "Loading", true), status("False", "LoadFailed", true));
        after.failures = serde_json::from_value(
            json!([{ "pod": "a", "state": "LoadFailed", "reason": "LoadFailed", "message": "m" }]),
        )
        .unwrap();
        assert!(!is_progress_of_model(&before, &after));
    }
}
