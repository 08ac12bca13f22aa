//! Log lines: events of `tracing` in Triton's words and places. Errors and warnings go to stderr, the rest to stdout,
//! or all of it to one file.
//!
//! What models print goes to stdout and stderr as it is, whatever the settings, so that a line is the model's own; in JSON it is
//! an object as well, with the model's name.
//!
//! A line looks as `--log-format` says (`line.rs`, `json.rs`); which events become lines is decided here.

mod event;
mod json;
mod line;
mod stamp;

use std::{
    fs::File,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use server_core::log_settings::{LogFormat, LogSettings, LogValues, PRINTED};
use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use self::{event::Record, line::Style, stamp::Stamp};
use crate::args::LogArgs;

/// Crates whose verbose messages are ours; those of libraries come with `--log-verbose=3`.
const OUR_TARGETS: [&str; 2] = ["server_", "tritonserver"];

/// Turns logging on for the whole process, panics included. What is logged follows the settings that are returned.
///
/// Errors: the log file cannot be opened.
pub(crate) fn install(log: &LogArgs) -> io::Result<Arc<LogSettings>> {
    let LogArgs { error, warning, info, verbose, format, file: path } = log;
    let file = path.as_ref().map(|path| File::options().create(true).append(true).open(path)).transpose()?;
    let shown = path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let values = LogValues { error: *error, warning: *warning, info: *info, verbose: *verbose, format: *format };
    let settings = Arc::new(LogSettings::new(shown, values));
    // what is logged is remembered by every place that logs
    settings.on_change(tracing::callsite::rebuild_interest_cache);
    let is_escaped = std::env::var_os("TRITON_SERVER_ESCAPE_LOG_MESSAGES").is_none_or(|value| value != "0");
    let layer =
        LogLayer { settings: settings.clone(), is_escaped, pid: std::process::id(), file: file.map(Mutex::new) };
    // A second call, possible only in tests, leaves the first in place.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    log_panics();
    Ok(settings)
}

/// Tells why the program ends badly: in the log, or plainly where the log does not take it.
pub(crate) fn fatal(error: &dyn std::error::Error) -> ExitCode {
    if tracing::enabled!(Level::ERROR) {
        tracing::error!("error: {error}");
    } else {
        let _ = writeln!(io::stderr(), "error: {error}");
    }
    ExitCode::FAILURE
}

/// A panic is one line of the log. The task or thread it happened in ends; the process goes on.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or("unnamed"), "panic: {message}");
    }));
}

/// Which events become lines.
trait Choice {
    fn wants(&self, level: Level, target: &str) -> bool;
    fn most(&self) -> LevelFilter;
}

impl Choice for LogValues {
    fn wants(&self, level: Level, target: &str) -> bool {
        let is_ours = OUR_TARGETS.iter().any(|ours| target.starts_with(ours));
        match level {
            Level::ERROR => self.error,
            Level::WARN => self.warning,
            Level::INFO => self.info && (is_ours || self.verbose >= 1),
            Level::DEBUG => self.verbose >= if is_ours { 1 } else { 3 },
            _ => self.verbose >= if is_ours { 2 } else { 3 },
        }
    }

    fn most(&self) -> LevelFilter {
        match self.verbose {
            0 => LevelFilter::INFO,
            1 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }
}

struct LogLayer {
    settings: Arc<LogSettings>,
    is_escaped: bool,
    pid: u32,
    file: Option<Mutex<File>>,
}

impl LogLayer {
    fn render(&self, record: &Record) -> String {
        let now = Stamp::from_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let text = |style| line::render(record, now, self.pid, style, self.is_escaped);
        match self.settings.values().format {
            LogFormat::Default => text(Style::Default),
            LogFormat::Iso8601 => text(Style::Iso8601),
            LogFormat::Json => json::render(record, now, self.pid),
        }
    }

    /// Whole lines in one write. A log that nobody can take is lost: the server goes on.
    fn write(&self, level: Level, line: &str) {
        let _ = match &self.file {
            Some(file) => file.lock().write_all(line.as_bytes()),
            None => write_console(level, line),
        };
    }

    fn print(&self, record: Record) {
        let line = match self.settings.values().format {
            LogFormat::Json => self.render(&record),
            LogFormat::Default | LogFormat::Iso8601 => record.message + "\n",
        };
        let _ = write_console(record.level, &line); // as with the log
    }
}

/// Warnings and errors to stderr, the rest to stdout.
fn write_console(level: Level, line: &str) -> io::Result<()> {
    if level <= Level::WARN {
        return io::stderr().lock().write_all(line.as_bytes());
    }
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_span()
            || metadata.target() == PRINTED
            || self.settings.values().wants(*metadata.level(), metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.settings.values().most())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let record = Record::of(event);
        if event.metadata().target() == PRINTED {
            return self.print(record);
        }
        self.write(record.level, &self.render(&record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(verbose: u32) -> LogValues {
        LogValues { verbose, ..LogValues::default() }
    }

    #[test]
    fn verbose_levels_show_more_step_by_step() {
        let shown = |verbose| {
            let events = [
                (Level::INFO, "server_engine"),
                (Level::DEBUG, "server_http::infer"),
                (Level::TRACE, "tritonserver"),
                (Level::DEBUG, "h2::codec"),
            ];
            events.map(|(level, target)| choice(verbose).wants(level, target))
        };
        assert_eq!(shown(0), [true, false, false, false]);
        assert_eq!(shown(1), [true, true, false, false]);
        assert_eq!(shown(2), [true, true, true, false]);
        assert_eq!(shown(3), [true, true, true, true]);
    }

    #[test]
    fn each_level_has_its_own_switch() {
        let quiet = LogValues { warning: false, info: false, ..LogValues::default() };
        let levels = [Level::ERROR, Level::WARN, Level::INFO];
        assert_eq!(levels.map(|level| quiet.wants(level, "tritonserver")), [true, false, false]);
    }
}
