//! A model that may be placed: its entry, what the last manifest has of it, and its turn.

use std::cmp::Reverse;

use crds::TritonModel;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{ManifestModel, ObjectRef, names};

/// A model that may be placed, and its turn.
pub(super) struct Candidate {
    pub(super) object: ObjectRef,
    pub(super) entry: ManifestModel,
    pub(super) former: Former,
    pub(super) rank: Rank,
    /// GPU memory that it was measured to take. Units: bytes.
    pub(super) measured: u64,
}

/// What the last manifest has of a model, its rollout aside.
pub(super) enum Former {
    None,
    /// What is asked for now.
    Same,
    Other(Box<ManifestModel>),
}

/// Who is placed first where space is short: the higher priority, then who has a place already, then the older.
type Rank = (Reverse<i32>, Reverse<bool>, Age);

/// Older first; those without a time (no API server gave them one) after those with one; then by name.
pub(super) type Age = (bool, Option<Time>, String, String);

impl Candidate {
    pub(super) fn new(model: &TritonModel, entry: ManifestModel, previous: Option<&ManifestModel>) -> Self {
        let former = match previous {
            None => Former::None,
            Some(former) if *former == entry => Former::Same,
            Some(former) => match wanted(former) {
                former if former == entry => Former::Same,
                former => Former::Other(Box::new(former)),
            },
        };
        let has_place = !matches!(former, Former::None);
        let rank = (Reverse(model.spec.priority.unwrap_or(0)), Reverse(has_place), age(model));
        Self { object: names::object(model), entry, former, rank, measured: measured(model) }
    }

    /// One that goes on as the last manifest has it.
    pub(super) fn kept(model: &TritonModel, entry: ManifestModel) -> Self {
        let rank = (Reverse(model.spec.priority.unwrap_or(0)), Reverse(true), age(model));
        Self { object: names::object(model), entry, former: Former::Same, rank, measured: measured(model) }
    }

    /// One whose resource cannot be read: nobody can have lowered its priority, so nobody takes its place.
    pub(super) fn unreadable(object: ObjectRef, entry: ManifestModel) -> Self {
        let age = (true, None, object.namespace.clone(), object.name.clone());
        Self { object, entry, former: Former::Same, rank: (Reverse(i32::MAX), Reverse(true), age), measured: 0 }
    }

    pub(super) fn priority(&self) -> i32 {
        self.rank.0.0
    }
}

fn measured(model: &TritonModel) -> u64 {
    let memory = model.status.as_ref().and_then(|status| status.memory.as_ref());
    memory.and_then(|memory| memory.gpu).unwrap_or_default().0
}

pub(super) fn age(model: &TritonModel) -> Age {
    let created = model.metadata.creation_timestamp.clone();
    let ObjectRef { namespace, name, .. } = names::object(model);
    (created.is_none(), created, namespace, name)
}

/// An entry of the last manifest as something to ask for: how far it has come is decided anew.
pub(super) fn wanted(entry: &ManifestModel) -> ManifestModel {
    ManifestModel { rollout: None, ..entry.clone() }
}
