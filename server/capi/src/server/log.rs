//! What libraries write to the log of the server.

use server_core::error::Error;
use tracing::{Level, enabled};

use crate::abi::{Text, export::exports, numbers::LogLevel};

/// Where lines of libraries belong to in the log.
const TARGET: &str = "library";

exports! {
    /// Whether lines of that level are written.
    fn TRITONSERVER_LogIsEnabled(level: LogLevel) -> bool {
        match level {
            LogLevel::INFO => enabled!(target: TARGET, Level::INFO),
            LogLevel::WARN => enabled!(target: TARGET, Level::WARN),
            LogLevel::ERROR => enabled!(target: TARGET, Level::ERROR),
            LogLevel::VERBOSE => enabled!(target: TARGET, Level::DEBUG),
            _ => false,
        }
    }

    /// Writes a line, which comes from that place in the library's source.
    fn TRITONSERVER_LogMessage(level: LogLevel, file: Text, line: i32, message: Text) {
        let (file, message) = (file.get().unwrap_or_default(), message.get()?);
        let file = file.rsplit('/').next().unwrap_or_default();
        match level {
            LogLevel::INFO => tracing::info!(target: TARGET, file, line, "{message}"),
            LogLevel::WARN => tracing::warn!(target: TARGET, file, line, "{message}"),
            LogLevel::ERROR => tracing::error!(target: TARGET, file, line, "{message}"),
            LogLevel::VERBOSE => tracing::debug!(target: TARGET, file, line, "{message}"),
            LogLevel(other) => return Err(Error::invalid_argument(format!("unknown logging level '{other}'"))),
        }
        Ok(())
    }
}
