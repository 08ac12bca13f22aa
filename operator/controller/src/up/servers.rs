//! All servers that run here: brought up, changed and ended as the files want. One that ends keeps its place until it is
//! gone, so that what comes after it finds ports and folder free.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use operator_core::{Manifest, ObjectRef};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

use super::{
    desired::{Desired, WantedServer},
    ports::Ports,
    process::{Event, Stop},
    report::View,
    server::{Common, Server, title},
};

/// The servers that run, and those that are ending.
pub(crate) struct Servers {
    common: Common,
    ports: Ports,
    desired: Desired,
    servers: BTreeMap<ObjectRef, Server>,
    /// How to stop those that are ending at once, with their places.
    leaving: BTreeMap<ObjectRef, (usize, watch::Sender<Stop>)>,
    leavers: JoinSet<(ObjectRef, bool)>,
    events: mpsc::UnboundedSender<(ObjectRef, Event)>,
    changes: Arc<Notify>,
}

/// What to report after a change.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Worth knowing.
    pub(crate) lines: Vec<String>,
    /// What could not be done.
    pub(crate) errors: Vec<String>,
}

/// Stops every server at once.
pub(crate) struct Stopper(Vec<watch::Sender<Stop>>);

impl Servers {
    /// An empty one, and the events of its servers.
    pub(crate) fn new(common: Common, ports: Ports) -> (Self, mpsc::UnboundedReceiver<(ObjectRef, Event)>) {
        let (events, inbox) = mpsc::unbounded_channel();
        let servers = Self {
            common,
            ports,
            desired: Desired::default(),
            servers: BTreeMap::new(),
            leaving: BTreeMap::new(),
            leavers: JoinSet::new(),
            events,
            changes: Arc::new(Notify::new()),
        };
        (servers, inbox)
    }

    /// Makes everything as desired from now on.
    pub(crate) fn apply(&mut self, desired: Desired) -> Notes {
        let mut notes = Notes::default();
        for (object, wanted) in &desired.servers {
            let before = self.desired.servers.get(object);
            notes.lines.extend(remarks(object, wanted, before));
        }
        self.desired = desired;
        notes.errors = self.settle();
        notes
    }

    /// The manifest each server was last given.
    pub(crate) fn manifests(&self) -> BTreeMap<ObjectRef, Manifest> {
        self.servers.iter().map(|(object, server)| (object.clone(), server.manifest())).collect()
    }

    /// The view of every server.
    pub(crate) fn views(&self) -> Vec<View> {
        self.servers.values().map(Server::view).collect()
    }

    /// Waits until a view may have changed.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> + use<> {
        Arc::clone(&self.changes).notified_owned()
    }

    /// Waits until a server that had to go is gone: which, and whether it ended as asked; `None` if none has to go.
    pub(crate) async fn left(&mut self) -> Option<(ObjectRef, bool)> {
        let (object, is_well) = self.leavers.join_next().await?.ok()?;
        self.leaving.remove(&object);
        for error in self.settle() {
            tracing::error!(error);
        }
        Some((object, is_well))
    }

    /// What ends a stop under way at once.
    pub(crate) fn stopper(&self) -> Stopper {
        let leaving = self.leaving.values().map(|(_, stop)| stop.clone());
        Stopper(self.servers.values().map(Server::stopper).chain(leaving).collect())
    }

    /// Ends everything. `true` if all ended as asked.
    pub(crate) async fn stop(mut self, how: Stop) -> bool {
        self.desired = Desired::default();
        let stopper = self.stopper();
        self.settle();
        if how == Stop::Now {
            stopper.now();
        }
        let mut is_well = true;
        while let Some(left) = self.leavers.join_next().await {
            is_well &= left.is_ok_and(|(_, is_well)| is_well);
        }
        is_well
    }

    /// Starts, changes and ends servers. What cannot be done is returned and tried again with the next change.
    fn settle(&mut self) -> Vec<String> {
        let mut errors = Vec::new();
        let runs = |object: &ObjectRef| self.desired.servers.get(object).is_some_and(|wanted| !wanted.is_suspended);
        let gone: Vec<ObjectRef> = self.servers.keys().filter(|object| !runs(object)).cloned().collect();
        for object in gone {
            let Some(server) = self.servers.remove(&object) else { continue };
            let stop = server.stopper();
            stop.send_replace(Stop::Drain);
            self.leaving.insert(object.clone(), (server.place, stop));
            self.leavers.spawn(async move { (object, server.ended().await) });
        }
        for (object, wanted) in self.desired.servers.iter().filter(|(_, wanted)| !wanted.is_suspended) {
            let done = match self.servers.get_mut(object) {
                Some(server) => server.apply(wanted),
                None if self.leaving.contains_key(object) => Ok(()),
                None => self.start(object, wanted).map(|server| {
                    self.servers.insert(object.clone(), server);
                }),
            };
            if let Err(error) = done {
                errors.push(format!("{}: {error:#}", title(object)));
            }
        }
        errors
    }

    fn start(&self, object: &ObjectRef, wanted: &WantedServer) -> anyhow::Result<Server> {
        let taken: BTreeSet<usize> = self
            .servers
            .values()
            .map(|server| server.place)
            .chain(self.leaving.values().map(|(place, _)| *place))
            .collect();
        let place = (0..).find(|place| !taken.contains(place)).unwrap_or(taken.len());
        let ports = self.ports.in_place(place)?;
        ports.check()?;
        Server::start(object, wanted, &self.common, (place, ports), &self.events, &self.changes)
    }
}

impl Stopper {
    /// Ends every server at once.
    pub(crate) fn now(&self) {
        for stop in &self.0 {
            stop.send_replace(Stop::Now);
        }
    }
}

/// Settings of a server that mean something else on one machine.
fn remarks(object: &ObjectRef, wanted: &WantedServer, before: Option<&WantedServer>) -> Vec<String> {
    let title = title(object);
    let mut lines = Vec::new();
    if wanted.is_suspended && before.is_none_or(|before| !before.is_suspended) {
        lines.push(format!("{title}: is suspended and does not run"));
    }
    if !wanted.unset_env.is_empty() && before.is_none_or(|before| before.unset_env != wanted.unset_env) {
        let names = wanted.unset_env.join(", ");
        lines.push(format!(
            "{title}: {names} would get a value from the cluster and is not set here; set it in the shell"
        ));
    }
    if wanted.is_encrypted && before.is_none_or(|before| !before.is_encrypted) {
        lines.push(format!("{title}: spec.tls is for clusters: its ports are not encrypted here"));
    }
    if wanted.gpus > 0 && before.is_none_or(|before| before.gpus != wanted.gpus) && !has_gpu() {
        lines.push(format!(
            "{title}: asks for {} GPU, and this machine shows none: models made for one run on the CPU",
            wanted.gpus
        ));
    }
    lines
}

fn has_gpu() -> bool {
    let gpus = Path::new("/proc/driver/nvidia/gpus");
    gpus.read_dir().is_ok_and(|mut gpus| gpus.next().is_some())
        || Path::new("/dev/nvidia0").exists()
        || Path::new("/dev/dxg").exists()
}
