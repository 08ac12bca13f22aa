//! A port for each server, opened and closed as the routes say, and the connections that come in there.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use operator_core::activator::{Demand, Route, Routes, SERVER_PORTS, ServerDemand};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

use super::{
    connection,
    forward::Forward,
    hold::{Gate, Limits, Shared},
};

/// Before a port is tried again that could not be opened: another server may have had it a moment ago.
const PAUSE: Duration = Duration::from_millis(500);
/// The ports of all servers.
#[derive(Debug)]
pub(super) struct Listeners {
    address: IpAddr,
    forward: Forward,
    pub(super) shared: Arc<Shared>,
    servers: Mutex<HashMap<String, Listening>>,
    closing: watch::Sender<bool>,
    has_routes: AtomicBool,
}

/// The port of one server.
#[derive(Debug)]
struct Listening {
    port: u16,
    route: watch::Sender<Option<Route>>,
    gate: Arc<Gate>,
    is_open: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        self.route.send_replace(None);
    }
}

impl Listeners {
    /// Listens for nobody yet.
    pub(super) fn new(address: IpAddr, limits: Limits, forward: Forward) -> Self {
        Self {
            address,
            forward,
            shared: Arc::new(Shared::new(limits)),
            servers: Mutex::default(),
            closing: watch::channel(false).0,
            has_routes: AtomicBool::new(false),
        }
    }

    /// From now on exactly these servers are listened for.
    pub(super) fn set(&self, routes: Routes) {
        let mut servers = self.servers();
        servers.retain(|uid, listening| routes.servers.get(uid).is_some_and(|route| route.port == listening.port));
        for (uid, route) in routes.servers {
            match servers.get(&uid) {
                Some(listening) => drop(listening.route.send_replace(Some(route))),
                None if !SERVER_PORTS.contains(&route.port) => {
                    tracing::warn!(port = route.port, server = route.name, "no port for a server: nothing is opened");
                }
                None => drop(servers.insert(uid, self.open(route))),
            }
        }
        self.shared.counts.servers.set(i64::try_from(servers.len()).unwrap_or(i64::MAX));
        drop(servers);
        self.has_routes.store(true, Ordering::Relaxed);
        self.shared.changed();
    }

    /// Whether routes were read, and no end was asked for.
    pub(super) fn is_ready(&self) -> bool {
        self.has_routes.load(Ordering::Relaxed)
    }

    /// What is listened for and what of it is wanted.
    pub(super) fn demand(&self) -> Demand {
        let demand = |listening: &Listening| {
            let route = listening.route.borrow();
            let Route { namespace, name, .. } = route.as_ref()?;
            let is_wanted = listening.gate.is_wanted();
            Some(ServerDemand { namespace: namespace.clone(), name: name.clone(), is_wanted })
        };
        let servers = self.servers();
        let open = servers.iter().filter(|(_, listening)| listening.is_open.load(Ordering::Relaxed));
        let all: BTreeMap<_, _> = open.filter_map(|(uid, listening)| Some((uid.clone(), demand(listening)?))).collect();
        Demand { servers: all }
    }

    /// Takes no more connections; those there are end once nothing is under way on them.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits until no connection is left.
    pub(super) async fn closed(&self) {
        let all = u32::try_from(self.shared.limits.connections).unwrap_or(u32::MAX);
        let _ = self.shared.connections.acquire_many(all).await;
    }

    fn open(&self, route: Route) -> Listening {
        let (port, server) = (route.port, format!("{}/{}", route.namespace, route.name));
        let (sender, receiver) = watch::channel(Some(route));
        let gate = Arc::new(Gate::new(server, Arc::clone(&self.shared), receiver));
        let is_open = Arc::new(AtomicBool::new(false));
        let accepting = accept(
            SocketAddr::new(self.address, port),
            Arc::clone(&gate),
            self.forward.clone(),
            self.closing.subscribe(),
            Arc::clone(&is_open),
        );
        let task = tokio::spawn(accepting).abort_handle();
        Listening { port, route: sender, gate, is_open, task }
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<String, Listening>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(
    address: SocketAddr,
    gate: Arc<Gate>,
    forward: Forward,
    mut closing: watch::Receiver<bool>,
    is_open: Arc<AtomicBool>,
) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(%address, %error, server = gate.server, "cannot listen");
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    is_open.store(true, Ordering::Relaxed);
    gate.shared.changed();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match accepted {
            Ok((stream, _)) => take(stream, &gate, &forward, &closing),
            // out of files: those that are open will be closed
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Serves a connection, if there may be one more.
fn take(stream: TcpStream, gate: &Arc<Gate>, forward: &Forward, closing: &watch::Receiver<bool>) {
    let of_server = Arc::clone(&gate.connections).try_acquire_owned();
    let of_all = Arc::clone(&gate.shared.connections).try_acquire_owned();
    let (Ok(of_server), Ok(of_all)) = (of_server, of_all) else {
        gate.shared.counts.ended("too_many_connections");
        let _ = stream.try_write(too_many().as_bytes());
        return;
    };
    let (gate, forward, closing) = (Arc::clone(gate), forward.clone(), closing.clone());
    tokio::spawn(async move {
        let _permits = (of_server, of_all);
        let shared = Arc::clone(&gate.shared);
        shared.counts.connections.inc();
        let _count = Counted(shared);
        connection::serve(stream, gate, forward, closing).await;
    });
}

/// What a connection gets that is one too many. A gRPC client takes it for what it is as well: the server is not available.
fn too_many() -> String {
    let body = r#"{"error":"the activator has as many connections as it takes: use fewer, or raise its --max-connections-per-server or --max-connections"}"#;
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Counts a connection off when it ends, however it ends.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counts.connections.dec();
    }
}
