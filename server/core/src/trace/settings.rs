//! Trace settings: their values, how changes are written, and every text about what is wrong with one.
//!
//! Source: Triton trace extension; what a real Triton answers to each form is recorded in the tests of the clients.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// A text that is shared or owned; settings are shown as such.
pub type Text = Cow<'static, str>;

/// The values of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Values {
    /// When points were reached.
    pub has_times: bool,
    /// What tensors contained.
    pub has_tensors: bool,
    /// One of so many requests is traced; 0 traces those only whose callers trace them.
    pub rate: u32,
    /// So many more are traced; -1 is any number.
    pub count: i32,
    /// So many traces go into each file; 0 is all into one.
    pub log_frequency: u32,
}

impl Default for Values {
    fn default() -> Self {
        Self { has_times: false, has_tensors: false, rate: 1000, count: -1, log_frequency: 0 }
    }
}

impl Values {
    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.has_times || self.has_tensors
    }

    /// The names of its levels.
    pub fn levels(&self) -> Vec<Text> {
        let levels = [(self.has_times, "TIMESTAMPS"), (self.has_tensors, "TENSORS"), (!self.is_on(), "OFF")];
        levels.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.into()).collect()
    }
}

/// A change of one field: to this value, or back to what it is without a setting of its own.
pub type Change<T> = Option<Option<T>>;

/// A change of a setting; fields that are `None` stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Update {
    /// Times and tensors.
    pub levels: Change<(bool, bool)>,
    /// As [`Values::rate`].
    pub rate: Change<u32>,
    /// As [`Values::count`].
    pub count: Change<i32>,
    /// As [`Values::log_frequency`].
    pub log_frequency: Change<u32>,
}

impl Update {
    /// Takes a field over, as text; `None` clears it. Fields that there are not change nothing, as in Triton.
    ///
    /// `blank` stands before the value in one of the texts: Triton's gRPC has one there and its HTTP has none.
    ///
    /// Errors: `InvalidArgument` for a value that is none; `Unsupported` for the file, which is the server's own.
    pub fn take(&mut self, name: &str, value: Option<&str>, blank: &str) -> Result<()> {
        match name {
            "trace_file" => return Err(file()),
            "trace_rate" => self.rate = Some(value.map(|value| unsigned(name, value)).transpose()?),
            "log_frequency" => self.log_frequency = Some(value.map(|value| unsigned(name, value)).transpose()?),
            "trace_count" => self.count = Some(value.map(|value| count(value, blank)).transpose()?),
            _ => {}
        }
        Ok(())
    }

    /// Takes the levels over. Names that there are not change nothing.
    ///
    /// Errors: `OFF` is among several.
    pub fn take_levels<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let names: Vec<&str> = names.into_iter().collect();
        for name in &names {
            let (times, tensors) = self.levels.flatten().unwrap_or_default();
            match *name {
                "OFF" if names.len() > 1 => {
                    return Err(Error::invalid_argument("Expect only one trace level 'OFF' is specified"));
                }
                "OFF" => self.levels = Some(Some((false, false))),
                "TIMESTAMPS" => self.levels = Some(Some((true, tensors))),
                "TENSORS" => self.levels = Some(Some((times, true))),
                _ => {}
            }
        }
        Ok(())
    }

    /// `current` with the changes; a field that is cleared is that of `fallback`.
    #[must_use]
    pub fn apply(&self, current: Values, fallback: Values) -> Values {
        let (has_times, has_tensors) =
            pick(self.levels, (current.has_times, current.has_tensors), (fallback.has_times, fallback.has_tensors));
        Values {
            has_times,
            has_tensors,
            rate: pick(self.rate, current.rate, fallback.rate),
            count: pick(self.count, current.count, fallback.count),
            log_frequency: pick(self.log_frequency, current.log_frequency, fallback.log_frequency),
        }
    }
}

fn pick<T>(change: Change<T>, current: T, fallback: T) -> T {
    match change {
        None => current,
        Some(value) => value.unwrap_or(fallback),
    }
}

