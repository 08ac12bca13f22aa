//! The command `health`: how well the server beside us is, asked at its control socket. A kubelet that cannot ask at the ports, which
//! want a certificate of it, has this run inside the server's container.

use std::process::ExitCode;

use anyhow::bail;
use triton_agent::load::Server;

use super::args::{Health, HealthArgs};

/// Asks once.
///
/// Errors: the server is not well, or does not answer.
pub(crate) fn health(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let server = Server::new(args.server.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (is_well, word) = match args.health {
        Health::Ready => (runtime.block_on(server.is_ready()), "ready"),
        Health::Live => (runtime.block_on(server.is_live()), "live"),
    };
    if !is_well {
        bail!("the server at {} is not {word}", args.server);
    }
    Ok(ExitCode::SUCCESS)
}
