//! What the status of a server says of a reconcile that did not come to its end.

use crds::{TritonServer, TritonServerStatus, parts::ConditionStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{Claim, Conditions};

/// Reason of a server whose reconcile failed, though nothing is wrong with its spec: the API server answered with an error.
pub const RECONCILE_FAILED: &str = "ReconcileFailed";

/// `found`, which is what else there is to say, with `why` a reconcile did not come to its end. The same failure gives the same status.
pub fn with_failure(
    server: &TritonServer,
    before: &TritonServerStatus,
    found: &TritonServerStatus,
    why: &str,
    now: &Time,
) -> TritonServerStatus {
    let generation = server.metadata.generation;
    let claim = Claim::new(ConditionStatus::False, RECONCILE_FAILED, why);
    let mut conditions = Conditions::new(&before.conditions, generation, now);
    conditions.set("Ready", &claim);
    let others = found.conditions.iter().filter(|it| !matches!(it.type_.as_str(), "Ready" | "Reconciling" | "Stalled"));
    others.for_each(|other| conditions.keep(other));
    conditions.set_while(true, "Reconciling", RECONCILE_FAILED, why);
    TritonServerStatus { observed_generation: generation, conditions: conditions.into_vec(), ..found.clone() }
}
