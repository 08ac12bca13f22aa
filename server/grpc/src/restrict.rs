//! Groups of methods that need a header with a secret value: `--grpc-restricted-protocol`.

use http::{HeaderMap, HeaderValue};
use server_core::{
    error::{Error, Result},
    restriction::{ApiGroup, Restriction},
};

/// What every restricting header starts with on the wire.
const PREFIX: &str = "triton-grpc-protocol-";

/// The group of a method, by its name in either service. Unknown methods belong to none.
fn group_of(method: &str) -> Option<ApiGroup> {
    Some(match method {
        "ModelInfer" | "ModelStreamInfer" => ApiGroup::Inference,
        "Check" | "ServerLive" | "ServerReady" | "ModelReady" => ApiGroup::Health,
        "ServerMetadata" | "ModelMetadata" => ApiGroup::Metadata,
        "ModelConfig" => ApiGroup::ModelConfig,
        "ModelStatistics" => ApiGroup::Statistics,
        "RepositoryIndex" | "RepositoryModelLoad" | "RepositoryModelUnload" => ApiGroup::ModelRepository,
        "SystemSharedMemoryStatus" | "SystemSharedMemoryRegister" | "SystemSharedMemoryUnregister" => {
            ApiGroup::SharedMemory
        }
        "CudaSharedMemoryStatus" | "CudaSharedMemoryRegister" | "CudaSharedMemoryUnregister" => ApiGroup::SharedMemory,
        "TraceSetting" => ApiGroup::Trace,
        "LogSettings" => ApiGroup::Logging,
        _ => return None,
    })
}

/// Checks that the headers allow that method.
///
/// Errors: `Unavailable`, naming the header that is missing or wrong.
pub(crate) fn check(restrictions: &[Restriction], method: &str, headers: &HeaderMap) -> Result<()> {
    let Some(restriction) = group_of(method).and_then(|group| Restriction::of(restrictions, group)) else {
        return Ok(());
    };
    let key = format!("{PREFIX}{}", restriction.header);
    if restriction.is_met_by(headers.get(key.to_ascii_lowercase()).map(HeaderValue::as_bytes)) {
        return Ok(());
    }
    Err(Error::unavailable(format!("This protocol is restricted, expecting header '{key}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restricted_method_needs_the_right_value() {
        let restrictions = [Restriction {
            groups: vec![ApiGroup::Inference, ApiGroup::ModelRepository],
            header: "Admin".into(),
            value: "secret".into(),
        }];
        let wrong = "This protocol is restricted, expecting header 'triton-grpc-protocol-Admin'";
        let mut headers = HeaderMap::new();
        for method in ["ModelInfer", "ModelStreamInfer", "RepositoryIndex"] {
            assert_eq!(check(&restrictions, method, &headers).unwrap_err().message, wrong);
        }
        for method in ["ServerLive", "Check", "NoSuchMethod"] {
            assert_eq!(check(&restrictions, method, &headers), Ok(()));
        }
        headers.insert("triton-grpc-protocol-admin", "guess".parse().unwrap());
        assert_eq!(check(&restrictions, "ModelInfer", &headers).unwrap_err().message, wrong);
        headers.insert("triton-grpc-protocol-admin", "secret".parse().unwrap());
        assert_eq!(check(&restrictions, "ModelInfer", &headers), Ok(()));
    }
}
