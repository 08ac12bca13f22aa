//! What a flag's value may look like: one [`Value`] per form, read from text and from nothing else.
//!
//! A form refuses with the words that follow "expected"; the flag's name and the text are added by the caller.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use server_core::header_forwarding::HeaderPattern;

/// A type that can be read from the text after a flag.
pub(crate) trait Value: Sized {
    /// Placeholder in the usage text, e.g. `<integer>`; empty if the flag stands without a value.
    const FORM: &'static str;

    /// Reads the text. Errors: what would have been accepted.
    fn read(text: &str) -> Result<Self, String>;
}

/// A value out of a closed list of words; case does not matter.
pub(crate) trait Word: Copy + 'static {
    /// Placeholder in the usage text.
    const FORM: &'static str;
    /// Every word, and what it stands for.
    const WORDS: &'static [(&'static str, Self)];
}

impl<W: Word> Value for W {
    const FORM: &'static str = <W as Word>::FORM;

    fn read(text: &str) -> Result<Self, String> {
        let found = W::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = W::WORDS.iter().map(|(word, _)| *word).collect();
            format!("one of {}", words.join(", "))
        })
    }
}

/// What a flag without value means by its presence; `=true` and `=false` are understood too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switch(pub(crate) bool);

/// A level, or `true` and `false` for 1 and 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verbosity(pub(crate) u32);

impl Value for bool {
    const FORM: &'static str = "<boolean>";

    fn read(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "1" => Ok(true),
            "false" | "off" | "0" => Ok(false),
            _ => Err("true, on, 1, false, off or 0".into()),
        }
    }
}

impl Value for Switch {
    const FORM: &'static str = "";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(Self(true)) } else { bool::read(text).map(Self) }
    }
}

impl Value for Verbosity {
    const FORM: &'static str = "<integer>";

    fn read(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(Self(1)),
            "false" => Ok(Self(0)),
            _ => u32::read(text).map(Self).map_err(|_| "a level of 0 or more".into()),
        }
    }
}

/// A port as given: whether a socket can have it matters only if its service is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) i32);

impl Value for Port {
    const FORM: &'static str = "<port>";

    fn read(text: &str) -> Result<Self, String> {
        i32::read(text).map(Self).map_err(|_| PORTS.into())
    }
}

/// What a port is expected to be.
pub(crate) const PORTS: &str = "a whole number from 0 to 65535";

/// A part of a whole, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fraction;

impl Value for Fraction {
    const FORM: &'static str = "<fraction>";

    fn read(text: &str) -> Result<Self, String> {
        let number = f64::read(text).ok().filter(|number| (0.0..=1.0).contains(number));
        number.map(|_| Self).ok_or_else(|| "a decimal number from 0 to 1".into())
    }
}

/// How many responses may wait for a slow reader; `None` for any number, which the largest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponsePoolSize(pub(crate) Option<usize>);

impl Value for ResponsePoolSize {
    const FORM: &'static str = "<integer>";

    fn read(text: &str) -> Result<Self, String> {
        match i32::read(text)? {
            i32::MIN..=0 => Err("more. Error: --grpc-max-response-pool-size must be greater than 0.".into()),
            i32::MAX => Ok(Self(None)),
            most => Ok(Self(usize::try_from(most).ok())),
        }
    }
}

/// A text that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named(pub(crate) String);

impl Value for Named {
    const FORM: &'static str = "<string>";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a name".into()) } else { Ok(Self(text.to_owned())) }
    }
}

/// A time in milliseconds, of which parts may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Milliseconds(pub(crate) Duration);

impl Value for Milliseconds {
    const FORM: &'static str = "<float>";

    fn read(text: &str) -> Result<Self, String> {
        let time = f64::read(text).ok().and_then(|number| Duration::try_from_secs_f64(number / 1000.0).ok());
        time.map(Self).ok_or_else(|| "a number of milliseconds of 0 or more".into())
    }
}

/// A number of threads that Triton accepts for gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrpcThreads;

impl Value for GrpcThreads {
    const FORM: &'static str = "<integer>";

    fn read(text: &str) -> Result<Self, String> {
        let number = u32::read(text).ok().filter(|number| (2..=128).contains(number));
        number.map(|_| Self).ok_or_else(|| "a whole number from 2 to 128".into())
    }
}

/// A regular expression for the names of headers; an empty text is none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pattern(pub(crate) Option<HeaderPattern>);

impl Value for Pattern {
    const FORM: &'static str = "<pattern>";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let pattern = HeaderPattern::new(text).map(|pattern| Self(Some(pattern)));
        pattern.map_err(|reason| format!("a regular expression in the syntax of RE2: {reason}"))
    }
}

macro_rules! numbers {
    ($($number:ty as $form:literal),* $(,)?) => {
        $(impl Value for $number {
            const FORM: &'static str = $form;

            fn read(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("a whole number from {} to {}", <$number>::MIN, <$number>::MAX))
            }
        })*
    };
}

numbers! {
    u16 as "<port>",
    u32 as "<integer>",
    i32 as "<integer>",
    u64 as "<integer>",
    i64 as "<integer>",
    NonZeroU64 as "<integer>",
}

impl Value for f64 {
    const FORM: &'static str = "<float>";

    fn read(text: &str) -> Result<Self, String> {
        let number: Result<Self, _> = text.trim().parse();
        number.ok().filter(|number| number.is_finite()).ok_or_else(|| "a decimal number".into())
    }
}

impl Value for String {
    const FORM: &'static str = "<string>";

    fn read(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    const FORM: &'static str = "<path>";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a path".into()) } else { Ok(text.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_come_in_three_spellings_and_any_case() {
        for text in ["true", "TRUE", "on", "On", "1"] {
            assert_eq!(bool::read(text), Ok(true), "{text}");
        }
        for text in ["false", "False", "off", "OFF", "0"] {
            assert_eq!(bool::read(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "2", "truee"] {
            assert!(bool::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_outside_its_range_is_refused_with_the_range() {
        assert_eq!(u16::read("70000"), Err("a whole number from 0 to 65535".into()));
        assert_eq!(NonZeroU64::read("0").map_err(|expected| expected.starts_with("a whole number from 1 ")), Err(true));
        assert!(u16::read("80x").is_err());
        assert_eq!(i32::read("-1"), Ok(-1));
    }

    #[test]
    fn verbosity_is_a_level_or_a_boolean_word() {
        assert_eq!(Verbosity::read("3"), Ok(Verbosity(3)));
        assert_eq!(Verbosity::read("True"), Ok(Verbosity(1)));
        assert_eq!(Verbosity::read("false"), Ok(Verbosity(0)));
        assert!(Verbosity::read("loud").is_err());
    }

    #[test]
    fn a_switch_is_on_by_its_presence() {
        assert_eq!(Switch::read(""), Ok(Switch(true)));
        assert_eq!(Switch::read("false"), Ok(Switch(false)));
    }
}
