//! The rules of the definitions (CEL, for API servers) against our own validation (for one machine): what the one refuses
//! the other refuses too, and each rule is shown to refuse something.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeSet;

use crds::{TritonModel, TritonServer};
use kube_cel::Validator;
use operator_core::validate;
use serde_json::{Value, json};

/// Rules about a change, which one machine does not have: a resource there is what the file says.
const ABOUT_CHANGES: &str = "oldSelf";

/// Specs of servers and whether they are right.
fn servers() -> Vec<(Value, bool)> {
    vec![
        (json!({}), true),
        (json!({ "modelStore": { "emptyDir": {} } }), true),
        (json!({ "modelStore": { "emptyDir": {}, "persistentVolumeClaim": { "claimName": "c" } } }), false),
        (json!({ "rollout": { "maxSurge": 0 } }), true),
        (json!({ "rollout": { "maxUnavailable": 0, "maxSurge": 1 } }), true),
        (json!({ "rollout": { "maxUnavailable": 0 } }), true),
        (json!({ "rollout": { "maxUnavailable": 0, "maxSurge": 0 } }), false),
        (
            json!({ "modelAccess": { "hosts": ["*.hub.example", "10.0.0.1", "fd00::1", "10.0.0.0/8", "fd00::/8"] } }),
            true,
        ),
        (json!({ "gpu": { "count": 1, "resourceName": "nvidia.com/mig-1g.10gb" } }), true),
        (json!({ "gpu": { "resourceClaims": [{ "name": "a", "resourceClaimTemplateName": "t" }] } }), true),
        (json!({ "gpu": { "resourceClaims": [{ "name": "a", "resourceClaimName": "c", "request": "r" }] } }), true),
        (json!({ "gpu": { "memoryPerReplica": "1Gi" } }), false),
        (json!({ "gpu": { "count": 1, "resourceClaims": [{ "name": "a", "resourceClaimName": "c" }] } }), false),
        (
            json!({ "gpu": { "resourceName": "x.y/z", "resourceClaims": [{ "name": "a", "resourceClaimName": "c" }] } }),
            false,
        ),
        (json!({ "gpu": { "resourceClaims": [{ "name": "a" }] } }), false),
        (
            json!({ "gpu": { "resourceClaims": [{ "name": "a", "resourceClaimName": "c", "resourceClaimTemplateName": "t" }] } }),
            false,
        ),
        (json!({ "monitoring": { "serviceMonitor": {}, "podMonitor": { "enabled": "Never" } } }), true),
        (json!({ "monitoring": { "serviceMonitor": { "enabled": "Never" }, "podMonitor": {} } }), true),
        (json!({ "monitoring": { "podMonitor": { "enabled": "Always" } } }), true),
        (json!({ "monitoring": { "serviceMonitor": {}, "podMonitor": {} } }), false),
        (
            json!({ "monitoring": { "serviceMonitor": { "enabled": "Auto" }, "podMonitor": { "enabled": "Always" } } }),
            false,
        ),
        (json!({ "modelAccess": { "hosts": ["a.example", "10.0.0.0/33"] } }), false),
        (json!({ "modelAccess": { "hosts": ["fd00:::/8"] } }), false),
        (json!({ "server": { "drainDelay": "12h", "drainTimeout": "12h", "exitTimeout": "11h59m50s" } }), true),
        (json!({ "server": { "drainTimeout": "23h59m20s" } }), true),
        (json!({ "server": { "drainTimeout": "24h" } }), false),
        (json!({ "server": { "drainDelay": "24h", "exitTimeout": "0s" } }), false),
        (json!({ "server": { "exitTimeout": "25h" } }), false),
        (json!({ "replicas": 2 }), true),
        (json!({ "autoscaling": { "maxReplicas": 4 } }), true),
        (json!({ "autoscaling": { "minReplicas": 4, "maxReplicas": 4 } }), true),
        (json!({ "autoscaling": { "minReplicas": 5, "maxReplicas": 4 } }), false),
        (json!({ "replicas": 2, "autoscaling": { "maxReplicas": 4 } }), false),
        (json!({ "replicas": 0, "autoscaling": { "maxReplicas": 4 } }), false),
        (json!({ "autoscaling": { "minReplicas": 0, "maxReplicas": 4, "scaleToZero": {} } }), true),
        (json!({ "autoscaling": { "minReplicas": 1, "maxReplicas": 4, "scaleToZero": {} } }), false),
        (json!({ "autoscaling": { "maxReplicas": 4, "scaleToZero": { "after": "1m" } } }), false),
        (
            json!({ "autoscaling": { "maxReplicas": 4, "engine": "KEDA", "prometheus": { "serverAddress": "http://p" } } }),
            true,
        ),
        (json!({ "autoscaling": { "maxReplicas": 4, "prometheus": { "serverAddress": "http://p" } } }), false),
        (
            json!({ "autoscaling": {
                "maxReplicas": 4, "engine": "PrometheusAdapter", "prometheus": { "serverAddress": "http://p" },
            } }),
            false,
        ),
        (json!({ "autoscaling": { "maxReplicas": 4, "metrics": { "raw": [{ "type": "Resource" }] } } }), true),
        (json!({ "autoscaling": { "maxReplicas": 4, "metrics": { "queueLatency": { "target": "1ms" } } } }), true),
        (json!({ "autoscaling": { "maxReplicas": 4, "metrics": { "queueLatency": { "target": "0ms" } } } }), false),
        (json!({ "autoscaling": { "maxReplicas": 4, "metrics": { "queueLatency": { "target": "0h00s" } } } }), false),
        (
            json!({ "autoscaling": { "maxReplicas": 4, "engine": "KEDA", "metrics": { "raw": [{ "type": "Resource" }] } } }),
            false,
        ),
    ]
}

