//! The arguments of `up`, with their defaults.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

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

fn named_folder(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.to_owned(), folder.into())),
        _ => Err("write it as NAME=DIR".to_owned()),
    }
}
