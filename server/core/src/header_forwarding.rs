//! Headers that travel on with a request: those whose name matches a pattern become parameters of it, for its model to read.
//! Which headers a request has, and in which order they are taken, is for each front end to say.

use std::str;

use regex_lite::{Regex, RegexBuilder};

use crate::{
    error::{Error, Result},
    request::Parameter,
};

/// Prefix of names that only the server itself gives a meaning.
const RESERVED: &str = "triton_";

/// Which headers are forwarded: `--http-header-forward-pattern` or `--grpc-header-forward-pattern`.
#[derive(Debug, Clone)]
pub struct HeaderPattern(Regex);

impl HeaderPattern {
    /// Reads a regular expression as Triton does: in the syntax of RE2, where classes such as `\w` are ASCII; it may match any
    /// part of a name, and case does not matter unless it says so (`(?-i)`). Matching takes time in proportion to the name.
    ///
    /// Errors: what is wrong with the expression.
    pub fn new(pattern: &str) -> std::result::Result<Self, String> {
        let regex = RegexBuilder::new(pattern).case_insensitive(true).build();
        regex.map(Self).map_err(|error| error.to_string())
    }

    /// Whether a header of that name is forwarded.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// The parameter that a header becomes; `None` if it is not forwarded.
    ///
    /// Errors: `InvalidArgument` for a name with a prefix that is reserved.
    pub fn parameter(&self, name: &str, value: &[u8]) -> Result<Option<(String, Parameter)>> {
        if !self.matches(name) {
            return Ok(None);
        }
        if name.get(..RESERVED.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(RESERVED)) {
            return Err(Error::invalid_argument(format!(
                "Header '{name}' is reserved for Triton usage and cannot be forwarded."
            )));
        }
        Ok(Some((name.to_owned(), Parameter::String(text(value)))))
    }
}

/// Two are equal if they are written alike.
impl PartialEq for HeaderPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// A header's value: UTF-8, or else one character per byte, so that nothing is lost.
///
/// Source: RFC 9110, 5.5: values beyond ASCII were ISO-8859-1 once, and may be anything today.
fn text(value: &[u8]) -> String {
    match str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().copied().map(char::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HeaderPattern {
        HeaderPattern::new(text).unwrap()
    }

    #[track_caller]
    fn check(expression: &str, matching: &[&str], others: &[&str]) {
        for name in matching {
            assert!(pattern(expression).matches(name), "{expression} does not match {name}");
        }
        for name in others {
            assert!(!pattern(expression).matches(name), "{expression} matches {name}");
        }
    }

    #[test]
    fn any_part_of_a_name_in_any_case_may_match() {
        check("x-", &["x-one", "X-One", "max-age"], &["other"]);
        check("^x-|^my_header$", &["X-One", "My_Header"], &["max-age", "my_header_1"]);
        check("(?-i)X-", &["X-One"], &["x-one"]);
        check(r"^\w+$", &["abc_1"], &["x-one"]);
        check("^[[:alpha:]]+$", &["Host"], &["x1"]);
        check("(PREFIX_.*|EXTRA)", &["prefix_1", "an_extra_one"], &["prefix"]);
    }

    #[test]
    fn what_is_no_regular_expression_is_refused_with_the_reason() {
        for text in ["(", "[", "*", r"\", "(?=a)", "a{1,0}", "(?P<a>x"] {
            assert!(HeaderPattern::new(text).is_err_and(|reason| !reason.is_empty()), "{text}");
        }
    }

    #[test]
    fn a_value_is_utf8_or_one_character_per_byte() {
        let string = |text: &str| Ok(Some(("x-a".to_owned(), Parameter::String(text.to_owned()))));
        let pattern = pattern("x-");
        assert_eq!(pattern.parameter("x-a", b"1"), string("1"));
        assert_eq!(pattern.parameter("x-a", b""), string(""));
        assert_eq!(pattern.parameter("x-a", "é中".as_bytes()), string("é中"));
        assert_eq!(pattern.parameter("x-a", b"\xe4\xff"), string("äÿ"));
        assert_eq!(pattern.parameter("other", b"1"), Ok(None));
    }

    #[test]
    fn reserved_names_are_refused_only_if_they_would_be_forwarded() {
        let refused = |name: &str| {
            let text = format!("Header '{name}' is reserved for Triton usage and cannot be forwarded.");
            Err(Error::invalid_argument(text))
        };
        for name in ["triton_x", "Triton_X"] {
            assert_eq!(pattern("x").parameter(name, b"1"), refused(name));
            assert_eq!(pattern("y").parameter(name, b"1"), Ok(None));
        }
        assert!(pattern("x").parameter("triton-x", b"1").is_ok_and(|parameter| parameter.is_some()));
    }
}
