//! The operator's own log: one line per event, as JSON for collectors or as text for people.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object per line
    Json,
    /// Plain text
    Text,
}

/// Begins to log to standard error.
///
/// Errors: `filter` is none, such as `info,kube=debug` would be.
pub(crate) fn install(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    // the client repeats as an error what our own lines tell with their cause
    let filter = EnvFilter::try_new(format!("{filter},kube_client::client::builder=off"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