/// Specs of models, without their reference, and whether they are right.
fn models() -> Vec<(Value, bool)> {
    let pvc = json!({ "claimName": "c" });
    let at = |path: &str| json!({ "pvc": { "claimName": "c", "path": path } });
    vec![
        (json!({ "source": { "pvc": pvc } }), true),
        (json!({ "source": {} }), false),
        (json!({ "source": { "pvc": pvc, "configMap": { "name": "m" } } }), false),
        (json!({ "source": { "http": { "uri": "https://h/m" }, "inline": { "files": { "a": "b" } } } }), false),
        (json!({ "source": { "s3": { "uri": "s3://bucket/m" } } }), true),
        (json!({ "source": { "gcs": { "uri": "gs://bucket/m" } } }), true),
        (json!({ "source": { "azure": { "uri": "as://account/container/m" } } }), true),
        (json!({ "source": { "s3": { "uri": "s3://bucket/m" }, "gcs": { "uri": "gs://bucket/m" } } }), false),
        (json!({ "source": { "huggingFace": { "repo": "o/m" } } }), true),
        (json!({ "source": { "oci": { "reference": "r.example/m" } } }), true),
        (json!({ "source": { "huggingFace": { "repo": "o/m" }, "oci": { "reference": "r.example/m" } } }), false),
        (json!({ "source": at("a/b") }), true),
        (json!({ "source": at("a..b/..c") }), true),
        (json!({ "source": at("") }), true),
        (json!({ "source": at("/a") }), false),
        (json!({ "source": at("a/../../b") }), false),
        (json!({ "source": { "pvc": pvc }, "config": {}, "configPbtxt": "x" }), false),
        (json!({ "source": { "pvc": pvc }, "versions": { "policy": { "all": {} } } }), true),
        (json!({ "source": { "pvc": pvc }, "versions": { "policy": {} } }), false),
        (json!({ "source": { "pvc": pvc }, "versions": { "weights": { "1": 90, "2": 10 } } }), true),
        (json!({ "source": { "pvc": pvc }, "versions": { "canary": { "version": 2 } } }), false),
        (json!({ "source": { "pvc": pvc }, "versions": { "policy": { "all": {} }, "shadow": { "2": 5 } } }), true),
        (json!({ "source": { "pvc": pvc }, "versions": { "policy": { "all": {}, "latest": { "num": 1 } } } }), false),
    ]
}

/// Every rule below a schema.
fn rules(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                found.insert(rule["rule"].as_str().unwrap().to_owned());
            }
            fields.values().for_each(|field| rules(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| rules(item, found)),
        _ => {}
    }
}

/// The rules that refuse `object`.
fn refused_by(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
    match Validator::new().validate(schema, object, old) {
        Ok(()) => vec![],
        Err(errors) => errors.into_vec().into_iter().map(|error| error.rule).collect(),
    }
}

