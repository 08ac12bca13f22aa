//! Sockets of the front ends: opened before anything else, so that a probe is answered from the first moment, or taken over
//! from whoever started the process. The latter keeps them open when the process dies, so that callers wait in line for the
//! next one and are not turned away.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs},
};

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket};

use crate::{args::Endpoint, service::Service};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Why a front end cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("failed to start {} service: Unavailable - {cause}", service.title())]
pub(crate) struct ListenError {
    service: Service,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("Socket '{0}' already in use")]
    InUse(String),
    #[error("Socket '{0}' cannot be opened: {1}")]
    Refused(String, io::Error),
    #[error("the socket handed over as '{0}' cannot be used: {1}")]
    HandedOver(&'static str, io::Error),
}

/// A socket that takes connections, and the address it really has.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Whom it belongs to.
    pub(crate) service: Service,
    /// Where it is: the port taken where 0 was asked for.
    pub(crate) address: SocketAddr,
    /// The socket.
    pub(crate) socket: TcpListener,
}

/// Sockets that whoever started this process has opened for it, by name: `http`, `grpc`, `metrics`.
///
/// Source: sd_listen_fds(3), `LISTEN_FDS` and `LISTEN_FDNAMES`; a manager that knows no names hands them over in that order.
#[derive(Debug, Default)]
pub(crate) struct HandedOver(BTreeMap<String, io::Result<StdListener>>);

impl HandedOver {
    /// Takes them. Call it before there are threads: the environment is changed, so that no child takes them too.
    pub(crate) fn take() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").ok();
        let mut names = names.as_deref().unwrap_or("http:grpc:metrics").split(':');
        let mut sockets = ListenFd::from_env();
        let named = (0..sockets.len()).filter_map(|index| Some((names.next()?, index)));
        let taken =
            named.filter_map(|(name, index)| Some((name.to_owned(), sockets.take_tcp_listener(index).transpose()?)));
        Self(taken.collect())
    }
}

impl Listener {
    /// The socket of one front end: the one handed over, else a new one; `None` where it is not allowed. Call it within the
    /// runtime.
    pub(crate) fn open(
        service: Service,
        endpoint: &Endpoint,
        handed_over: &mut HandedOver,
    ) -> Result<Option<Self>, ListenError> {
        let taken = handed_over.0.remove(service.name());
        if !endpoint.is_allowed {
            return Ok(None);
        }
        if let Some(taken) = taken {
            let adopted = taken.and_then(|socket| {
                socket.set_nonblocking(true)?;
                let socket = TcpListener::from_std(socket)?;
                Ok(Self { service, address: socket.local_addr()?, socket })
            });
            let refused = |error| ListenError { service, cause: Cause::HandedOver(service.name(), error) };
            return adopted.map(Some).map_err(refused);
        }
        let opened = resolve(endpoint).and_then(|address| listen(address, endpoint.reuse_port));
        let listener = opened.and_then(|socket| Ok(Self { service, address: socket.local_addr()?, socket }));
        listener.map(Some).map_err(|error| {
            let place = format!("{}:{}", endpoint.address, endpoint.port);
            let cause = match error.kind() {
                io::ErrorKind::AddrInUse => Cause::InUse(place),
                _ => Cause::Refused(place, error),
            };
            ListenError { service, cause }
        })
    }
}

/// A number is taken as it is, `[::1]` included; a name is looked up.
fn resolve(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    let host = endpoint.address.trim_start_matches('[').trim_end_matches(']');
    let mut found = (host, endpoint.port).to_socket_addrs()?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

fn listen(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // A restarted server takes its port back while old connections still linger.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, port: u16, reuse_port: bool) -> Endpoint {
        Endpoint { is_allowed: true, address: address.into(), port, impossible_port: None, reuse_port }
    }

    fn open(endpoint: &Endpoint) -> Result<Listener, String> {
        let opened =
            Listener::open(Service::Http, endpoint, &mut HandedOver::default()).map_err(|error| error.to_string());
        opened.map(|listener| listener.expect("it is allowed"))
    }

    #[tokio::test]
    async fn port_zero_takes_a_free_port() {
        let listener = open(&endpoint("127.0.0.1", 0, false)).unwrap();
        assert_ne!(listener.address.port(), 0);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_not_allowed_is_not_opened() {
        let endpoint = Endpoint { is_allowed: false, ..endpoint("127.0.0.1", 0, false) };
        assert!(Listener::open(Service::Http, &endpoint, &mut HandedOver::default()).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_socket_that_is_handed_over_is_served_where_it_is() {
        let kept = StdListener::bind("127.0.0.1:0").unwrap();
        let address = kept.local_addr().unwrap();
        let mut handed_over = HandedOver([("grpc".to_owned(), kept.try_clone())].into());
        let elsewhere = endpoint("127.0.0.1", 0, false);
        let mut open = |service| Listener::open(service, &elsewhere, &mut handed_over).unwrap().unwrap();
        let (http, grpc) = (open(Service::Http), open(Service::Grpc));
        assert_ne!(http.address, address);
        assert_eq!(grpc.address, address);
    }

    #[tokio::test]
    async fn what_is_handed_over_and_is_no_such_socket_is_refused() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "fd 3 is not a socket");
        let mut handed_over = HandedOver([("http".to_owned(), Err(error))].into());
        let refused = Listener::open(Service::Http, &endpoint("127.0.0.1", 0, false), &mut handed_over).unwrap_err();
        let expect = "failed to start HTTP service: Unavailable - the socket handed over as 'http' cannot be used: fd 3 is not a socket";
        assert_eq!(refused.to_string(), expect);
    }

    #[tokio::test]
    async fn a_taken_port_is_refused_with_its_address() {
        let first = open(&endpoint("127.0.0.1", 0, false)).unwrap();
        let port = first.address.port();
        let taken = endpoint("127.0.0.1", port, false);
        let metrics = Listener::open(Service::Metrics, &taken, &mut HandedOver::default()).unwrap_err();
        assert!(metrics.to_string().starts_with("failed to start Metrics service: Unavailable - "), "{metrics}");
        let expect = format!("failed to start HTTP service: Unavailable - Socket '127.0.0.1:{port}' already in use");
        assert_eq!(open(&endpoint("127.0.0.1", port, false)).unwrap_err(), expect);
    }

    #[tokio::test]
    async fn a_port_can_be_shared_by_those_who_say_so() {
        let first = open(&endpoint("127.0.0.1", 0, true)).unwrap();
        let second = open(&endpoint("127.0.0.1", first.address.port(), true)).unwrap();
        assert_eq!(first.address, second.address);
    }

    #[tokio::test]
    async fn numbers_of_both_kinds_and_names_are_addresses() {
        for address in ["::1", "[::1]", "localhost"] {
            // A machine without IPv6 refuses with a reason; what must not happen is that the text is not understood.
            match open(&endpoint(address, 0, false)) {
                Ok(listener) => assert!(listener.address.ip().is_loopback()),
                Err(error) => assert!(error.contains("cannot be opened"), "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn an_address_that_is_not_ours_is_refused_with_the_reason() {
        let error = open(&endpoint("192.0.2.1", 0, false)).unwrap_err();
        assert!(
            error.starts_with("failed to start HTTP service: Unavailable - Socket '192.0.2.1:0' cannot be"),
            "{error}"
        );
    }
}
