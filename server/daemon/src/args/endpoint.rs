//! Where a front end listens, and whether it encrypts.

use std::net::IpAddr;

use super::{error::ArgsError, value::Port};

/// Where a front end listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Whether it is there at all.
    pub(crate) is_allowed: bool,
    /// Name or number of the interface.
    pub(crate) address: String,
    /// 0 takes any free port.
    pub(crate) port: u16,
    /// A port given that no socket can have: refused if the front end is there.
    pub(crate) impossible_port: Option<i32>,
    /// Whether other processes may listen there too.
    pub(crate) reuse_port: bool,
}

/// Whether a front end encrypts, and where its certificates are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TlsArgs {
    pub(crate) use_ssl: bool,
    /// The same, and clients must bring certificates.
    pub(crate) use_ssl_mutual: bool,
    /// Paths; empty if not given.
    pub(crate) server_cert: String,
    pub(crate) server_key: String,
    /// Used with `use_ssl_mutual` only.
    pub(crate) root_cert: String,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) const fn at(address: String, port: u16) -> Self {
        Self { is_allowed: true, address, port, impossible_port: None, reuse_port: false }
    }

    pub(super) fn off(address: String, port: u16) -> Self {
        Self { is_allowed: false, ..Self::at(address, port) }
    }

    pub(super) fn set_port(&mut self, Port(port): Port) {
        match u16::try_from(port) {
            Ok(port) => (self.port, self.impossible_port) = (port, None),
            Err(_) => self.impossible_port = Some(port),
        }
    }

    pub(super) fn clashes_with(&self, other: &Self) -> bool {
        let everywhere = |endpoint: &Self| {
            let address: Result<IpAddr, _> = endpoint.address.trim_matches(['[', ']']).parse();
            address.is_ok_and(|address| address.is_unspecified())
        };
        let same_address = self.address == other.address || everywhere(self) || everywhere(other);
        self.port != 0 && self.port == other.port && same_address
    }
}

// === impl TlsArgs ===

impl TlsArgs {
    /// Whether connections are encrypted.
    pub(crate) const fn is_on(&self) -> bool {
        self.use_ssl || self.use_ssl_mutual
    }

    pub(super) fn check(&self, service: &'static str) -> Result<(), ArgsError> {
        if self.is_on() && (self.server_cert.is_empty() || self.server_key.is_empty()) {
            return Err(ArgsError::NoCertificate(service));
        }
        if self.use_ssl_mutual && self.root_cert.is_empty() {
            return Err(ArgsError::NoRootCertificate(service));
        }
        Ok(())
    }
}
