//! The sockets a server takes over: opened once, and held while its process is replaced.
//!
//! Source: sd_listen_fds(3). `LISTEN_PID` is left out, for nobody knows it before the process is there, and the first
//! descriptor is named (`LISTEN_FDS_FIRST_FD`), for it is another one than 3.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, ensure};
use rustix::{
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    net::{self, AddressFamily, SocketFlags, SocketType, sockopt},
};

/// Descriptor of the first one in the server; the others follow. Above all that a process has when it starts.
const FIRST: RawFd = 64;
/// Connections that may wait in the listen queue. The system's own limit may be lower.
const LINE: i32 = 4096;

/// Listening sockets by name.
#[derive(Debug)]
pub(super) struct Sockets {
    names: Vec<&'static str>,
    sockets: Vec<OwnedFd>,
}

impl Sockets {
    /// One for each name.
    pub(super) fn open(wanted: &[(&'static str, SocketAddr)]) -> anyhow::Result<Self> {
        // one after the other, and left open to children
        let open = |(number, (name, address)): (RawFd, &(_, SocketAddr))| {
            let socket = listen(*address).with_context(|| format!("cannot listen at {address} for {name}"))?;
            let placed = fcntl_dupfd_cloexec(&socket, number).context("cannot place a socket")?;
            ensure!(placed.as_raw_fd() == number, "descriptor {number} is taken");
            fcntl_setfd(&placed, FdFlags::empty()).context("cannot leave a socket to the server")?;
            Ok(placed)
        };
        let sockets = (FIRST..).zip(wanted).map(open).collect::<anyhow::Result<_>>()?;
        Ok(Self { names: wanted.iter().map(|(name, _)| *name).collect(), sockets })
    }

    /// The environment that names them to a child.
    pub(super) fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("LISTEN_FDS", self.sockets.len().to_string()),
            ("LISTEN_FDNAMES", self.names.join(":")),
            ("LISTEN_FDS_FIRST_FD", FIRST.to_string()),
        ]
    }
}

/// A socket that takes connections.
fn listen(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // a restarted container takes its port back while old connections still linger
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, LINE)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Sockets::open(&[("http", address)]).unwrap_err();
        assert!(format!("{error:#}").starts_with(&format!("cannot listen at {address} for http: ")), "{error:#}");
    }

    #[test]
    fn they_take_connections_and_are_named_to_the_server() {
        let sockets = Sockets::open(&[("http", ([127, 0, 0, 1], 0).into())]).unwrap();
        let listener = TcpListener::from(sockets.sockets[0].try_clone().unwrap());
        std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let environment = sockets.environment().map(|(name, value)| format!("{name}={value}"));
        assert_eq!(environment, ["LISTEN_FDS=1", "LISTEN_FDNAMES=http", "LISTEN_FDS_FIRST_FD=64"]);
    }
}
