//! Which changes of a status are nothing but progress: one more step of what is under way, upon which nobody acts. Those may be written a
//! little later, and with the next one; where thousands of models start at once, that is half of all writes.

use crds::{
    TritonModelStatus, TritonServerStatus,
    parts::{Condition, ConditionStatus, condition},
};

/// Whether a model's status goes from `before` to `after` with nothing but progress.
pub fn is_progress_of_model(before: &TritonModelStatus, after: &TritonModelStatus) -> bool {
    before.observed_generation == after.observed_generation
        && before.failures == after.failures
        && before.last_failure == after.last_failure
        && before.active_versions == after.active_versions
        && before.content_hash == after.content_hash
        && is_progress(&before.conditions, &after.conditions)
}

/// The same for a server.
pub fn is_progress_of_server(before: &TritonServerStatus, after: &TritonServerStatus) -> bool {
    before.observed_generation == after.observed_generation && is_progress(&before.conditions, &after.conditions)
}

/// It was and is reconciling, and no condition has another status.
fn is_progress(before: &[Condition], after: &[Condition]) -> bool {
    let is_under_way = |conditions: &[Condition]| {
        condition::find(conditions, "Reconciling").is_some_and(|it| it.status == ConditionStatus::True)
    };
    let is_the_same =
        |after: &Condition| condition::find(before, &after.type_).is_some_and(|it| it.status == after.status);
    is_under_way(before) && is_under_way(after) && before.len() == after.len() && after.iter().all(is_the_same)
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
    fn another_reason_while_it_goes_on_is_progress_and_nothing_else_is() {
        let loading = status("False", "Loading", true);
        assert!(is_progress_of_model(&status("False", "Pending", true), &loading));
        let others = [
            TritonModelStatus::default(),
            status("True", "Loaded", true),
            status("False", "Pending", false),
            TritonModelStatus { observed_generation: Some(1), ..loading.clone() },
            TritonModelStatus { active_versions: vec![1], ..loading.clone() },
            TritonModelStatus { content_hash: Some("sha256:1".into()), ..loading.clone() },
        ];
        for other in others {
            assert!(!is_progress_of_model(&other, &loading) && !is_progress_of_model(&loading, &other), "{other:?}");
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
