//! What is said of the autoscaler of a server: whether it works, in the autoscaler's own words with the cure beside them, and the
//! numbers that users of autoscalers look for.

use crds::{
    TritonServer,
    parts::{
        ConditionStatus,
        autoscaling::{AutoscalingEngine, AutoscalingStatus},
    },
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::SignedDuration};
use serde_json::Value;

use super::{
    conditions::Claim,
    view::{Outcome, Seen},
};
use crate::autoscaling::Autoscale;

/// Reason while no replica has served long enough to be measured.
const NOT_MEASURED: &str = "NotMeasuredYet";

/// How long it takes at most from when a replica is ready until the autoscaler knows its load: the operator looks twice, 5 s apart, and the
/// autoscaler asks every 15 s.
const MEASURED_BY_OPERATOR: SignedDuration = SignedDuration::from_secs(30);

/// The same where Prometheus scrapes and computes, every 30 s each as a rule, and prometheus-adapter has to find the series.
const MEASURED_BY_PROMETHEUS: SignedDuration = SignedDuration::from_secs(120);

/// Begin of the remark about a ScaledObject that cannot be made.
const NO_SCALED_OBJECT: &str = "no ScaledObject is made";

/// The condition `AutoscalingActive` and what stands beside it; none for a server that is not autoscaled. `seen.autoscaler` is the
/// HorizontalPodAutoscaler or ScaledObject as the cluster has it.
pub(super) fn of(seen: &Seen<'_>) -> Option<(Claim, AutoscalingStatus)> {
    let autoscale = autoscale_of(seen.server)?;
    let status = seen.autoscaler.map_or(&Value::Null, |autoscaler| &autoscaler["status"]);
    let claim = match autoscale.engine {
        AutoscalingEngine::Keda => of_scaled_object(&seen.outcome, status, &autoscale),
        AutoscalingEngine::Operator | AutoscalingEngine::PrometheusAdapter => {
            of_pod_autoscaler(seen, status, &autoscale)
        }
    };
    let number = |name: &str| status[name].as_i64().and_then(|number| i32::try_from(number).ok());
    let numbers = AutoscalingStatus {
        min_replicas: autoscale.min_replicas,
        max_replicas: autoscale.max_replicas,
        current_replicas: number("currentReplicas"),
        desired_replicas: number("desiredReplicas"),
        last_scale_time: status["lastScaleTime"].as_str().map(str::to_owned),
    };
    Some((claim, numbers))
}

fn autoscale_of(server: &TritonServer) -> Option<Autoscale> {
    Autoscale::of(&server.spec).filter(|_| server.spec.replicas.is_none())
}

fn active(autoscale: &Autoscale) -> Claim {
    let (min, max) = (autoscale.min_replicas, autoscale.max_replicas);
    Claim::new(ConditionStatus::True, "Active", format!("the load decides how many of {min} to {max} replicas run"))
}

/// Source: Kubernetes, HorizontalPodAutoscaler, "Appendix: Horizontal Pod Autoscaler Status Conditions".
fn of_pod_autoscaler(seen: &Seen<'_>, status: &Value, autoscale: &Autoscale) -> Claim {
    use ConditionStatus::{False, True, Unknown};
    let condition = |type_: &str| find(status, type_);
    let (Some(able), Some(scaling)) = (condition("AbleToScale"), condition("ScalingActive")) else {
        // it could not even read the scale, which comes before all else
        if let Some(able) = condition("AbleToScale").filter(|able| able.status == "False") {
            return Claim::new(False, able.reason, able.message);
        }
        return Claim::new(Unknown, "NotLookedAt", "its HorizontalPodAutoscaler has not looked at it yet");
    };
    if able.status == "False" {
        return Claim::new(False, able.reason, able.message);
    }
    if scaling.reason == "ScalingDisabled" {
        return Claim::new(False, "ScaledToZero", "no replica runs, so there is no load to measure");
    }
    if scaling.status != "True" {
        if is_about_a_metric(scaling.reason)
            && let Some(why) = why_not_measured(seen, autoscale.engine)
        {
            return Claim::new(Unknown, NOT_MEASURED, why);
        }
        let cure = cure(scaling.reason, autoscale.engine);
        let message =
            if cure.is_empty() { scaling.message.to_owned() } else { format!("{} ({cure})", scaling.message) };
        return Claim::new(False, scaling.reason, message);
    }
    let is_at_most =
        condition("ScalingLimited").is_some_and(|it| it.status == "True" && it.reason == "TooManyReplicas");
    if is_at_most {
        let message =
            format!("the load asks for more replicas than spec.autoscaling.maxReplicas, {}", autoscale.max_replicas);
        return Claim::new(True, "MaximumReached", message);
    }
    active(autoscale)
}

