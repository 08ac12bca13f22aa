//! Restricted APIs: groups of endpoints that require a header with a certain value.

use http::{HeaderMap, HeaderName};

use crate::{
    error::Failure,
    router::{ModelAction, Route},
};

/// A group of endpoints that can be restricted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// Liveness and readiness, of the server and of models.
    Health,
    /// Server and model metadata.
    Metadata,
    /// infer, generate and generate_stream.
    Inference,
    /// Status, registration.
    SharedMemory,
    /// Model configurations.
    ModelConfig,
    /// Index, load, unload.
    ModelRepository,
    /// Statistics.
    Statistics,
    /// Trace settings.
    Trace,
    /// Log settings.
    Logging,
}

impl Api {
    /// Every group, in the order of the command line's help.
    pub const ALL: [Self; 9] = [
        Self::Health,
        Self::Metadata,
        Self::Inference,
        Self::SharedMemory,
        Self::ModelConfig,
        Self::ModelRepository,
        Self::Statistics,
        Self::Trace,
        Self::Logging,
    ];

    /// The name on the command line, e.g. `model-config`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Metadata => "metadata",
            Self::Inference => "inference",
            Self::SharedMemory => "shared-memory",
            Self::ModelConfig => "model-config",
            Self::ModelRepository => "model-repository",
            Self::Statistics => "statistics",
            Self::Trace => "trace",
            Self::Logging => "logging",
        }
    }

    /// The group of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.name() == name)
    }

    /// The group a request belongs to.
    pub(crate) fn of(route: &Route<'_>) -> Self {
        match route {
            Route::ServerMetadata => Self::Metadata,
            Route::ServerLive | Route::ServerReady => Self::Health,
            Route::AllStatistics => Self::Statistics,
            Route::TraceSettings => Self::Trace,
            Route::Logging => Self::Logging,
            Route::RepositoryIndex | Route::RepositoryLoad { .. } | Route::RepositoryUnload { .. } => {
                Self::ModelRepository
            }
            Route::SharedMemory { .. } => Self::SharedMemory,
            Route::Model { action, .. } => match action {
                ModelAction::Metadata => Self::Metadata,
                ModelAction::Ready => Self::Health,
                ModelAction::Config => Self::ModelConfig,
                ModelAction::Statistics => Self::Statistics,
                ModelAction::Infer | ModelAction::Generate | ModelAction::GenerateStream => Self::Inference,
                ModelAction::TraceSettings => Self::Trace,
            },
        }
    }
}

/// Groups of endpoints and the header they require: one `--http-restricted-api=API,..:HEADER=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restriction {
    /// What is restricted. A group belongs to one restriction at most.
    pub apis: Vec<Api>,
    /// Name of the header, as it is named to callers without it.
    pub header: String,
    /// The value it must have.
    pub value: String,
}

/// Checks the header that a restricted group requires.
///
/// Errors: it is missing or has another value.
pub(crate) fn check(restrictions: &[Restriction], route: &Route<'_>, headers: &HeaderMap) -> Result<(), Failure> {
    if restrictions.is_empty() {
        return Ok(());
    }
    let api = Api::of(route);
    let Some(restriction) = restrictions.iter().find(|restriction| restriction.apis.contains(&api)) else {
        return Ok(());
    };
    let name = HeaderName::from_bytes(restriction.header.as_bytes()).ok();
    let given = name.and_then(|name| headers.get(name));
    if given.is_some_and(|value| is_same(value.as_bytes(), restriction.value.as_bytes())) {
        Ok(())
    } else {
        Err(Failure::Restricted { header: restriction.header.clone() })
    }
}

/// Compares secrets in a time that does not tell where they differ.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;
    use crate::router::route;

    #[test]
    fn only_the_right_value_gives_access_to_a_restricted_api() {
        let restrictions = [Restriction {
            apis: vec![Api::Inference, Api::ModelRepository],
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

    #[test]
    fn every_api_is_found_by_its_name() {
        for api in Api::ALL {
            assert_eq!(Api::from_name(api.name()), Some(api));
        }
        assert_eq!(Api::from_name("everything"), None);
    }
}
