//! The agent beside its server: from the manifest's file to the library's agent, from the agent's state to the start-up set
//! and to whoever asks. It ends with SIGTERM; what the server serves then is left as it is.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use operator_core::{manifest::Manifest, pod};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};
use tracing_subscriber::EnvFilter;
use triton_agent::{
    Agent, Settings,
    disk::DiskLimits,
    manifest::{follow, read},
    source::{AddressRule, Mounts, Places},
    traces::Traces,
};

use super::{
    adopts,
    args::RunArgs,
    http::{self, Published},
    launch,
    notices::{self, Notice},
    replica_slot::ReplicaSlot,
    startup::Startup,
};

/// How often the manifest's file is looked at, and the server: it may have been started anew. A ConfigMap is replaced by
/// swapping a link, which needs no watch to see.
const LOOK: Duration = Duration::from_secs(1);

/// How long spans that wait may take to be sent at the end.
const TRACES_LIMIT: Duration = Duration::from_secs(2);

const CANNOT_NOTE: &str = "cannot note the models to start with";

/// Works until a signal ends it.
///
/// Errors: the port, the folder or the log filter cannot be used.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log).with_context(|| format!("'{}' is no filter for logs", args.log))?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener =
            TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?;
        let (crashes, counted) = watch::channel(0);
        let (inbox, noticed) = mpsc::unbounded_channel();
        match notices::listen(&args.launcher_socket) {
            Ok(listener) => drop(tokio::spawn(notices::hear(listener, crashes.clone(), inbox))),
            // the server starts all the same; a model that crashes it is tried again each time
            Err(error) => {
                tracing::warn!(path = %args.launcher_socket.display(), %error, "cannot hear of the server's starts and ends");
            }
        }
        let traces = Arc::<Traces>::default();
        let done = tokio::select! {
            result = work(args, listener, counted, noticed, Arc::clone(&traces)) => result,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        traces.close(TRACES_LIMIT).await;
        done
    });
    // work on disk that hangs must not keep the process
    runtime.shutdown_background();
    done
}

/// Does everything; returns only when something cannot go on.
async fn work(
    args: RunArgs,
    listener: TcpListener,
    mut crashes: watch::Receiver<u32>,
    mut notices: mpsc::UnboundedReceiver<Notice>,
    traces: Arc<Traces>,
) -> anyhow::Result<()> {
    let blind = || "no manifest has been read yet".to_owned();
    let (published, seen) = watch::channel(Published { state: Err(blind()), missing: Err(blind()) });
    tokio::spawn(http::serve(listener, seen));

    let manifest = first(&args.manifest, &published).await;
    tracing::info!(server = manifest.server, models = manifest.models.len(), "following the manifest");
    let (sender, manifests) = watch::channel(Arc::new(manifest));
    tokio::spawn(follow(args.manifest.clone(), LOOK, sender));
    let adopted = args.adopt.clone().map(|path| {
        let (sender, adopted) = watch::channel(adopts::read(&path).unwrap_or_default()); // what is wrong is said by who follows it
        tokio::spawn(adopts::follow(path, LOOK, sender));
        adopted
    });

    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut startup = Startup::open(&args.root, &host);
    let slot = args.store.as_deref().map(|store| ReplicaSlot::take(store, &args.root, &host)).transpose()?;
    let folder = slot.as_ref().map_or(args.root.as_path(), ReplicaSlot::folder);
    tracing::info!(folder = %folder.display(), "keeping models");
    let held = slot.as_ref().map(ReplicaSlot::held);
    let mut lost = tokio::spawn(async move {
        match held {
            Some(held) => held.await,
            None => std::future::pending().await,
        }
    });
    let agent = Agent::start(Settings { adopts: adopted, traces, ..settings(&args, folder) }, manifests)?;
    let (mut states, mut following) = (agent.state(), agent.following());
    let begun = Instant::now();
    loop {
        let mut state = states.borrow_and_update().clone();
        state.server_crashes = *crashes.borrow_and_update();
        state.last_crash = launch::last_crash(&args.launcher_socket).filter(|_| state.server_crashes > 0);
        following.mark_unchanged();
        let missing = startup.follow(&agent.required(), begun.elapsed()).context(CANNOT_NOTE)?;
        published.send_replace(Published { state: Ok(state), missing: Ok(missing) });
        tokio::select! {
            changed = states.changed() => changed.context("the agent's work broke off")?,
            changed = following.changed() => changed.context("the manifest is no longer followed")?,
            () = tokio::time::sleep(LOOK), if startup.is_waiting() => {}
            Some(notice) = notices.recv() => match notice {
                Notice::Starting(done) => {
                    tokio::task::block_in_place(|| agent.server_starting());
                    if !startup.is_waiting() {
                        // what ended the last process is not in the set for the next
                        startup.follow(&agent.required(), begun.elapsed()).context(CANNOT_NOTE)?;
                    }
                    let _ = done.send(()); // it does not wait for ever
                }
                Notice::Left => agent.server_left(),
            },
            changed = crashes.changed() => changed.context("crashes are no longer counted")?,
            _ = &mut lost => anyhow::bail!("another pod has taken the place of this one in the store"),
        }
    }
}

