//! Log settings while the server runs: what becomes a line and how it looks. Whoever writes lines reads them here.
//!
//! Source: Triton logging extension; what a real Triton answers to each form is recorded in the tests of the clients.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use crate::error::{Error, Result};

/// Target of the events that are what a model printed, and no message of the server's: whatever the settings, they are written as
/// they are, at level `INFO` to standard output and at `WARN` to standard error.
pub const PRINTED: &str = "printed";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum LogFormat {
    /// `I0521 12:34:56.789012 1234 file.rs:99] "message"`
    Default,
    /// `2026-05-21T12:34:56Z I 1234 file.rs:99] "message"`
    Iso8601,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    const ALL: [Self; 3] = [Self::Default, Self::Iso8601, Self::Json];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Iso8601 => "ISO8601",
            Self::Json => "json",
        }
    }

    /// The format of exactly that name; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// The values of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogValues {
    /// Errors are logged.
    pub error: bool,
    /// Warnings are logged.
    pub warning: bool,
    /// What happens is logged.
    pub info: bool,
    /// Level up to which verbose messages are logged; 0 logs none.
    pub verbose: u32,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for LogValues {
    fn default() -> Self {
        Self { error: true, warning: true, info: true, verbose: 0, format: LogFormat::Default }
    }
}

/// A change; fields that are `None` stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogUpdate {
    /// As [`LogValues::error`].
    pub error: Option<bool>,
    /// As [`LogValues::warning`].
    pub warning: Option<bool>,
    /// As [`LogValues::info`].
    pub info: Option<bool>,
    /// As [`LogValues::verbose`].
    pub verbose: Option<u32>,
    /// As [`LogValues::format`].
    pub format: Option<LogFormat>,
}

impl LogUpdate {
    /// The switch of that name, to be set; `None` if there is none.
    pub fn switch(&mut self, name: &str) -> Option<&mut Option<bool>> {
        match name {
            "log_error" => Some(&mut self.error),
            "log_warning" => Some(&mut self.warning),
            "log_info" => Some(&mut self.info),
            _ => None,
        }
    }
}

/// Why the file cannot be changed.
pub fn file() -> Error {
    Error::unsupported("log file location can not be updated through network protocol")
}

/// The settings, shared by who writes lines and who changes what they are. Reads are a few loads.
pub struct LogSettings {
    file: String,
    error: AtomicBool,
    warning: AtomicBool,
    info: AtomicBool,
    verbose: AtomicU32,
    format: AtomicU32,
    changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for LogSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogSettings").field(&self.values()).finish()
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self::new(String::new(), LogValues::default())
    }
}

impl LogSettings {
    /// Settings with those values until they are changed. `file` is where lines go; empty for the console.
    pub fn new(file: String, values: LogValues) -> Self {
        let LogValues { error, warning, info, verbose, format } = values;
        Self {
            file,
            error: AtomicBool::new(error),
            warning: AtomicBool::new(warning),
            info: AtomicBool::new(info),
            verbose: AtomicU32::new(verbose),
            format: AtomicU32::new(format as u32),
            changed: OnceLock::new(),
        }
    }

    /// Where lines go; empty for the console.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The values now.
    pub fn values(&self) -> LogValues {
        let format = self.format.load(Relaxed);
        LogValues {
            error: self.error.load(Relaxed),
            warning: self.warning.load(Relaxed),
            info: self.info.load(Relaxed),
            verbose: self.verbose.load(Relaxed),
            format: LogFormat::ALL.into_iter().find(|known| *known as u32 == format).unwrap_or(LogFormat::Default),
        }
    }

    /// Has that called after every change. The first to ask is.
    pub fn on_change(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.changed.set(Box::new(call));
    }

    /// Changes the values.
    pub fn update(&self, update: &LogUpdate) {
        let LogUpdate { error, warning, info, verbose, format } = *update;
        for (switch, value) in [(&self.error, error), (&self.warning, warning), (&self.info, info)] {
            if let Some(value) = value {
                switch.store(value, Relaxed);
            }
        }
        if let Some(verbose) = verbose {
            self.verbose.store(verbose, Relaxed);
        }
        if let Some(format) = format {
            self.format.store(format as u32, Relaxed);
        }
        if let Some(changed) = self.changed.get() {
            changed();
        }
    }
}

/// The format of that name.
///
/// Errors: there is none, in the words of a front end: they differ in the class and in how they call the setting.
pub fn format(name: &str, refuse: impl FnOnce(String) -> Error, called: &str) -> Result<LogFormat> {
    LogFormat::from_name(name).ok_or_else(|| refuse(format!("invalid argument for {called}, got: {name}")))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use super::*;

    #[test]
    fn what_is_not_given_stays_and_whoever_asked_is_called() {
        let settings = LogSettings::new("f".into(), LogValues { verbose: 2, ..LogValues::default() });
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        settings.on_change(move || {
            counted.fetch_add(1, Relaxed);
        });
        settings.update(&LogUpdate { info: Some(false), format: Some(LogFormat::Iso8601), ..LogUpdate::default() });
        let expect = LogValues { info: false, verbose: 2, format: LogFormat::Iso8601, ..LogValues::default() };
        assert_eq!((settings.values(), calls.load(Relaxed)), (expect, 1));
    }

    #[test]
    fn formats_have_exact_names() {
        for format in LogFormat::ALL {
            assert_eq!(LogFormat::from_name(format.name()), Some(format));
        }
        let error = format("iso8601", Error::unavailable, "--log_format").unwrap_err();
        assert_eq!(error.message, "invalid argument for --log_format, got: iso8601");
    }
}
