//! What is counted of each kind of object.

use crds::{
    TritonModel, TritonServer,
    parts::{Condition, ConditionStatus, condition},
};
use kube::api::DynamicObject;
use serde_json::Value;

use super::store::{Guarded, Note};

/// Whether it is ready.
pub(super) fn of_model(model: &Guarded<TritonModel>) -> Note {
    let status = model.0.as_ref().ok().and_then(|model| model.status.as_ref());
    Note { is_ready: status.is_some_and(|status| says_ready(&status.conditions)), numbers: None }
}

/// Whether it is ready; its ready replicas, and the models that are desired, loaded and failed.
pub(super) fn of_server(server: &Guarded<TritonServer>) -> Note {
    let Some(status) = server.0.as_ref().ok().and_then(|server| server.status.as_ref()) else { return Note::default() };
    let models = status.models.clone().unwrap_or_default();
    let numbers = [status.ready_replicas.unwrap_or(0), models.desired, models.loaded, models.failed];
    Note { is_ready: says_ready(&status.conditions), numbers: Some(numbers) }
}

/// The replicas that its spec asks for, first of the numbers.
pub(super) fn of_object(object: &DynamicObject) -> Note {
    let replicas = object.data.pointer("/spec/replicas").and_then(Value::as_i64);
    let replicas = replicas.and_then(|replicas| i32::try_from(replicas).ok());
    Note { is_ready: false, numbers: replicas.map(|replicas| [replicas, 0, 0, 0]) }
}

fn says_ready(conditions: &[Condition]) -> bool {
    condition::find(conditions, "Ready").is_some_and(|ready| ready.status == ConditionStatus::True)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_counted_is_what_status_and_spec_say() {
        let ready = json!([{ "type": "Ready", "status": "True", "reason": "R", "message": "m",
                             "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
        let server = |status: Value| {
            serde_json::from_value(json!({ "metadata": { "name": "s" }, "spec": {}, "status": status })).unwrap()
        };
        let models = json!({ "desired": 3, "loaded": 2, "failed": 1 });
        let status = json!({ "readyReplicas": 4, "models": models, "conditions": ready });
        assert_eq!(of_server(&server(status)), Note { is_ready: true, numbers: Some([4, 3, 2, 1]) });
        assert_eq!(of_server(&server(Value::Null)), Note::default());
        let object = |spec: Value| {
            serde_json::from_value(
                json!({ "apiVersion": "v1", "kind": "X", "metadata": { "name": "a" }, "spec": spec }),
            )
            .unwrap()
        };
        assert_eq!(of_object(&object(json!({ "replicas": 7 }))).numbers, Some([7, 0, 0, 0]));
        assert_eq!(of_object(&object(json!({ "replicas": "7" }))).numbers, None);
    }
}
