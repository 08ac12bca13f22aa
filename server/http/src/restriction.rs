//! Restricted APIs: groups of endpoints that require a header with a certain value.

use http::{HeaderMap, HeaderName, HeaderValue};
use server_core::restriction::{ApiGroup, Restriction};

use crate::{
    error::Failure,
    router::{ModelAction, Route},
};

/// The group a request belongs to.
fn group_of(route: &Route<'_>) -> ApiGroup {
    match route {
        Route::ServerMetadata => ApiGroup::Metadata,
        Route::ServerLive | Route::ServerReady | Route::Drain => ApiGroup::Health,
        Route::AllStatistics => ApiGroup::Statistics,
        Route::TraceSettings => ApiGroup::Trace,
        Route::Logging => ApiGroup::Logging,
        Route::RepositoryIndex | Route::RepositoryLoad { .. } | Route::RepositoryUnload { .. } => {
            ApiGroup::ModelRepository
        }
        Route::SharedMemory { .. } => ApiGroup::SharedMemory,
        Route::Model { action, .. } => match action {
            ModelAction::Metadata => ApiGroup::Metadata,
            ModelAction::Ready => ApiGroup::Health,
            ModelAction::Config => ApiGroup::ModelConfig,
            ModelAction::Statistics => ApiGroup::Statistics,
            ModelAction::Infer | ModelAction::Generate | ModelAction::GenerateStream => ApiGroup::Inference,
            ModelAction::TraceSettings => ApiGroup::Trace,
        },
    }
}

/// Checks the header that a restricted group requires.
///
/// Errors: it is missing or has another value.
pub(crate) fn check(restrictions: &[Restriction], route: &Route<'_>, headers: &HeaderMap) -> Result<(), Failure> {
    if restrictions.is_empty() {
        return Ok(());
    }
    let Some(restriction) = Restriction::of(restrictions, group_of(route)) else { return Ok(()) };
    let name = HeaderName::from_bytes(restriction.header.as_bytes()).ok();
    if restriction.is_met_by(name.and_then(|name| headers.get(name)).map(HeaderValue::as_bytes)) {
        Ok(())
    } else {
        Err(Failure::Restricted { header: restriction.header.clone() })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::router::route;

    #[test]
    fn only_the_right_value_gives_access_to_a_restricted_api() {
        let restrictions = [Restriction {
            groups: vec![ApiGroup::Inference, ApiGroup::ModelRepository],
            header: "Admin-Key".into(),
            value: "s3cret".into(),
        }];
        let mut headers = HeaderMap::new();
        let try_path = |method: Method, path: &str, headers: &HeaderMap| {
            check(&restrictions, &route(&method, path).unwrap(), headers)
        };
        let refused = Err(Failure::Restricted { header: "Admin-Key".into() });
        assert_eq!(try_path(Method::GET, "/v2", &headers), Ok(()));
        assert_eq!(try_path(Method::POST, "/v2/models/m/generate", &headers), refused);
        headers.insert("admin-key", HeaderValue::from_static("wrong!"));
        assert_eq!(try_path(Method::POST, "/v2/models/m/infer", &headers), refused);
        headers.insert("admin-key", HeaderValue::from_static("s3cret"));
        assert_eq!(try_path(Method::POST, "/v2/repository/index", &headers), Ok(()));
    }
}