#[test]
fn rules_and_validation_refuse_the_same() {
    let mut shown = BTreeSet::new();
    let mut all = BTreeSet::new();
    let mut check = |kind: &str, spec: &Value, name: &str, is_right: bool, problems: &dyn Fn(Value) -> usize| {
        let schema = crds::definition::schema_of(kind).unwrap();
        rules(&schema, &mut all);
        let object =
            json!({ "apiVersion": crds::API_VERSION, "kind": kind, "metadata": { "name": name }, "spec": spec });
        let refused = refused_by(&schema, &object, None);
        assert_eq!(refused.is_empty(), is_right, "CEL about {object}: {refused:?}");
        assert_eq!(problems(object.clone()) == 0, is_right, "validation about {object}");
        shown.extend(refused);
    };
    let server_problems = |object| validate::server(&serde_json::from_value::<TritonServer>(object).unwrap()).len();
    let model_problems = |object| validate::model(&serde_json::from_value::<TritonModel>(object).unwrap()).len();
    for (spec, is_right) in servers() {
        check("TritonServer", &spec, "s", is_right, &server_problems);
    }
    for (mut spec, is_right) in models() {
        spec["serverRef"] = json!({ "name": "s" });
        check("TritonModel", &spec, "m", is_right, &model_problems);
    }
    let plain = json!({ "serverRef": { "name": "s" }, "source": { "pvc": { "claimName": "c" } } });
    check("TritonServer", &json!({}), &"s".repeat(52), true, &server_problems);
    check("TritonServer", &json!({}), &"s".repeat(53), false, &server_problems);
    for (name, is_right) in [("v2-vision", true), ("with.dot", false), ("2nd", false)] {
        check("TritonServer", &json!({}), name, is_right, &server_problems);
        check("TritonModel", &plain, name, true, &model_problems);
    }
    check("TritonModel", &plain, &"m".repeat(63), true, &model_problems);
    check("TritonModel", &plain, &"m".repeat(64), false, &model_problems);
    let silent: Vec<_> = all.iter().filter(|rule| !rule.contains(ABOUT_CHANGES) && !shown.contains(*rule)).collect();
    assert!(silent.is_empty(), "nothing shows what these rules refuse: {silent:?}");
}

#[test]
fn what_is_passed_on_to_an_autoscaler_has_its_types() {
    let check = |autoscaling: Value, expect: &[&str]| {
        let server = json!({ "metadata": { "name": "s" }, "spec": { "autoscaling": autoscaling } });
        let problems = validate::server(&serde_json::from_value::<TritonServer>(server).unwrap());
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(said, expect);
    };
    let metric = json!({ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } } });
    let behavior = json!({ "scaleDown": { "stabilizationWindowSeconds": 60, "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 60 }] } });
    check(json!({ "maxReplicas": 4, "metrics": { "raw": [metric] }, "behavior": behavior }), &[]);
    // what a later Kubernetes may have is passed on
    let mut later = metric.clone();
    later["resource"]["target"]["ofNextYear"] = json!(80);
    check(json!({ "maxReplicas": 4, "metrics": { "raw": [later] } }), &[]);
    let mut wrong = metric.clone();
    wrong["resource"]["target"]["averageUtilization"] = json!("80%");
    let path = "spec.autoscaling.metrics.raw";
    check(
        json!({ "maxReplicas": 4, "metrics": { "raw": [metric, wrong, { "resource": { "name": "cpu" } }] } }),
        &[
            &format!(
                "{path}[1].resource.target.averageUtilization: has the wrong type: invalid type: string \"80%\", expected i32"
            ),
            &format!("{path}[2]: has no type: write Resource, ContainerResource, Pods, Object or External"),
        ],
    );
    let many = json!({ "scaleUp": { "stabilizationWindowSeconds": "many" } });
    check(
        json!({ "maxReplicas": 4, "behavior": many }),
        &[
            "spec.autoscaling.behavior.scaleUp.stabilizationWindowSeconds: has the wrong type: invalid type: string \"many\", expected i32",
        ],
    );
}

#[test]
fn the_name_clients_use_stays_as_it_is() {
    let schema = crds::definition::schema_of("TritonModel").unwrap();
    let named = |name: Option<&str>| {
        let mut object = json!({
            "metadata": { "name": "m" },
            "spec": { "serverRef": { "name": "s" }, "source": { "pvc": { "claimName": "c" } } },
        });
        if let Some(name) = name {
            object["spec"]["modelName"] = json!(name);
        }
        object
    };
    for (old, new, is_right) in [
        (None, None, true),
        (Some("a"), Some("a"), true),
        (Some("a"), Some("b"), false),
        (Some("a"), None, false),
        (None, Some("a"), false),
    ] {
        let refused = refused_by(&schema, &named(new), Some(&named(old)));
        assert_eq!(refused.is_empty(), is_right, "{old:?} to {new:?}: {refused:?}");
    }
}
