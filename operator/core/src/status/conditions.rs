//! A set of conditions in the making. It keeps the times of those whose status stays and leaves out abnormal ones that do
//! not hold, as kstatus readers expect.

use crds::parts::{Condition, ConditionStatus, condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::text::cut;

/// Longest message: enough for several problems, short enough for a list of objects.
const MESSAGE_MAX: usize = 1024;

/// Reason of what has no replicas because none are asked for.
pub(super) const SCALED_TO_ZERO: &str = "ScaledToZero";

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) status: ConditionStatus,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Claim {
    pub(super) fn new(status: ConditionStatus, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), message: message.into() }
    }

    pub(super) fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// Conditions of one object, made anew in each reconcile.
pub(super) struct Conditions<'a> {
    before: &'a [Condition],
    generation: Option<i64>,
    now: &'a Time,
    made: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    pub(super) fn new(before: &'a [Condition], generation: Option<i64>, now: &'a Time) -> Self {
        Self { before, generation, now, made: vec![] }
    }

    pub(super) fn set(&mut self, type_: &str, claim: &Claim) {
        let before = condition::find(self.before, type_).filter(|before| before.status == claim.status);
        self.made.push(Condition {
            type_: type_.to_owned(),
            status: claim.status,
            reason: claim.reason.clone(),
            message: cut(&claim.message, MESSAGE_MAX),
            observed_generation: self.generation,
            last_transition_time: before.map_or_else(|| self.now.clone(), |before| before.last_transition_time.clone()),
        });
    }

    /// A condition that is there only while it holds.
    pub(super) fn set_while(&mut self, holds: bool, type_: &str, reason: &str, message: &str) {
        if holds {
            self.set(type_, &Claim::new(ConditionStatus::True, reason, message));
        }
    }

    /// A condition as it was found.
    pub(super) fn keep(&mut self, condition: &Condition) {
        self.made.push(condition.clone());
    }

    pub(super) fn into_vec(self) -> Vec<Condition> {
        self.made
    }
}
