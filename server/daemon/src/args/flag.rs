//! What the table of flags is made of: a row per flag, a heading per group, and the two ways to write a row.

use super::{getopt::Takes, parsed::Args, refused::Refused};

/// Flags under one heading of the usage text.
pub(crate) struct Group {
    /// The heading; empty for the first group.
    pub(crate) title: &'static str,
    /// Its rows, in the order shown.
    pub(crate) flags: &'static [Flag],
}

/// One flag.
pub(crate) struct Flag {
    /// Without the dashes.
    pub(crate) name: &'static str,
    /// Placeholder of its value.
    pub(crate) form: &'static str,
    /// Its value where it is not given, as one would write it; empty if there is none to write.
    pub(crate) default: &'static str,
    /// What it does, for the usage text.
    pub(crate) help: &'static str,
    /// What it does, for the program.
    pub(crate) effect: Effect,
}

/// What a flag does.
pub(crate) enum Effect {
    /// Writes its value where the program reads it. Errors: why it is none.
    Set(fn(&mut Args, &str) -> Result<(), Refused>),
    /// Known, checked in form, and ignored: named in a warning unless it repeats the default.
    Unused(fn(&str) -> Result<(), Refused>),
    /// Shows the usage text and ends.
    Help,
    /// Shows the version and ends.
    Version,
}

impl Flag {
    /// Whether a value follows it.
    pub(crate) const fn takes(&self) -> Takes {
        if self.form.is_empty() { Takes::NoValue } else { Takes::Value }
    }

    /// Whether `text` says what holds anyway.
    pub(crate) fn is_default(&self, text: &str) -> bool {
        let plain = |text: &str| match text.to_ascii_lowercase().as_str() {
            "on" | "1" if self.form == "<boolean>" => "true".to_owned(),
            "off" | "0" if self.form == "<boolean>" => "false".to_owned(),
            other => other.to_owned(),
        };
        plain(text) == plain(self.default)
    }
}

/// `set!("name": Type = "default", "help", |args, value| ...)`: a supported flag.
macro_rules! set {
    ($name:literal : $type:ty = $default:literal, $help:literal, $put:expr) => {
        Flag {
            name: $name,
            form: <$type as Value>::FORM,
            default: $default,
            help: $help,
            effect: Effect::Set(|args, text| {
                let put: fn(&mut Args, $type) = $put;
                put(args, <$type as Value>::read(text)?);
                Ok(())
            }),
        }
    };
}

/// `unused!("name": Type = "default", "help")`: a flag that is known and ignored.
macro_rules! unused {
    ($name:literal : $type:ty = $default:literal, $help:literal) => {
        Flag {
            name: $name,
            form: <$type as Value>::FORM,
            default: $default,
            help: $help,
            effect: Effect::Unused(|text| <$type as Value>::read(text).map(drop)),
        }
    };
}

pub(crate) use {set, unused};
