//! Control calls: methods that change what the server serves, or how. Refused where they are taken at a socket of their own.

use server_core::control::{ControlCall, PrivateControl};
use tonic::Status;

/// What a method changes whatever its message says. Those of settings change something only if the message holds some:
/// [`refuse`] is for them.
fn call_of(method: &str) -> Option<ControlCall> {
    Some(match method {
        "RepositoryModelLoad" => ControlCall::Load,
        "RepositoryModelUnload" => ControlCall::Unload,
        "SystemSharedMemoryRegister" | "CudaSharedMemoryRegister" => ControlCall::RegisterSharedMemory,
        "SystemSharedMemoryUnregister" | "CudaSharedMemoryUnregister" => ControlCall::UnregisterSharedMemory,
        _ => return None,
    })
}

/// Checks that a method may be called from the network.
///
/// Errors: it is a control call, and those are taken at a socket of their own.
pub(crate) fn check(private: Option<&PrivateControl>, method: &str) -> Result<(), Status> {
    if private.is_none() {
        return Ok(());
    }
    call_of(method).map_or(Ok(()), |call| refuse(private, call))
}

/// Refuses a control call where those are taken at a socket of their own.
pub(crate) fn refuse(private: Option<&PrivateControl>, call: ControlCall) -> Result<(), Status> {
    private.map_or(Ok(()), |private| Err(Status::permission_denied(private.refusal(call))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_change_the_server_are_refused_and_those_that_ask_are_not() {
        let private = PrivateControl { socket: "/s".into() };
        for (method, is_control) in [
            ("RepositoryModelLoad", true),
            ("RepositoryModelUnload", true),
            ("SystemSharedMemoryRegister", true),
            ("SystemSharedMemoryUnregister", true),
            ("CudaSharedMemoryRegister", true),
            ("CudaSharedMemoryUnregister", true),
            ("RepositoryIndex", false),
            ("SystemSharedMemoryStatus", false),
            ("CudaSharedMemoryStatus", false),
            ("TraceSetting", false), // only with settings
            ("LogSettings", false),
            ("ModelInfer", false),
            ("ModelStreamInfer", false),
            ("NoSuchMethod", false),
        ] {
            let refused = check(Some(&private), method);
            assert_eq!(refused.is_err(), is_control, "{method}");
            assert!(refused.err().is_none_or(|status| status.code() == tonic::Code::PermissionDenied), "{method}");
            assert!(check(None, method).is_ok(), "{method}");
        }
        assert!(refuse(Some(&private), ControlCall::LogSettings).is_err());
        assert!(refuse(None, ControlCall::LogSettings).is_ok());
    }
}
