//! Which ports a server gets: those of the command line for the first, ten higher for each further one; any free ones
//! where 0 was given. A port somebody else listens on is reported before a server is started on it.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener},
};

/// Distance between the ports of one server and the next.
const STEP: u16 = 10;

/// The ports of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Where they listen.
    pub(crate) address: IpAddr,
    /// HTTP protocol.
    pub(crate) http: u16,
    /// gRPC protocol.
    pub(crate) grpc: u16,
    /// Metrics.
    pub(crate) metrics: u16,
}

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// Somebody listens there.
    #[error("{0} is in use by another program: end it, or choose another port with {1}")]
    InUse(SocketAddr, &'static str),
    /// The system refuses.
    #[error("cannot listen at {0}: {1}")]
    Refused(SocketAddr, io::Error),
    /// There are no numbers that high.
    #[error("there is no port {0} + {1} for another server")]
    TooHigh(u16, u32),
}

impl Ports {
    /// The ports of the server in that place, counted from 0.
    pub(crate) fn in_place(self, place: usize) -> Result<Self, PortError> {
        let higher = |port: u16| match port {
            0 => free(self.address),
            port => {
                let step = u32::try_from(place).unwrap_or(u32::MAX).saturating_mul(u32::from(STEP));
                u16::try_from(u32::from(port).saturating_add(step)).map_err(|_| PortError::TooHigh(port, step))
            }
        };
        Ok(Self { http: higher(self.http)?, grpc: higher(self.grpc)?, metrics: higher(self.metrics)?, ..self })
    }

    /// Whether all three can be had now.
    pub(crate) fn check(&self) -> Result<(), PortError> {
        for (port, flag) in [(self.http, "--http-port"), (self.grpc, "--grpc-port"), (self.metrics, "--metrics-port")] {
            let address = SocketAddr::new(self.address, port);
            TcpListener::bind(address).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => PortError::InUse(address, flag),
                _ => PortError::Refused(address, error),
            })?;
        }
        Ok(())
    }

    /// The HTTP port with its address.
    pub(crate) fn http_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.http)
    }

    /// The flags that say so.
    pub(crate) fn flags(&self) -> Vec<String> {
        let Self { address, http, grpc, metrics } = self;
        vec![
            format!("--http-address={address}"),
            format!("--http-port={http}"),
            format!("--grpc-address={address}"),
            format!("--grpc-port={grpc}"),
            format!("--metrics-address={address}"),
            format!("--metrics-port={metrics}"),
        ]
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |port| triton_agent::load::reachable(SocketAddr::new(self.address, port));
        let (http, grpc, metrics) = (at(self.http), at(self.grpc), at(self.metrics));
        write!(f, "http://{http}  grpc {grpc}  metrics http://{metrics}/metrics")
    }
}

fn free(address: IpAddr) -> Result<u16, PortError> {
    let any = SocketAddr::new(address, 0);
    let listener = TcpListener::bind(any).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| PortError::Refused(any, error))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PORTS: Ports = Ports { address: IpAddr::V4(Ipv4Addr::LOCALHOST), http: 8000, grpc: 8001, metrics: 8002 };

    #[test]
    fn each_server_gets_ports_of_its_own() {
        assert_eq!(PORTS.in_place(0).unwrap(), PORTS);
        assert_eq!(PORTS.in_place(2).unwrap().grpc, 8021);
        assert!(PORTS.in_place(7000).is_err());
        let any = Ports { http: 0, ..PORTS }.in_place(1).unwrap();
        assert!(any.http != 0 && any.grpc == 8011);
    }

    #[test]
    fn a_port_in_use_is_told_with_the_flag_that_helps() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let any = Ports { http: 0, grpc: 0, metrics: 0, ..PORTS }.in_place(0).unwrap();
        assert!(any.check().is_ok());
        let error = Ports { grpc: taken, ..any }.check().unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()) && error.contains("--grpc-port"), "{error}");
    }

    #[test]
    fn addresses_are_shown_as_a_client_writes_them() {
        let everywhere = Ports { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), ..PORTS };
        assert_eq!(
            everywhere.to_string(),
            "http://127.0.0.1:8000  grpc 127.0.0.1:8001  metrics http://127.0.0.1:8002/metrics"
        );
    }
}
