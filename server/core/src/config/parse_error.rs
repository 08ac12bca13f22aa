//! Why a text is not a configuration, and where in it.

use crate::error::Error;

/// A mistake in the form of a configuration: the place and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

impl ParseError {
    /// The error at a byte of `text`. A byte inside a character means that character; one past the end, the end.
    pub(super) fn at(text: &str, byte: usize, message: String) -> Self {
        let before = &text[..text.floor_char_boundary(byte)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, message }
    }
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::ParseError;

    #[track_caller]
    fn check(text: &str, byte: usize, place: &str) {
        assert_eq!(ParseError::at(text, byte, "wrong".into()).to_string(), format!("{place}: wrong"));
    }

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        check("", 0, "line 1, column 1");
        check("ab\ncd", 4, "line 2, column 2");
        check("äöü: 1", 6, "line 1, column 4");
        check("ab\n", 3, "line 2, column 1");
        check("ab", 99, "line 1, column 3");
    }
}
