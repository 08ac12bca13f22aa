//! One server brought up: its folder, its agent, its process. A change of models goes to the agent, a change of settings to
//! the process.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::Context;
use operator_core::{Manifest, ObjectRef, names::DEFAULT_NAMESPACE};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};
use triton_agent::{Agent, Settings, source::Places};

use super::{
    config_maps,
    desired::WantedServer,
    log::Log,
    ports::Ports,
    process::{Event, Launch, Startup, Status, Stop, Supervisor},
    report::View,
};

/// What all servers have in common.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    /// The server program.
    pub(crate) program: PathBuf,
    /// Flags from the command line.
    pub(crate) flags: Vec<String>,
    /// Folders given on the command line.
    pub(crate) places: Places,
    /// Show what servers write.
    pub(crate) is_verbose: bool,
    /// Most bytes of a file of a server's messages, 0 for any number.
    pub(crate) log_size_limit: u64,
    /// Where each server gets its folder.
    pub(crate) state_dir: PathBuf,
}

/// A server that was brought up.
pub(crate) struct Server {
    /// Its place among the servers, which decides its ports.
    pub(crate) place: usize,
    title: String,
    ports: Ports,
    common: Common,
    config_maps: config_maps::Folder,
    secrets: config_maps::Folder,
    agent: Arc<Agent>,
    manifests: watch::Sender<Arc<Manifest>>,
    startup: watch::Sender<Startup>,
    launch: watch::Sender<Launch>,
    stop: watch::Sender<Stop>,
    status: watch::Receiver<Status>,
    process: JoinHandle<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Brings it up; it is ready some time later. `events` gets its events, `changes` a notification when the view may
    /// be another one.
    pub(crate) fn start(
        object: &ObjectRef,
        wanted: &WantedServer,
        common: &Common,
        (place, ports): (usize, Ports),
        events: &mpsc::UnboundedSender<(ObjectRef, Event)>,
        changes: &Arc<Notify>,
    ) -> anyhow::Result<Self> {
        let title = title(object);
        let folder = common.state_dir.join(format!("{}.{}", object.namespace, object.name));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut config_maps =
            config_maps::Folder::new(folder.join("config-maps")).context("cannot lay out ConfigMaps")?;
        config_maps.write(&wanted.config_maps).context("cannot lay out ConfigMaps")?;
        let mut secrets = config_maps::Folder::new(folder.join("secrets")).context("cannot lay out Secrets")?;
        secrets.write(&wanted.secrets).context("cannot lay out Secrets")?;
        let mut settings = Settings::new(folder.join("agent"), ports.http_address());
        settings.places = common.places.clone();
        settings.places.config_maps.below.insert(0, config_maps.path().to_owned());
        settings.places.secrets.below.insert(0, secrets.path().to_owned());
        // a sign of life, and ConfigMaps edited in a folder of the user's
        settings.look_again = std::time::Duration::from_secs(1);

        // whoever brings it up again may have given the machine more memory meanwhile
        match fs::remove_file(&settings.attempts) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", settings.attempts.display()));
            }
            _ => {}
        }
        let (manifests, watched_manifests) = watch::channel(Arc::new(wanted.manifest.clone()));
        let agent =
            Arc::new(Agent::start(settings, watched_manifests).map_err(|fault| anyhow::anyhow!("{}", fault.message))?);
        agent.clear_removed(&wanted.manifest).map_err(|fault| anyhow::anyhow!("{}", fault.message))?;

        let prefix = common.is_verbose.then(|| format!("{title} | "));
        let log = Log::create(&folder.join("server.log"), common.log_size_limit, prefix)
            .context("cannot write the server's log")?;
        let (startup, watched_startup) = watch::channel(startup(wanted));
        let (launch, watched_launch) = watch::channel(launch(wanted, common, ports));
        let (stop, watched_stop) = watch::channel(Stop::No);
        let (status_sender, status) = watch::channel(Status::Waiting);
        let (own_events, mut inbox) = mpsc::unbounded_channel();
        let supervisor = Supervisor {
            agent: Arc::clone(&agent),
            launch: watched_launch,
            startup: watched_startup,
            stop: watched_stop,
            status: status_sender,
            events: own_events,
            log,
        };
        let (events, object) = (events.clone(), object.clone());
        let forward = tokio::spawn(async move {
            while let Some(event) = inbox.recv().await {
                let _ = events.send((object.clone(), event)); // the receiver outlives all servers
            }
        });
        let tasks = vec![forward, sign(agent.state(), changes), sign(status.clone(), changes)];
        let process = tokio::spawn(supervisor.run());
        let common = common.clone();
        Ok(Self {
            place,
            title,
            ports,
            common,
            config_maps,
            secrets,
            agent,
            manifests,
            startup,
            launch,
            stop,
            status,
            process,
            tasks,
        })
    }

    /// Makes it as wanted.
    pub(crate) fn apply(&mut self, wanted: &WantedServer) -> anyhow::Result<()> {
        self.config_maps.write(&wanted.config_maps).context("cannot lay out ConfigMaps")?;
        self.secrets.write(&wanted.secrets).context("cannot lay out Secrets")?;
        replace(&self.manifests, |current| current.hash != wanted.manifest.hash, || Arc::new(wanted.manifest.clone()));
        let (startup, launch) = (startup(wanted), launch(wanted, &self.common, self.ports));
        replace(&self.startup, |current| *current != startup, || startup.clone());
        replace(&self.launch, |current| *current != launch, || launch.clone());
        Ok(())
    }

    /// The manifest it was last given.
    pub(crate) fn manifest(&self) -> Manifest {
        Manifest::clone(&self.manifests.borrow())
    }

    /// Its view for the user.
    pub(crate) fn view(&self) -> View {
        View {
            title: self.title.clone(),
            ports: self.ports,
            status: *self.status.borrow(),
            state: self.agent.state().borrow().clone(),
            manifest_hash: self.manifests.borrow().hash.clone(),
        }
    }

    /// A way to end it.
    pub(crate) fn stopper(&self) -> watch::Sender<Stop> {
        self.stop.clone()
    }

    /// Waits for its end, after it was asked to. `true` if it ended as asked.
    pub(crate) async fn ended(mut self) -> bool {
        let is_well = (&mut self.process).await.unwrap_or(false);
        for task in &self.tasks {
            task.abort();
        }
        self.secrets.remove(); // the files have them, and a folder that is kept need not
        is_well
    }
}

