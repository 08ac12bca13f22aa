//! What the measuring programs share: the address argument, and a runtime like the server's.

use std::{env, io, net::SocketAddr, num::NonZeroUsize, thread::available_parallelism};

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

/// Reads the one argument `ADDRESS:PORT` of an echo program.
pub fn address() -> Result<SocketAddr> {
    let text = env::args().nth(1).context("usage: PROGRAM ADDRESS:PORT")?;
    text.parse().with_context(|| format!("'{text}' is not ADDRESS:PORT"))
}

/// Threads and switches as `tritonserver` has them, so that a comparison compares what is done and not on how many threads.
pub fn runtime() -> io::Result<Runtime> {
    let threads = available_parallelism().map_or(1, NonZeroUsize::get);
    Builder::new_multi_thread().worker_threads(threads).thread_name("echo").enable_all().build()
}
