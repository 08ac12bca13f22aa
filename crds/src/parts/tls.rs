//! TLS of the server's ports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The certificate that the server shows at its ports, and whether clients show one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Secret with the certificate chain in `tls.crt` and its key in `tls.key`, both PEM, as kubernetes.io/tls has them. It carries the
    /// label `triton-operator.dev/model-access: "true"`. A renewed certificate is taken without a restart.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Whether clients of HTTP and gRPC show a certificate that leads to a root in `ca.crt` of the Secret: None or Required. The
    /// metrics page asks for none. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum ClientCertificates {
    /// They need none.
    #[default]
    None,
    /// One that leads to a root of the Secret's `ca.crt`.
    Required,
}