/// The autoscaler has no value of a metric: `FailedGetPodsMetric` and its like.
fn is_about_a_metric(reason: &str) -> bool {
    reason.starts_with("FailedGet") && reason.ends_with("Metric")
}

/// Why there is nothing to measure yet, and nobody's fault in it.
fn why_not_measured(seen: &Seen<'_>, engine: AutoscalingEngine) -> Option<String> {
    let within = match engine {
        AutoscalingEngine::PrometheusAdapter => MEASURED_BY_PROMETHEUS,
        AutoscalingEngine::Operator | AutoscalingEngine::Keda => MEASURED_BY_OPERATOR,
    };
    let ready = || seen.replicas.iter().filter(|replica| replica.is_ready && !replica.is_leaving);
    let has_served = |since: &Time| seen.now.0.duration_since(since.0) >= within;
    if ready().any(|replica| replica.ready_since.as_ref().is_none_or(has_served)) {
        return None;
    }
    Some(match ready().next() {
        None => "no replica is ready, so there is no load to measure".to_owned(),
        Some(_) => format!("its first replica has just become ready, and is measured within {} s", within.as_secs()),
    })
}

/// Whether the condition will say something else soon, although no event announces that.
pub(super) fn is_awaited(claim: &Claim) -> bool {
    claim.reason == NOT_MEASURED
}

/// What helps where a metric cannot be had.
fn cure(reason: &str, engine: AutoscalingEngine) -> &'static str {
    match (reason, engine) {
        ("FailedGetPodsMetric", AutoscalingEngine::Operator) => {
            "no pod has been measured twice yet; or custom.metrics.k8s.io is not served by the operator: set metricsApi.enabled \
             among the values of its chart, or set spec.autoscaling.engine to PrometheusAdapter or KEDA"
        }
        ("FailedGetPodsMetric", AutoscalingEngine::PrometheusAdapter) => {
            "no pod has been measured yet; or prometheus-adapter lacks the rules of deploy/observability/prometheus-adapter.yaml, or \
             its Prometheus does not find the pods: see spec.monitoring"
        }
        ("AmbiguousSelector", _) => {
            "remove the other HorizontalPodAutoscaler, or spec.autoscaling and spec.replicas if that one is to scale the server"
        }
        _ => "",
    }
}

/// Source: KEDA 2, status of a ScaledObject.
fn of_scaled_object(outcome: &Outcome<'_>, status: &Value, autoscale: &Autoscale) -> Claim {
    use ConditionStatus::{False, Unknown};
    if let Outcome::Applied(resources) = outcome
        && let Some(remark) = resources.remarks.iter().find(|remark| remark.starts_with(NO_SCALED_OBJECT))
    {
        return Claim::new(False, "ScaledObjectMissing", remark);
    }
    let condition = |type_: &str| find(status, type_);
    match condition("Ready") {
        Some(ready) if ready.status == "False" => Claim::new(False, ready.reason, ready.message),
        Some(ready) if ready.status == "True" => match condition("Fallback") {
            Some(fallback) if fallback.status == "True" => Claim::new(
                False,
                "Fallback",
                "KEDA has no answer about its load and keeps the replicas of spec.fallback of its ScaledObject or the present ones, \
                 whichever are more",
            ),
            _ => active(autoscale),
        },
        _ => Claim::new(Unknown, "NotLookedAt", "KEDA has not looked at its ScaledObject yet"),
    }
}

struct Found<'a> {
    status: &'a str,
    reason: &'a str,
    message: &'a str,
}

fn find<'a>(status: &'a Value, type_: &str) -> Option<Found<'a>> {
    let condition = status["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)?;
    let text = |name: &str| condition[name].as_str().unwrap_or_default();
    let reason = Some(text("reason")).filter(|reason| !reason.is_empty()).unwrap_or("Unknown");
    Some(Found { status: text("status"), reason, message: text("message") })
}
