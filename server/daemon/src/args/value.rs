//! What a flag's value may look like: one [`Value`] per form, read from text and from nothing else.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use server_core::header_forwarding::HeaderPattern;

use super::refused::Refused;

/// A type that can be read from the text after a flag.
pub(crate) trait Value: Sized {
    /// Placeholder in the usage text, e.g. `<integer>`; empty if the flag stands without a value.
    const FORM: &'static str;

    /// Reads the text. Errors: why it is none.
    fn read(text: &str) -> Result<Self, Refused>;
}

/// A value out of a closed list of words; case does not matter.
pub(crate) trait Word: Copy + 'static {
    /// Placeholder in the usage text.
    const FORM: &'static str;
    /// Every word, and what it stands for.
    const WORDS: &'static [(&'static str, Self)];

    /// What Triton says of another text, where that is not what it says of most flags.
    fn refused(_text: &str) -> Option<String> {
        None
    }
}

impl<W: Word> Value for W {
    const FORM: &'static str = <W as Word>::FORM;

    fn read(text: &str) -> Result<Self, Refused> {
        let found = W::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = W::WORDS.iter().map(|(word, _)| *word).collect();
            let expected = format!("one of {}", words.join(", "));
            W::refused(text).map_or_else(Refused::argument, Refused::words).expected(expected)
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

    fn read(text: &str) -> Result<Self, Refused> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "1" => Ok(true),
            "false" | "off" | "0" => Ok(false),
            _ => Err(Refused::words(format!("invalid value for bool option: {text}"))
                .expected("true, on, 1, false, off or 0")),
        }
    }
}

impl Value for Switch {
    const FORM: &'static str = "";

    fn read(text: &str) -> Result<Self, Refused> {
        if text.is_empty() { Ok(Self(true)) } else { bool::read(text).map(Self) }
    }
}

impl Value for Verbosity {
    const FORM: &'static str = "<integer>";

    fn read(text: &str) -> Result<Self, Refused> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(Self(1)),
            "false" => Ok(Self(0)),
            _ => u32::read(text).map(Self).map_err(|refused| refused.expected("a level of 0 or more")),
        }
    }
}

/// A port as given: whether a socket can have it matters only if its service is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) i32);

impl Value for Port {
    const FORM: &'static str = "<port>";

    fn read(text: &str) -> Result<Self, Refused> {
        i32::read(text).map(Self).map_err(|refused| refused.expected(PORTS))
    }
}

/// What a port is expected to be.
pub(crate) const PORTS: &str = "a whole number from 0 to 65535";

/// A part of a whole, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fraction;

impl Value for Fraction {
    const FORM: &'static str = "<fraction>";

    fn read(text: &str) -> Result<Self, Refused> {
        let number = f64::read(text)?;
        if (0.0..=1.0).contains(&number) {
            return Ok(Self);
        }
        Err(Refused::words(format!("expects limit fraction to be in range [0.0, 1.0], got {number:.6}")))
    }
}

/// How many responses may wait for a slow reader; `None` for any number, which the largest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponsePoolSize(pub(crate) Option<usize>);

impl Value for ResponsePoolSize {
    const FORM: &'static str = "<integer>";

    fn read(text: &str) -> Result<Self, Refused> {
        match i32::read(text)? {
            i32::MIN..=0 => Err(Refused::words("Error: --grpc-max-response-pool-size must be greater than 0.")),
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

    fn read(text: &str) -> Result<Self, Refused> {
        if text.is_empty() { Err(Refused::empty()) } else { Ok(Self(text.to_owned())) }
    }
}

/// A time in milliseconds, of which parts may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Milliseconds(pub(crate) Duration);

impl Value for Milliseconds {
    const FORM: &'static str = "<float>";

    fn read(text: &str) -> Result<Self, Refused> {
        let expected = "a number of milliseconds of 0 or more";
        let number = f64::read(text).map_err(|refused| refused.expected(expected))?;
        let time = Duration::try_from_secs_f64(number / 1000.0);
        time.map(Self).map_err(|_| Refused::number(text, number.is_finite()).expected(expected))
    }
}

/// A number of threads that Triton accepts for gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrpcThreads;

impl Value for GrpcThreads {
    const FORM: &'static str = "<integer>";

    fn read(text: &str) -> Result<Self, Refused> {
        let expected = "a whole number from 2 to 128";
        let number = i32::read(text).map_err(|refused| refused.expected(expected))?;
        let refused = || Refused::words("invalid argument for --grpc_infer_thread_count").expected(expected);
        (2..=128).contains(&number).then_some(Self).ok_or_else(refused)
    }
}

/// A regular expression for the names of headers; an empty text is none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pattern(pub(crate) Option<HeaderPattern>);

impl Value for Pattern {
    const FORM: &'static str = "<pattern>";

    fn read(text: &str) -> Result<Self, Refused> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let pattern = HeaderPattern::new(text).map(|pattern| Self(Some(pattern)));
        let expected = |reason| format!("a regular expression in the syntax of RE2: {reason}");
        pattern.map_err(|reason| Refused::argument().expected(expected(reason)))
    }
}

/// Whether it is one, however large.
fn is_whole_number(text: &str) -> bool {
    let text = text.trim();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

macro_rules! numbers {
    ($($number:ty as $form:literal),* $(,)?) => {
        $(impl Value for $number {
            const FORM: &'static str = $form;

            fn read(text: &str) -> Result<Self, Refused> {
                text.trim().parse().map_err(|_| {
                    let expected = format!("a whole number from {} to {}", <$number>::MIN, <$number>::MAX);
                    Refused::number(text, is_whole_number(text)).expected(expected)
                })
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

    fn read(text: &str) -> Result<Self, Refused> {
        let number: Result<Self, _> = text.trim().parse();
        let refused = || Refused::number(text, false).expected("a decimal number");
        number.ok().filter(|number| number.is_finite()).ok_or_else(refused)
    }
}

impl Value for String {
    const FORM: &'static str = "<string>";

    fn read(text: &str) -> Result<Self, Refused> {
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    const FORM: &'static str = "<path>";

    fn read(text: &str) -> Result<Self, Refused> {
        if text.is_empty() { Err(Refused::empty()) } else { Ok(text.into()) }
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
        let range = "a whole number from 0 to 65535";
        assert_eq!(u16::read("70000"), Err(Refused::number("70000", true).expected(range)));
        assert_eq!(u16::read("80x"), Err(Refused::number("80x", false).expected(range)));
        let range = format!("a whole number from 1 to {}", u64::MAX);
        assert_eq!(NonZeroU64::read("0"), Err(Refused::number("0", true).expected(range)));
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
