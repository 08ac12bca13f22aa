//! Control calls: requests that change what the server serves, or how. Refused where they are taken at a socket of their own.

use http::Method;
use server_core::control::{ControlCall, PrivateControl};

use crate::{
    error::Failure,
    router::{MemoryAction, ModelAction, Route},
};

/// What a request changes; `None` if it only asks or infers.
fn call_of(route: &Route<'_>, method: &Method) -> Option<ControlCall> {
    let is_change = *method != Method::GET;
    match route {
        Route::Drain => Some(ControlCall::Drain),
        Route::RepositoryLoad { .. } => Some(ControlCall::Load),
        Route::RepositoryUnload { .. } => Some(ControlCall::Unload),
        Route::TraceSettings | Route::Model { action: ModelAction::TraceSettings, .. } => {
            is_change.then_some(ControlCall::TraceSettings)
        }
        Route::Logging => is_change.then_some(ControlCall::LogSettings),
        Route::SharedMemory { action: MemoryAction::Register, .. } => Some(ControlCall::RegisterSharedMemory),
        Route::SharedMemory { action: MemoryAction::Unregister, .. } => Some(ControlCall::UnregisterSharedMemory),
        Route::SharedMemory { action: MemoryAction::Status, .. }
        | Route::Model { .. }
        | Route::ServerMetadata
        | Route::ServerLive
        | Route::ServerReady
        | Route::AllStatistics
        | Route::RepositoryIndex => None,
    }
}

/// Checks that a request may come from the network.
///
/// Errors: it is a control call, and those are taken at a socket of their own.
pub(crate) fn check(private: Option<&PrivateControl>, route: &Route<'_>, method: &Method) -> Result<(), Failure> {
    let Some(private) = private else { return Ok(()) };
    match call_of(route, method) {
        None => Ok(()),
        Some(call) => Err(Failure::PrivateControl { message: private.refusal(call) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::route;

    #[test]
    fn what_changes_the_server_is_told_from_what_asks() {
        let (get, post) = (Method::GET, Method::POST);
        let mut calls = vec![];
        for (prefix, models) in [("/v2/repository", "/models/m"), ("/v2/repository/r", "/models/m%2F1")] {
            calls.push((&post, format!("{prefix}/index"), None));
            calls.push((&post, format!("{prefix}{models}/load"), Some(ControlCall::Load)));
            calls.push((&post, format!("{prefix}{models}/unload"), Some(ControlCall::Unload)));
        }
        calls.push((&post, "/v2/health/drain".into(), Some(ControlCall::Drain)));
        for path in ["/v2/trace/setting", "/v2/models/m/trace/setting"] {
            calls.push((&get, path.into(), None));
            calls.push((&post, path.into(), Some(ControlCall::TraceSettings)));
        }
        calls.push((&get, "/v2/logging".into(), None));
        calls.push((&post, "/v2/logging".into(), Some(ControlCall::LogSettings)));
        for memory in ["/v2/systemsharedmemory", "/v2/cudasharedmemory"] {
            for region in ["", "/region/r"] {
                calls.push((&get, format!("{memory}{region}/status"), None));
                calls.push((&post, format!("{memory}{region}/register"), Some(ControlCall::RegisterSharedMemory)));
                calls.push((&post, format!("{memory}{region}/unregister"), Some(ControlCall::UnregisterSharedMemory)));
            }
        }
        for path in ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/models/load/config"] {
            calls.push((&get, path.into(), None));
        }
        for action in ["infer", "generate", "generate_stream", "versions/1/infer"] {
            calls.push((&post, format!("/v2/models/unload/{action}"), None));
        }
        let private = PrivateControl { socket: "/s".into() };
        for (method, path, expect) in calls {
            let route = route(method, &path).unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
            assert_eq!(call_of(&route, method), expect, "{method} {path}");
            let refused = check(Some(&private), &route, method).is_err();
            assert_eq!(refused, expect.is_some(), "{method} {path}");
            assert_eq!(check(None, &route, method), Ok(()), "{method} {path}");
        }
    }
}
