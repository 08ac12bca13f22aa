//! `triton-operator up`: the resources of some files, brought up on this machine and kept as the files say. The same compile
//! step and the same agent as in a cluster; one process per server.

mod args;
pub(crate) mod child;
mod config_maps;
mod desired;
mod files;
mod find;
mod flags;
mod log;
mod ports;
mod process;
mod report;
mod screen;
mod server;
mod servers;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use triton_agent::source::{AddressRule, Mounts, Places};

pub(crate) use self::args::UpArgs;
use self::{
    desired::{Complaint, desire},
    files::Files,
    ports::Ports,
    process::Stop,
    report::Reporter,
    screen::Screen,
    server::Common,
    servers::Servers,
};

/// How often the table is painted while things change.
const REPAINT: Duration = Duration::from_millis(100);

/// Brings everything up and returns after it was taken down again.
pub(crate) fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    if args.verbose {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start")?;
    let done = runtime.block_on(up(args));
    // a download on its way is of no use to anybody now
    runtime.shutdown_background();
    done
}

async fn up(args: UpArgs) -> anyhow::Result<ExitCode> {
    let UpArgs {
        files,
        tritonserver,
        state_dir,
        address,
        http_port,
        grpc_port,
        metrics_port,
        config_maps,
        volumes,
        secrets,
        log_size_limit,
        verbose,
        server_flags,
    } = args;
    let mut signals = Signals::install()?;
    flags::check(&server_flags).map_err(anyhow::Error::msg)?;
    let program = find::server_program(tritonserver.as_deref())?;
    let files = Files::open(files);
    let outcome = desire(files.texts(), &std::collections::BTreeMap::new());
    let mut not_needed = outcome.not_needed;
    let Some(desired) = outcome.desired.filter(|_| outcome.complaints.is_empty()) else {
        bail!("nothing was brought up:\n{}", listed(&outcome.complaints).join("\n"));
    };

    let (state_dir, _temporary) = state_folder(state_dir)?;
    let named = |folders: Vec<(String, PathBuf)>, flag: &'static str| Mounts {
        named: folders.into_iter().collect(),
        given_by: Some(flag),
        ..Mounts::default()
    };
    let common = Common {
        program,
        flags: server_flags,
        places: Places {
            config_maps: Mounts {
                below: config_maps,
                given_by: Some("--config-maps DIR, as DIR/NAME, or write it into the files"),
                ..Mounts::default()
            },
            volumes: named(volumes, "--volume NAME=DIR"),
            secrets: named(secrets, "--secret NAME=DIR, or write it into the files"),
            // what listens on the user's own machine is his
            addresses: Arc::new(AddressRule::with_loopback()),
            ..Places::default()
        },
        is_verbose: verbose,
        log_size_limit,
        state_dir,
    };
    let ports = Ports { address, http: http_port, grpc: grpc_port, metrics: metrics_port };
    let (mut servers, mut events) = Servers::new(common, ports);
    let (mut screen, mut reporter) = (Screen::new(verbose), Reporter::default());
    let mut is_well = true;

    let notes = servers.apply(desired);
    if let Some(error) = notes.errors.first() {
        servers.stop(Stop::Now).await;
        bail!("{error}");
    }
    screen.say(&notes.lines, &[]);
    screen.say(&report::not_needed(&not_needed), &[]);
    let (sender, mut changes) = mpsc::channel(1);
    let follower = tokio::spawn(files.follow(sender));
    loop {
        let views = servers.views();
        let table = report::table(&views, screen.size());
        screen.show(&reporter.changes(&views), &table);
        let changed = servers.changed();
        tokio::select! {
            biased; // what happened is reported before what came of it
            () = signals.received() => break,
            Some((object, event)) = events.recv() => {
                screen.say(&report::event(&server::title(&object), &event), &table);
            }
            Some(texts) = changes.recv() => {
                let outcome = desire(&texts, &servers.manifests());
                let mut lines = listed(&outcome.complaints);
                if outcome.not_needed != not_needed {
                    not_needed = outcome.not_needed;
                    lines.extend(report::not_needed(&not_needed));
                }
                match outcome.desired {
                    Some(desired) => {
                        let is_partly = !lines.is_empty();
                        let notes = servers.apply(desired);
                        if is_partly {
                            lines.push("the rest of the files is applied; what is wrong keeps its last good form".to_owned());
                        } else {
                            lines.push("the files changed and are applied".to_owned());
                        }
                        lines.extend(notes.lines);
                        lines.extend(notes.errors);
                    }
                    None => lines.push("the files are not applied: what runs stays as it is".to_owned()),
                }
                screen.say(&lines, &table);
            }
            Some((object, ended_well)) = servers.left() => {
                is_well &= ended_well;
                screen.say(&[format!("{}: stopped", server::title(&object))], &table);
            }
            () = changed => tokio::time::sleep(REPAINT).await,
        }
    }

    follower.abort();
    screen.say(&["Stopping: requests under way are finished; once more to stop at once".to_owned()], &[]);
    let stopper = servers.stopper();
    let stopped = servers.stop(Stop::Drain);
    tokio::pin!(stopped);
    is_well &= tokio::select! {
        ended_well = &mut stopped => ended_well,
        () = signals.received() => {
            stopper.now();
            stopped.await
        }
    };
    while let Ok((object, event)) = events.try_recv() {
        screen.say(&report::event(&server::title(&object), &event), &[]);
    }
    screen.say(&["Stopped".to_owned()], &[]);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn listed(complaints: &[Complaint]) -> Vec<String> {
    complaints.iter().map(ToString::to_string).collect()
}

/// Where models and logs go. A temporary folder is gone when the second part is dropped.
fn state_folder(given: Option<PathBuf>) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(folder) = given {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize().with_context(|| format!("cannot use {}", folder.display()))?;
        return Ok((folder, None));
    }
    let folder = tempfile::Builder::new().prefix("triton-operator-").tempdir().context("cannot make a folder")?;
    Ok((folder.path().to_owned(), Some(folder)))
}

/// The signals that end us.
struct Signals([Signal; 3]);

impl Signals {
    fn install() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let [interrupt, terminate, hangup] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self([listen(interrupt)?, listen(terminate)?, listen(hangup)?]))
    }

    async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
