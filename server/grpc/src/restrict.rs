//! Groups of methods that need a header with a secret value: `--grpc-restricted-protocol`.

use http::HeaderMap;
use server_core::{
    error::{Error, Result},
    secret,
};

/// What every restricting header starts with on the wire.
const PREFIX: &str = "triton-grpc-protocol-";

macro_rules! protocols {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// A group of methods.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Protocol {
            $($(#[$doc])* $name),*
        }

        impl Protocol {
            /// Every group, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The group's name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

protocols! {
    /// Live, ready, model ready, and the health service.
    Health = "health",
    /// Server and model metadata.
    Metadata = "metadata",
    /// Unary and streamed inference.
    Inference = "inference",
    /// Regions of system and CUDA memory.
    SharedMemory = "shared-memory",
    /// Model configurations.
    ModelConfig = "model-config",
    /// Index, load, unload.
    ModelRepository = "model-repository",
    /// Statistics.
    Statistics = "statistics",
    /// Trace settings.
    Trace = "trace",
    /// Log settings.
    Logging = "logging",
}

impl Protocol {
    /// The group of that name on the command line.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|protocol| protocol.name() == name)
    }

    /// The group of a method, by its name in either service. Unknown methods belong to none.
    pub(crate) fn of_method(method: &str) -> Option<Self> {
        Some(match method {
            "ModelInfer" | "ModelStreamInfer" => Self::Inference,
            "Check" | "ServerLive" | "ServerReady" | "ModelReady" => Self::Health,
            "ServerMetadata" | "ModelMetadata" => Self::Metadata,
            "ModelConfig" => Self::ModelConfig,
            "ModelStatistics" => Self::Statistics,
            "RepositoryIndex" | "RepositoryModelLoad" | "RepositoryModelUnload" => Self::ModelRepository,
            "SystemSharedMemoryStatus" | "SystemSharedMemoryRegister" | "SystemSharedMemoryUnregister" => {
                Self::SharedMemory
            }
            "CudaSharedMemoryStatus" | "CudaSharedMemoryRegister" | "CudaSharedMemoryUnregister" => Self::SharedMemory,
            "TraceSetting" => Self::Trace,
            "LogSettings" => Self::Logging,
            _ => return None,
        })
    }
}

/// Groups that share one header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restriction {
    /// The restricted groups. A group occurs in one restriction at most.
    pub protocols: Vec<Protocol>,
    /// The header's name without the `triton-grpc-protocol-` it has on the wire.
    pub header: String,
    /// The value it must have.
    pub value: String,
}

/// Checks that the headers allow that method.
///
/// Errors: `Unavailable`, naming the header that is missing or wrong.
pub(crate) fn check(restrictions: &[Restriction], method: &str, headers: &HeaderMap) -> Result<()> {
    let Some(protocol) = Protocol::of_method(method) else { return Ok(()) };
    let Some(restriction) = restrictions.iter().find(|restriction| restriction.protocols.contains(&protocol)) else {
        return Ok(());
    };
    let key = format!("{PREFIX}{}", restriction.header);
    let given = headers.get(key.to_ascii_lowercase());
    if given.is_some_and(|given| secret::is_equal(given.as_bytes(), restriction.value.as_bytes())) {
        return Ok(());
    }
    Err(Error::unavailable(format!("This protocol is restricted, expecting header '{key}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_printed() {
        for &protocol in Protocol::ALL {
            assert_eq!(Protocol::from_name(protocol.name()), Some(protocol));
        }
        assert_eq!(Protocol::from_name("everything"), None);
    }

    #[test]
    fn a_restricted_method_needs_the_right_value() {
        let restrictions = [Restriction {
            protocols: vec![Protocol::Inference, Protocol::ModelRepository],
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