/// How a server is called: its name, with the namespace if that is not the usual one.
pub(crate) fn title(object: &ObjectRef) -> String {
    if object.namespace == DEFAULT_NAMESPACE {
        object.name.clone()
    } else {
        format!("{}/{}", object.namespace, object.name)
    }
}

fn startup(wanted: &WantedServer) -> Startup {
    Startup { required: wanted.manifest.required(), manifest_hash: wanted.manifest.hash.clone() }
}

fn launch(wanted: &WantedServer, common: &Common, ports: Ports) -> Launch {
    let flags = wanted.settings.flags().into_iter().chain(common.flags.iter().cloned()).collect();
    let exit_timeout = wanted.settings.exit_timeout;
    Launch { program: common.program.clone(), flags, env: wanted.env.clone(), ports, exit_timeout }
}

fn replace<T>(sender: &watch::Sender<T>, is_other: impl Fn(&T) -> bool, new: impl FnOnce() -> T) {
    sender.send_if_modified(|current| {
        let is_other = is_other(current);
        if is_other {
            *current = new();
        }
        is_other
    });
}

/// Gives a sign whenever the value changes.
fn sign<T: Send + Sync + 'static>(mut receiver: watch::Receiver<T>, changes: &Arc<Notify>) -> JoinHandle<()> {
    let changes = Arc::clone(changes);
    tokio::spawn(async move {
        while receiver.changed().await.is_ok() {
            changes.notify_one();
        }
    })
}