/// The manifest, once there is one that can be read.
async fn first(path: &Path, published: &watch::Sender<Published>) -> Manifest {
    let mut last = String::new();
    loop {
        match read(path) {
            Ok(manifest) => return manifest,
            Err(error) => {
                let error = error.to_string();
                if error != last {
                    tracing::error!(%error, "waiting for a manifest");
                    published.send_replace(Published { state: Err(error.clone()), missing: Err(error.clone()) });
                    last = error;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn settings(args: &RunArgs, folder: &Path) -> Settings {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let below = |folder: &PathBuf| Mounts { below: vec![folder.clone()], ..Mounts::default() };
    let mut settings = Settings::new(folder, args.server.clone());
    settings.look_again = LOOK;
    settings.shared.clone_from(&args.store);
    // without a claim, models are on the node's disk
    settings.disk = DiskLimits { limit: args.store_limit, is_of_node: args.store.is_none() };
    // with the pod: another pod may have more memory than this one
    settings.attempts = args.root.join("attempts.json");
    settings.places = Places {
        config_maps: below(&args.config_maps),
        volumes: below(&args.volumes),
        secrets: below(&args.secrets),
        addresses: Arc::new(AddressRule::of_pod(&variable(pod::POD_IPS), &variable(pod::HOST_IPS))),
        ..Places::default()
    };
    settings
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        net::SocketAddr,
    };

    use crds::parts::{
        load::{LoadOrder, Readiness},
        source::Layout,
    };
    use operator_core::manifest::{ManifestConfig, ManifestLoad, ManifestModel, ManifestSource, Precedence};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn model(name: &str, readiness: Readiness, source: ManifestSource) -> ManifestModel {
        ManifestModel {
            name: name.to_owned(),
            resource: name.to_owned(),
            source,
            checksum: None,
            layout: Layout::Auto,
            format: None,
            config: ManifestConfig {
                text: format!("name: \"{name}\"\nbackend: \"python\"\nmax_batch_size: 0\n"),
                precedence: Precedence::Whole,
                fields: Vec::new(),
                backend: None,
                platform: None,
            },
            readiness,
            load: ManifestLoad {
                timeout: Duration::from_secs(60).into(),
                retries: 0,
                backoff: Duration::from_secs(1).into(),
                fetch_timeout: None,
                order: LoadOrder::default(),
                settle_time: None,
            },
            gpu_memory: None,
            retry: None,
            rollout: None,
        }
    }

    fn inline() -> ManifestSource {
        ManifestSource::Inline { files: BTreeMap::from([("1/model.py".to_owned(), "pass".to_owned())]) }
    }

    fn absent() -> ManifestSource {
        ManifestSource::ConfigMap { name: "absent".into(), items: Vec::new(), keys: None }
    }

    /// Puts a manifest where the kubelet would: behind a link that is swapped.
    fn mount(folder: &Path, generation: u32, models: Vec<ManifestModel>) {
        let data = folder.join(format!("..{generation}"));
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("manifest.json"), Manifest::new("ml", "vision", models).to_json()).unwrap();
        let link = folder.join("..data.new");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        fs::rename(link, folder.join("..data")).unwrap();
        if generation == 1 {
            std::os::unix::fs::symlink("..data/manifest.json", folder.join("manifest.json")).unwrap();
        }
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn until(address: SocketAddr, path: &str, says: &str) -> String {
        let all = async {
            loop {
                let answer = get(address, path).await;
                if answer.contains(says) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap_or_else(|_| panic!("{path} never says {says}"))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_server_may_start_once_required_models_are_here_and_the_manifest_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (manifest, root) = (folder.path().join("manifest"), folder.path().join("models"));
        fs::create_dir_all(&manifest).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let args = RunArgs {
            manifest: manifest.join("manifest.json"),
            adopt: None,
            root: root.clone(),
            store: None,
            store_limit: None,
            server: nobody.into(),
            listen: address,
            config_maps: folder.path().to_owned(),
            volumes: folder.path().to_owned(),
            secrets: folder.path().to_owned(),
            launcher_socket: folder.path().join("launcher.sock"),
            log: "off".into(),
        };
        let (crashes, counted) = watch::channel(0);
        let (_notices, noticed) = mpsc::unbounded_channel();
        let working = tokio::spawn(work(args, listener, counted, noticed, Arc::default()));
        until(address, "/staged", "cannot read").await;

        let lost = |readiness| model("lost", readiness, absent());
        mount(&manifest, 1, vec![model("good", Readiness::Required, inline()), lost(Readiness::Required)]);
        until(address, "/staged", "not here yet: lost").await;
        let state = until(address, "/state", "SourceNotFound").await;
        assert!(state.contains(r#""phase":"Failed""#), "{state}");

        mount(&manifest, 2, vec![model("good", Readiness::Required, inline()), lost(Readiness::Optional)]);
        until(address, "/staged", "HTTP/1.1 200").await;
        assert_eq!(super::super::startup::noted(&root).unwrap(), BTreeSet::from(["good".to_owned()]));
        assert!(root.join("repository/good/1/model.py").is_file());
        crashes.send_replace(2);
        until(address, "/state", r#""serverCrashes":2"#).await;
        working.abort();
    }
}
