//! The front ends, by what they serve.

use std::fmt;

/// A front end, by what it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// REST.
    Http,
    /// gRPC.
    Grpc,
    /// The metrics page.
    Metrics,
    /// SageMaker's protocol.
    SageMaker,
    /// Vertex AI's protocol.
    VertexAi,
}

impl Service {
    /// As a socket of it is called that is handed over, and as its flags begin.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Metrics => "metrics",
            Self::SageMaker => "sagemaker",
            Self::VertexAi => "vertex-ai",
        }
    }

    /// The flag with its port.
    pub(crate) const fn port_flag(self) -> &'static str {
        match self {
            Self::Http => "http-port",
            Self::Grpc => "grpc-port",
            Self::Metrics => "metrics-port",
            Self::SageMaker => "sagemaker-port",
            Self::VertexAi => "vertex-ai-port",
        }
    }

    /// The flags with its certificate, its key, and the roots of the certificates of clients. Those of clouds have none: a cloud
    /// encrypts in front of them.
    pub(crate) const fn tls_flags(self) -> [&'static str; 3] {
        match self {
            Self::SageMaker | Self::VertexAi => [""; 3],
            Self::Http => ["http-server-cert", "http-server-key", "http-root-cert"],
            Self::Grpc => ["grpc-server-cert", "grpc-server-key", "grpc-root-cert"],
            Self::Metrics => ["metrics-server-cert", "metrics-server-key", "metrics-root-cert"],
        }
    }

    /// As in "failed to start ... service".
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Grpc => "GRPC",
            Self::Metrics => "Metrics",
            Self::SageMaker => "Sagemaker",
            Self::VertexAi => "Vertex AI",
        }
    }

    /// As in "the server cannot listen to ... requests".
    pub(crate) const fn requests(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Grpc => "GRPC",
            Self::Metrics => "metrics",
            Self::SageMaker => "SageMaker",
            Self::VertexAi => "Vertex AI",
        }
    }
}

/// As in `Started ... at`, which scripts wait for.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTPService",
            Self::Grpc => "GRPCInferenceService",
            Self::Metrics => "Metrics Service",
            Self::SageMaker => "Sagemaker HTTPService",
            Self::VertexAi => "Vertex AI HTTPService",
        })
    }
}
