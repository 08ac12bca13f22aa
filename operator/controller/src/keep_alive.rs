//! Has the kernel look after a connection whose other side may go away without a word: with its node, or with the network to it.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::net::sockopt;

/// From now on the other side is probed each `period` while it says nothing; the connection is lost once nothing has come from there for
/// `patience`, or nothing that was sent was taken for as long.
pub(crate) fn watch(socket: impl AsFd, period: Duration, patience: Duration) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, period)?;
    sockopt::set_tcp_keepintvl(socket, period)?;
    sockopt::set_tcp_keepcnt(socket, u32::try_from(patience.as_secs() / period.as_secs().max(1)).unwrap_or(u32::MAX))?;
    // without it, what was sent and not acknowledged is sent again for a quarter of an hour
    sockopt::set_tcp_user_timeout(socket, u32::try_from(patience.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// How long nothing may come from the other side; none if nobody looks.
    pub(crate) fn patience(socket: impl AsFd) -> Option<Duration> {
        let socket = socket.as_fd();
        let (idle, between) = (sockopt::tcp_keepidle(socket).unwrap(), sockopt::tcp_keepintvl(socket).unwrap());
        let patience = Duration::from_millis(sockopt::tcp_user_timeout(socket).unwrap().into());
        let is_probed = sockopt::socket_keepalive(socket).unwrap() && idle < patience && between < patience;
        is_probed.then_some(patience)
    }

    #[test]
    fn a_connection_is_looked_after_once_somebody_asks_for_it() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(patience(&socket), None);
        watch(&socket, Duration::from_secs(1), Duration::from_secs(3)).unwrap();
        assert_eq!(patience(&socket), Some(Duration::from_secs(3)));
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), 3);
    }
}
