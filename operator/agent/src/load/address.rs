//! Where a server takes calls: a port, or a Unix socket of this machine.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// What a Unix socket begins with, as text.
const UNIX: &str = "unix:";

/// Where a server takes calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Its HTTP port.
    Port(SocketAddr),
    /// Its control socket, which takes calls that ports may refuse.
    Socket(PathBuf),
}

/// A text that is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected IP:PORT, or unix:PATH with an absolute path")]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        match text.strip_prefix(UNIX) {
            Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_absolute()).map(Self::Socket),
            None => text.parse().ok().map(Self::Port),
        }
        .ok_or(NoAddress)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Port(address)
    }
}

/// Where a server that listens at `address` is reached from the same machine.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        ip if !ip.is_unspecified() => address,
        IpAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], address.port())),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_is_written() {
        for text in ["127.0.0.1:8000", "[::1]:8000", "unix:/run/triton/control.sock"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "unix:", "unix:control.sock", "/run/triton/control.sock", "127.0.0.1", "localhost:8000"] {
            assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text}");
        }
    }

    #[test]
    fn who_listens_everywhere_is_reached_at_loopback() {
        let of = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!([of("0.0.0.0:1"), of("[::]:1"), of("192.0.2.1:1")], ["127.0.0.1:1", "[::1]:1", "192.0.2.1:1"]);
    }
}
