//! What becomes of the traces of requests: files in Triton's own form, or spans that go to an OpenTelemetry collector.
//!
//! Threads of requests hand a trace over and go on; text and spans are made elsewhere. What waits is bounded, and what finds no
//! room is dropped and counted.

#![forbid(unsafe_code)]

mod file;
mod json;
mod spans;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use otlp::Exporter;
use server_core::{
    stats::CustomCounter,
    trace::{Epoch, Finished, TraceSink},
};
use tokio::runtime::Handle;

pub use self::file::Files;

/// A seed for the identities of traces.
///
/// Errors: the system has no random bytes.
pub fn seed() -> std::io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    let mut filled = 0;
    while filled < seed.len() {
        filled += rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(seed)
}

/// The clock of trace files: it counts from the start of the machine and is never set.
fn monotonic() -> Epoch {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let reading = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    Epoch { at: Instant::now(), reading }
}

/// The clock of spans.
fn wall() -> Epoch {
    let reading = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Epoch { at: Instant::now(), reading }
}

/// Where the traces of a server go.
pub enum Traces {
    /// Into files.
    Files(Files),
    /// To a collector.
    Collector(Exporter<Finished>),
}

impl Traces {
    /// Into the file of that name, and those that begin with it. Nothing is opened before there is a trace.
    ///
    /// Errors: no thread can be started.
    pub fn files(path: PathBuf) -> std::io::Result<Arc<Self>> {
        Files::start(path, monotonic()).map(|files| Arc::new(Self::Files(files)))
    }

    /// To a collector.
    ///
    /// Errors: its address is none, or no HTTP client can be made.
    pub fn collector(settings: otlp::Settings, runtime: &Handle) -> Result<Arc<Self>, String> {
        // read anew for each: the clock of the machine may be set
        let exporter = Exporter::start(settings, runtime, |trace| spans::spans(&trace, &wall()))?;
        Ok(Arc::new(Self::Collector(exporter)))
    }

    /// Writes or sends what waits, for as long as that at most.
    pub async fn close(&self, limit: Duration) {
        match self {
            Self::Files(files) => files.close(limit),
            Self::Collector(exporter) => exporter.close(limit).await,
        }
    }
}

impl TraceSink for Traces {
    fn finished(&self, trace: Finished) {
        match self {
            Self::Files(files) => files.take(trace),
            Self::Collector(exporter) => {
                let spans = spans::count(&trace);
                exporter.offer(trace, spans);
            }
        }
    }

    fn retired(&self, stream: u64) {
        if let Self::Files(files) = self {
            files.retire(stream);
        }
    }

    fn metrics(&self) -> Vec<CustomCounter> {
        let [exported, dropped] = match self {
            Self::Files(files) => [
                ("tritonserver_trace_traces_exported", "Number of traces that were written or sent", files.written()),
                (
                    "tritonserver_trace_traces_dropped",
                    "Number of traces that were lost: no room, no collector, or no disk",
                    files.dropped(),
                ),
            ],
            Self::Collector(exporter) => [
                (
                    "tritonserver_trace_spans_exported",
                    "Number of spans that were written or sent",
                    exporter.counts().exported(),
                ),
                (
                    "tritonserver_trace_spans_dropped",
                    "Number of spans that were lost: no room, no collector, or no disk",
                    exporter.counts().dropped(),
                ),
            ],
        };
        if exported.2 == 0 && dropped.2 == 0 {
            return Vec::new();
        }
        [exported, dropped].map(|(name, help, value)| CustomCounter { name, help, value }).to_vec()
    }
}
