//! What one object of a server that cannot be applied means for the others. Pure.

use std::collections::BTreeSet;

use operator_core::{
    build::{Object, Refusal},
    kind::Kind,
    names,
    status::RECONCILE_FAILED,
};

use crate::{failure::Error, queue::ServerKey};

/// Why one object is not in the cluster as it should be.
#[derive(Debug)]
pub(super) enum Hindrance {
    /// It was refused, or is somebody else's.
    Refused(Refusal),
    /// The API server answered with an error that may be none in a moment.
    Passing(Refusal),
    /// The API server could not be asked: about no other object either.
    Unreachable(Error),
}

/// What may be done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// It is made, updated and healed.
    Apply,
    /// What somebody has changed is put back, and nothing else: what it relies on is not there.
    Heal,
}

/// How far the objects of a server are.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Kinds of which the object is not there as others need it.
    missing: BTreeSet<Kind>,
    /// What was refused, or kept back.
    pub(super) refusal: Option<Refusal>,
    /// The first of that which may be otherwise in a moment.
    pub(super) passing: Option<Refusal>,
}

impl Progress {
    pub(super) fn may(&self, kind: Kind) -> May {
        if kind.relies_on().iter().any(|other| self.missing.contains(other)) { May::Heal } else { May::Apply }
    }

    /// Whether manifest and pods are as they should be.
    pub(super) fn has_pods(&self) -> bool {
        self.may(Kind::Deployment) == May::Apply && !self.missing.contains(&Kind::Deployment)
    }

    /// Notes what came of an object; `is_there`: it was there before, as one of ours.
    pub(super) fn note<T>(
        &mut self,
        object: &Object,
        key: &ServerKey,
        is_there: bool,
        applied: Result<Option<T>, Hindrance>,
    ) -> Result<Option<T>, Error> {
        let hindrance = match applied {
            Ok(applied) => return Ok(applied),
            Err(hindrance) => hindrance,
        };
        self.add(hindrance)?;
        // manifest and pods have to be the very ones that the rest was built with
        let is_missing = !is_there || matches!(object.kind, Kind::ConfigMap | Kind::Deployment);
        if is_missing && object.name != names::headless_service(&key.name) {
            self.missing.insert(object.kind);
        }
        Ok(None)
    }

    pub(super) fn add(&mut self, hindrance: Hindrance) -> Result<(), Error> {
        let refusal = match hindrance {
            Hindrance::Refused(refusal) => refusal,
            Hindrance::Passing(refusal) => {
                self.passing.get_or_insert_with(|| refusal.clone());
                refusal
            }
            Hindrance::Unreachable(error) => return Err(error),
        };
        self.refusal = Some(match self.refusal.take() {
            Some(first) => first.and(refusal),
            None => refusal,
        });
        Ok(())
    }
}

/// What an error of the API server means for the object that it was asked about.
pub(super) fn hindrance(doing: &str, title: &str, error: kube::Error) -> Hindrance {
    let doing = format!("{doing} {title}");
    let refusal =
        |reason, is_final, message: &str| Refusal { reason, message: format!("{doing}: {message}"), is_final };
    match error {
        kube::Error::Api(status) => match status.code {
            // about the API server, and not about the object
            401 | 408 | 429 | 503 | 504 => Hindrance::Unreachable(Error::new(doing, kube::Error::Api(status))),
            // rights, a quota, an admission webhook, a namespace being deleted
            403 => Hindrance::Refused(refusal("Forbidden", false, &status.message)),
            // what somebody has changed meanwhile; a namespace that is gone
            404 | 409 => Hindrance::Passing(refusal(RECONCILE_FAILED, false, &status.message)),
            400..=499 => Hindrance::Refused(refusal("ApplyRefused", true, &status.message)),
            // an admission webhook that cannot be asked
            _ => Hindrance::Passing(refusal(RECONCILE_FAILED, false, &status.message)),
        },
        error => Hindrance::Unreachable(Error::new(doing, error)),
    }
}
