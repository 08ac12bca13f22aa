//! The command line: what can be asked, with its defaults. What the words mean is decided where they are used.

use std::{ffi::OsString, net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// Serves machine learning models: on a Kubernetes cluster, or with the same resources on one machine.
#[derive(Debug, Parser)]
#[command(name = "triton-operator", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look after the TritonServers and TritonModels of a Kubernetes cluster
    Run(Box<crate::run::RunArgs>),
    /// Stand in for the servers of a cluster that are at rest: hold their requests until they run
    Activator(Box<crate::activator::ActivatorArgs>),
    /// Bring TritonServers and TritonModels up on this machine, and keep them as the files say until Ctrl-C
    Up(Box<UpArgs>),
    /// Print the custom resource definitions as YAML, for kubectl apply
    Crds,
    /// Ask a model that gives back what it gets until it answers (used by helm test)
    #[command(hide = true)]
    Ask(crate::ask::AskArgs),
    /// Become a server that ends with its parent (used by up)
    #[command(hide = true)]
    Child(ChildArgs),
}

/// Arguments of `up`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Several servers: the first (by namespace and name) takes the ports given, each further one the ports 10 higher.
Files are watched: a change is applied when the file is whole again, a mistake is told and changes nothing.
GPUs, replicas and volumes are the machine's: one process per server runs, claims are folders given with --volume, and
models made for a GPU run on the CPU where there is none (-- --gpu-fallback=none refuses them).")]
pub(crate) struct UpArgs {
    /// File with resources, folder of such files (*.yaml, *.yml, *.json), or - for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,

    /// The server program; by default looked for beside this program and on PATH
    #[arg(long, value_name = "PATH", env = "TRITONSERVER")]
    pub(crate) tritonserver: Option<PathBuf>,

    /// Folder for models and logs, kept for the next time; by default a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Address to listen at
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,

    /// Port of the HTTP protocol; 0 for any free one
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub(crate) http_port: u16,

    /// Port of the gRPC protocol; 0 for any free one
    #[arg(long, value_name = "PORT", default_value_t = 8001)]
    pub(crate) grpc_port: u16,

    /// Port of the metrics; 0 for any free one
    #[arg(long, value_name = "PORT", default_value_t = 8002)]
    pub(crate) metrics_port: u16,

    /// Folder whose subfolders are ConfigMaps, one file per key; ConfigMaps in the files need no folder
    #[arg(long, value_name = "DIR")]
    pub(crate) config_maps: Vec<PathBuf>,

    /// Folder that stands for a PersistentVolumeClaim
    #[arg(long = "volume", value_name = "CLAIM=DIR", value_parser = named_folder)]
    pub(crate) volumes: Vec<(String, PathBuf)>,

    /// Folder that stands for a Secret, one file per key; Secrets in the files need none
    #[arg(long = "secret", value_name = "NAME=DIR", value_parser = named_folder)]
    pub(crate) secrets: Vec<(String, PathBuf)>,

    /// Bytes after which a server's log goes on in the next file, with three kept beside it; 0 for one file of any size
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub(crate) log_size_limit: u64,

    /// Show the servers' own messages, and plain lines in place of the table
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,

    /// Further flags for tritonserver, after --
    #[arg(last = true, value_name = "FLAGS")]
    pub(crate) server_flags: Vec<String>,
}

/// Arguments of a server's process before it becomes the server.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// Process id of the parent to end with
    #[arg(long)]
    pub(crate) parent: u32,
    /// Program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

fn named_folder(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.to_owned(), folder.into())),
        _ => Err("write it as NAME=DIR".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn files_volumes_and_server_flags_are_told_apart() {
        let cli = Cli::try_parse_from([
            "triton-operator",
            "up",
            "-f",
            "a.yaml",
            "b",
            "--volume",
            "models=/data",
            "--",
            "--log-verbose=1",
        ]);
        let Command::Up(up) = cli.unwrap().command else { panic!("up was asked for") };
        assert_eq!(up.files, [PathBuf::from("a.yaml"), PathBuf::from("b")]);
        assert_eq!(up.volumes, [("models".to_owned(), PathBuf::from("/data"))]);
        assert_eq!((up.server_flags.as_slice(), up.http_port), (["--log-verbose=1".to_owned()].as_slice(), 8000));
        assert!(Cli::try_parse_from(["triton-operator", "up"]).is_err());
        assert!(Cli::try_parse_from(["triton-operator", "up", "-f", "a", "--volume", "models"]).is_err());
    }
}