fn file() -> Error {
    Error::unsupported("trace file location can not be updated through network protocol")
}

/// A number as the C++ library reads it, which Triton uses: what follows the digits is ignored, and it has 32 bits with a
/// sign, whatever it is for.
fn number(text: &str) -> Result<i32, ReadError> {
    let text = text.trim_start();
    let (is_negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 {
        return Err(ReadError::None);
    }
    let sign = if is_negative { "-" } else { "" };
    format!("{sign}{}", &digits[..length]).parse().map_err(|_| ReadError::TooLarge)
}

enum ReadError {
    None,
    TooLarge,
}

fn unsigned(name: &str, text: &str) -> Result<u32> {
    number(text).map(i32::cast_unsigned).map_err(|error| unreadable(name, text, &error, "[ 0, 4294967295 ]"))
}

fn count(text: &str, blank: &str) -> Result<i32> {
    let count = number(text).map_err(|error| unreadable("trace_count", text, &error, "[ -1, 2147483647 ]"))?;
    if count < -1 {
        let text = format!("Unable to parse 'trace_count'. Expecting value >= -1, got:{blank}{text}");
        return Err(Error::invalid_argument(text));
    }
    Ok(count)
}

fn unreadable(name: &str, text: &str, error: &ReadError, range: &str) -> Error {
    Error::invalid_argument(match error {
        ReadError::None => format!("Unable to parse '{name}', got: {text}"),
        ReadError::TooLarge => format!("Unable to parse '{name}', value is out of range {range}, got: {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses(name: &str, value: &str, expect: &str) {
        let error = Update::default().take(name, Some(value), "").unwrap_err();
        assert_eq!(error.message, expect);
    }

    fn rate(text: &str) -> Change<u32> {
        let mut update = Update::default();
        update.take("trace_rate", Some(text), "").unwrap();
        update.rate
    }

    #[test]
    fn numbers_are_read_as_triton_reads_them() {
        for (text, expect) in [("5", 5), ("0", 0), (" 7x", 7), ("+3", 3), ("-1", u32::MAX)] {
            assert_eq!(rate(text), Some(Some(expect)), "{text}");
        }
        refuses("trace_rate", "x", "Unable to parse 'trace_rate', got: x");
        refuses("trace_rate", "", "Unable to parse 'trace_rate', got: ");
        let text = "Unable to parse 'log_frequency', value is out of range [ 0, 4294967295 ], got: 4294967296";
        refuses("log_frequency", "4294967296", text);
        let text = "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: 2147483648";
        refuses("trace_count", "2147483648", text);
        refuses("trace_count", "-2", "Unable to parse 'trace_count'. Expecting value >= -1, got:-2");
        refuses("trace_file", "f", "trace file location can not be updated through network protocol");
    }

    #[test]
    fn off_stands_alone_and_unknown_levels_change_nothing() {
        let levels = |names: &[&str]| {
            let mut update = Update::default();
            update.take_levels(names.iter().copied()).map(|()| update.levels)
        };
        assert_eq!(levels(&["TENSORS", "TIMESTAMPS"]), Ok(Some(Some((true, true)))));
        assert_eq!(levels(&["OFF"]), Ok(Some(Some((false, false)))));
        assert_eq!(levels(&["MIN", "x"]), Ok(None));
        assert_eq!(levels(&[]), Ok(None));
        let error = levels(&["OFF", "TIMESTAMPS"]).unwrap_err();
        assert_eq!(error.message, "Expect only one trace level 'OFF' is specified");
    }

    #[test]
    fn a_field_that_is_cleared_falls_back() {
        let current = Values { has_times: true, rate: 7, count: 3, ..Values::default() };
        let update = Update { rate: Some(None), count: Some(Some(9)), ..Update::default() };
        let expect = Values { has_times: true, rate: 1000, count: 9, ..Values::default() };
        assert_eq!(update.apply(current, Values::default()), expect);
        assert_eq!(current.levels(), ["TIMESTAMPS"]);
        assert_eq!(Values::default().levels(), ["OFF"]);
    }
}
