//! A reconcile that did not come to its end, and what is said of it: on the status of its server and in an event, once it has failed for a
//! while. The first failure is only logged, for most are over when the reconcile is tried again a second later.

use std::{fmt, time::Duration};

use crds::{TritonServer, TritonServerStatus};
use kube::{Resource, core::DeserializeGuard};
use operator_core::{
    build::Refusal,
    events::{self, Event},
    status::{self, RECONCILE_FAILED},
    text::one_line,
};

use crate::{
    context::{Context, now},
    queue::ServerKey,
    write_status::{before, write_status},
};

/// From when on reconciles that fail one after the other are told of: less than the pause after the first one.
const LASTING: Duration = Duration::from_millis(500);

/// Why a reconcile did not come to its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Error(String);

impl Error {
    /// What came of `doing` something, in the API server's own words where it answered.
    pub(crate) fn new(doing: impl fmt::Display, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if !status.message.is_empty() => Self(format!("{doing}: {}", status.message)),
            error => Self(format!("{doing}: {error}")),
        }
    }

    /// What kept an object back.
    pub(crate) fn of_object(refusal: Refusal) -> Self {
        Self(refusal.message)
    }
}

/// Whether reconciles that have failed for so long are told of.
pub(crate) fn is_lasting(failing_for: Option<Duration>) -> bool {
    failing_for.is_some_and(|time| time >= LASTING)
}

/// Says on the status of a server why its reconcile did not come to its end. Where the status cannot be written either, an event says it.
/// Returns whether the status says it.
pub(crate) async fn tell(context: &Context, key: &ServerKey, error: &Error) -> bool {
    let Some(found) = context.watches.server(key) else { return false };
    let DeserializeGuard(Ok(server)) = &*found else { return false };
    if server.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let before: TritonServerStatus = before(context, key, server, server.status.as_ref());
    let after = status::with_failure(server, &before, &before, &error.to_string(), &now());
    let events = events::of_server(&before, &after);
    match write_status(context, key, server, (&before, &after), false, &events).await {
        Ok(_) => return true,
        Err(refused @ kube::Error::Api(_)) => {
            tracing::debug!(server = %key, error = %refused, "that its reconcile failed is not on its status");
            let note = one_line(&error.to_string()).into_owned();
            let event = Event { is_warning: true, reason: RECONCILE_FAILED.into(), note };
            context.events.record(&TritonServer::object_ref(server, &()), "Reconcile", &[event]);
        }
        Err(unreachable) => {
            tracing::debug!(server = %key, error = %unreachable, "the API server cannot be told either")
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_over_most_often_when_it_is_tried_again() {
        assert!(!is_lasting(None) && !is_lasting(Some(Duration::from_millis(100))));
        assert!(is_lasting(Some(Duration::from_secs(1))), "the pause after the first failure");
    }

    #[test]
    fn an_error_is_told_in_the_words_of_the_api_server() {
        let status = kube::core::Status::failure("no endpoints available for service \"policy\"", "InternalError");
        let error = Error::new("applying Service vision", kube::Error::Api(status.with_code(500).boxed()));
        assert_eq!(error.to_string(), "applying Service vision: no endpoints available for service \"policy\"");
    }
}
