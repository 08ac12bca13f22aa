//! The command line. The defaults are the places that the operator gives things in a pod.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use triton_agent::load::Address;

/// Keeps the models of one server as its manifest wants them.
#[derive(Debug, Parser)]
#[command(name = "triton-agent", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch, verify and load models beside a server, for as long as the pod lives
    Run(RunArgs),
    /// Run a server with the models noted for it, and start it again when it crashes
    Launch(LaunchArgs),
    /// Ask a server for its health, for a probe that cannot ask at its ports; ends with 0 if it is well
    Health(HealthArgs),
}

/// Where things are.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// File with the manifest; followed while it changes
    #[arg(long, value_name = "FILE", default_value = "/manifest/manifest.json")]
    pub(crate) manifest: PathBuf,

    /// File with the contents in rollout that this pod may serve, with commas between them; followed while it changes. Without it, all
    /// may be served
    #[arg(long, value_name = "FILE")]
    pub(crate) adopt: Option<PathBuf>,

    /// Folder of the pod for models; the server's repository is DIR/repository
    #[arg(long, value_name = "DIR", default_value = "/models")]
    pub(crate) root: PathBuf,

    /// Folder that outlives the pod and may be shared by replicas: models are kept there, DIR/repository leads to them
    #[arg(long, value_name = "FOLDER")]
    pub(crate) store: Option<PathBuf>,

    /// Bytes that models may take in the pod's folder: more would have the pod evicted
    #[arg(long, value_name = "BYTES")]
    pub(crate) store_limit: Option<u64>,

    /// Control socket of the server, as unix:PATH, or its HTTP address
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/triton/control.sock")]
    pub(crate) server: Address,

    /// Address at which to serve /state, /staged and /healthz
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8003")]
    pub(crate) listen: SocketAddr,

    /// Folder with one folder per ConfigMap
    #[arg(long, value_name = "DIR", default_value = "/sources/configmaps")]
    pub(crate) config_maps: PathBuf,

    /// Folder with one folder per volume claim
    #[arg(long, value_name = "DIR", default_value = "/sources/volumes")]
    pub(crate) volumes: PathBuf,

    /// Folder with one folder per Secret
    #[arg(long, value_name = "DIR", default_value = "/sources/secrets")]
    pub(crate) secrets: PathBuf,

    /// Where to hear from the launcher of the server that it starts, crashed or ended
    #[arg(long, value_name = "SOCKET", default_value = "/tmp/launcher.sock")]
    pub(crate) launcher_socket: PathBuf,

    /// What to log: a level, or levels by module
    #[arg(long, value_name = "FILTER", default_value = "info", env = "TRITON_AGENT_LOG")]
    pub(crate) log: String,
}

/// What to run.
#[derive(Debug, Clone, Args)]
pub(crate) struct LaunchArgs {
    /// The agent's folder
    #[arg(long, value_name = "DIR", default_value = "/models")]
    pub(crate) root: PathBuf,

    /// Where the agent hears that the server starts, crashed or ended
    #[arg(long, value_name = "SOCKET", default_value = "/tmp/launcher.sock")]
    pub(crate) launcher_socket: PathBuf,

    /// Where to listen for the server's HTTP interface
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8000")]
    pub(crate) http: SocketAddr,

    /// Where to listen for its gRPC interface
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8001")]
    pub(crate) grpc: SocketAddr,

    /// Where to listen for its metrics page
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8002")]
    pub(crate) metrics: SocketAddr,

    /// The server and its flags; --load-model is added for each model
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl LaunchArgs {
    /// Where to listen, by the name under which the server takes it over.
    pub(crate) const fn addresses(&self) -> [(&'static str, SocketAddr); 3] {
        [("http", self.http), ("grpc", self.grpc), ("metrics", self.metrics)]
    }
}

/// What to ask.
#[derive(Debug, Clone, Args)]
pub(crate) struct HealthArgs {
    /// Whether it takes requests, or only whether it lives
    #[arg(value_enum)]
    pub(crate) health: Health,

    /// Control socket of the server, as unix:PATH, or its HTTP address
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/triton/control.sock")]
    pub(crate) server: Address,
}

/// How well a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Health {
    /// It takes requests.
    Ready,
    /// Its process serves.
    Live,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use operator_core::{names, pod};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_the_places_in_a_pod() {
        let Command::Run(args) = Cli::try_parse_from(["triton-agent", "run"]).unwrap().command else {
            panic!("run was asked for")
        };
        assert_eq!(args.manifest, PathBuf::from(pod::MANIFEST).join(names::MANIFEST_KEY));
        assert_eq!(args.root.join("repository"), PathBuf::from(pod::REPOSITORY));
        assert_eq!(args.adopt, None);
        assert_eq!((args.root, args.store), (PathBuf::from(pod::MODELS), None));
        assert_eq!(args.server, Address::Socket(pod::CONTROL_SOCKET.into()));
        assert_eq!(args.listen.port(), pod::AGENT_PORT);
        assert_eq!(args.config_maps, PathBuf::from(pod::CONFIG_MAPS));
        assert_eq!(args.volumes, PathBuf::from(pod::CLAIMS));
        assert_eq!(args.secrets, PathBuf::from(pod::SECRETS));
        assert_eq!(args.launcher_socket, PathBuf::from(pod::LAUNCHER_SOCKET));
    }

    #[test]
    fn health_is_asked_for_at_the_control_socket() {
        for (word, health) in [("ready", Health::Ready), ("live", Health::Live)] {
            let Command::Health(args) = Cli::try_parse_from(["triton-agent", "health", word]).unwrap().command else {
                panic!("health was asked for")
            };
            assert_eq!((args.health, args.server), (health, Address::Socket(pod::CONTROL_SOCKET.into())));
        }
    }

    #[test]
    fn the_servers_flags_are_its_own() {
        let cli = Cli::try_parse_from(["triton-agent", "launch", "--", "tritonserver", "--id=a", "--root=b"]).unwrap();
        let Command::Launch(args) = cli.command else { panic!("launch was asked for") };
        let ports = args.addresses().map(|(_, address)| address.port());
        assert_eq!(ports, [pod::HTTP_PORT, pod::GRPC_PORT, pod::METRICS_PORT]);
        assert_eq!(args.launcher_socket, PathBuf::from(pod::LAUNCHER_SOCKET));
        assert_eq!(args.command, ["tritonserver", "--id=a", "--root=b"]);
        assert!(Cli::try_parse_from(["triton-agent", "launch"]).is_err());
    }
}
