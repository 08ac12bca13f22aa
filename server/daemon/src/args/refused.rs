//! Why the text after a flag is no value for it: in Triton's words, and what would have been accepted.

use std::fmt;

/// Why a text is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The setting of the flag that it was to be the value of, as it stood behind the flag.
    setting: Option<String>,
    said: Said,
    /// Empty where Triton's words say it.
    expected: String,
}

/// What Triton says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    /// That the flag takes something else.
    Argument,
    /// That the flag needs a text.
    Empty,
    /// In which form the flag is written.
    Format(String),
    /// Something else.
    Words(String),
}

// === impl Refused ===

impl Refused {
    const fn new(said: Said) -> Self {
        Self { setting: None, said, expected: String::new() }
    }

    /// The flag takes something else.
    pub(super) const fn argument() -> Self {
        Self::new(Said::Argument)
    }

    /// The flag needs a text.
    pub(super) const fn empty() -> Self {
        Self::new(Said::Empty)
    }

    /// The flag is written in this form.
    pub(super) fn format(form: impl Into<String>) -> Self {
        Self::new(Said::Format(form.into()))
    }

    /// Triton has words of its own for it.
    pub(super) fn words(words: impl Into<String>) -> Self {
        Self::new(Said::Words(words.into()))
    }

    /// It is no number, or one beyond what is possible.
    pub(super) fn number(text: &str, is_number: bool) -> Self {
        let what = if is_number { "Provided option value is out of bound." } else { "Invalid option value." };
        Self::words(format!("{what} Got {text}"))
    }

    /// What would have been accepted.
    pub(super) fn expected(self, expected: impl Into<String>) -> Self {
        Self { expected: expected.into(), ..self }
    }

    /// The setting whose value it was to be.
    pub(super) fn of(self, setting: impl Into<String>) -> Self {
        Self { setting: Some(setting.into()), ..self }
    }

    /// The flag has a name of its own for the setting.
    pub(super) fn of_flag(self) -> Self {
        Self { setting: None, ..self }
    }

    /// What is said of the flag `--flag` that got `text`. The last line stands for itself.
    pub(super) fn write(&self, flag: &str, text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, said, expected } = self;
        let (space, setting) = setting.as_ref().map_or(("", ""), |setting| (" ", setting));
        writeln!(f, "Bad option: \"--{flag}{space}{setting}\".")?;
        match said {
            Said::Argument => write!(f, "invalid argument for --{flag}")?,
            Said::Empty => write!(f, "Error: empty argument for --{flag}")?,
            Said::Format(form) => write!(f, "--{flag} option format is {form}. Got {text}")?,
            Said::Words(words) => f.write_str(words)?,
        }
        match expected.as_str() {
            "" => Ok(()),
            expected => write!(f, "\n--{flag}: got '{text}', expected {expected}"),
        }
    }
}
