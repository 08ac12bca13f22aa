//! SIGINT and SIGTERM: the first one starts the exit, later ones change nothing.
//!
//! SIGPIPE needs no care: the runtime of the language ignores it before `main`, and writes report the closed pipe.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the server. Once made, they no longer kill the process, even after this is dropped.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over. Call it within the runtime.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for one of them and gives its number.
    pub(crate) async fn received(&mut self) -> i32 {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        kind.as_raw_value()
    }
}
