//! Takes a command line apart as `getopt_long` does: `--a=b`, `--a b`, unambiguous beginnings of names, `--`.
//!
//! It knows names and whether a value follows; what a value means is decided elsewhere.

use std::collections::VecDeque;

/// Whether a value follows the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// `--a=b` or `--a b`.
    Value,
    /// `--a`, or `--a=b`; a separate word is not its value.
    NoValue,
}

/// One flag as it stood on the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given<'table> {
    /// Its full name.
    pub(crate) name: &'table str,
    /// Its value; empty for a flag that stood without one.
    pub(crate) value: String,
}

/// Why a command line cannot be taken apart.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    #[error("unrecognized option '{0}'")]
    Unknown(String),
    #[error("unrecognized option '{0}', did you mean '--{1}'?")]
    Misspelt(String, String),
    #[error("invalid option -- '{0}'")]
    NoLetter(char),
    #[error("option '{0}' is ambiguous; possibilities: {1}")]
    Ambiguous(String, String),
    #[error("option '--{0}' requires an argument")]
    MissingValue(String),
    #[error("Unexpected argument: {0}")]
    Unexpected(String),
}

impl SplitError {
    /// What `getopt_long` itself says of it; `None` of what it says nothing of.
    pub(crate) fn of_getopt(&self) -> Option<String> {
        match self {
            Self::Misspelt(word, _) => Some(Self::Unknown(word.clone()).to_string()),
            Self::Unexpected(_) => None,
            Self::Unknown(_) | Self::NoLetter(_) | Self::Ambiguous(..) | Self::MissingValue(_) => {
                Some(self.to_string())
            }
        }
    }
}

/// Reads words against a table of names.
///
/// Errors: the first word that fits nothing.
pub(crate) fn split<'table>(
    words: impl IntoIterator<Item = String>,
    table: &[(&'table str, Takes)],
) -> Result<Vec<Given<'table>>, SplitError> {
    let mut words: VecDeque<String> = words.into_iter().collect();
    let mut given = Vec::new();
    let mut unexpected = None;
    while let Some(word) = words.pop_front() {
        if word == "--" {
            unexpected = unexpected.or_else(|| words.pop_front());
            break;
        }
        let Some(body) = word.strip_prefix("--") else {
            if let Some(letter) = word.strip_prefix('-').and_then(|letters| letters.chars().next()) {
                return Err(SplitError::NoLetter(letter));
            }
            // Flags may follow a stray word: their mistakes are reported first, as getopt does by moving it to the end.
            unexpected.get_or_insert(word);
            continue;
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let &(name, takes) = find(&word, name, table)?;
        let value = match (takes, value) {
            (_, Some(value)) => value,
            (Takes::NoValue, None) => String::new(),
            (Takes::Value, None) => words.pop_front().ok_or_else(|| SplitError::MissingValue(name.to_owned()))?,
        };
        given.push(Given { name, value });
    }
    unexpected.map_or(Ok(given), |word| Err(SplitError::Unexpected(word)))
}

/// The flag of that name, or of a longer one that only begins so; `word` is how it was given.
fn find<'a, 'table>(
    word: &str,
    name: &str,
    table: &'a [(&'table str, Takes)],
) -> Result<&'a (&'table str, Takes), SplitError> {
    if let Some(exact) = table.iter().find(|(known, _)| *known == name) {
        return Ok(exact);
    }
    let candidates: Vec<_> = table.iter().filter(|(known, _)| !name.is_empty() && known.starts_with(name)).collect();
    match candidates.as_slice() {
        [only] => Ok(only),
        [] => Err(match nearest(name, table) {
            Some(known) => SplitError::Misspelt(word.to_owned(), known.to_owned()),
            None => SplitError::Unknown(word.to_owned()),
        }),
        several => {
            let names: Vec<_> = several.iter().map(|(known, _)| format!("'--{known}'")).collect();
            Err(SplitError::Ambiguous(word.to_owned(), names.join(" ")))
        }
    }
}

/// The known name with the fewest edits, if they are few: underscores for dashes, a typing mistake.
fn nearest<'table>(name: &str, table: &[(&'table str, Takes)]) -> Option<&'table str> {
    let scored = table.iter().map(|(known, _)| (distance(name, known), *known));
    scored
        .min()
        .filter(|(edits, known)| *edits <= 2.max(known.len() / 4) && *edits < known.len())
        .map(|(_, known)| known)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [(&str, Takes); 6] = [
        ("help", Takes::NoValue),
        ("http-port", Takes::Value),
        ("log-warning", Takes::Value),
        ("log-info", Takes::Value),
        ("log", Takes::Value),
        ("model-repository", Takes::Value),
    ];

    #[track_caller]
    fn check(line: &str, expect: Result<&[(&str, &str)], SplitError>) {
        let got = split(line.split_whitespace().map(str::to_owned), &TABLE);
        let got = got.as_ref().map(|given| given.iter().map(|g| (g.name, g.value.as_str())).collect::<Vec<_>>());
        assert_eq!(got, expect.as_ref().map(|expect| expect.to_vec()));
    }

    #[test]
    fn a_value_follows_an_equals_sign_or_is_the_next_word() {
        check("--http-port=1 --http-port 2", Ok(&[("http-port", "1"), ("http-port", "2")]));
        check("--http-port --help", Ok(&[("http-port", "--help")]));
        check("--model-repository=a=b", Ok(&[("model-repository", "a=b")]));
        check("--http-port=", Ok(&[("http-port", "")]));
    }

    #[test]
    fn a_flag_without_value_leaves_the_next_word_alone() {
        check("--help --http-port 1", Ok(&[("help", ""), ("http-port", "1")]));
        check("--help=true", Ok(&[("help", "true")]));
    }

    #[test]
    fn an_unambiguous_beginning_is_enough() {
        check("--log-warn=false --ht 3", Ok(&[("log-warning", "false"), ("http-port", "3")]));
    }

    #[test]
    fn a_full_name_wins_over_longer_ones() {
        check("--log x", Ok(&[("log", "x")]));
    }

    #[test]
    fn an_ambiguous_beginning_lists_what_it_could_be() {
        let both = "'--log-warning' '--log-info'";
        check("--log- 1", Err(SplitError::Ambiguous("--log-".into(), both.into())));
    }

    #[test]
    fn an_unknown_flag_is_named() {
        check("--colour=red", Err(SplitError::Unknown("--colour=red".into())));
        check("-v", Err(SplitError::NoLetter('v')));
        check("--=1", Err(SplitError::Unknown("--=1".into())));
    }

    #[test]
    fn a_misspelt_flag_gets_a_suggestion() {
        check("--http_port=1", Err(SplitError::Misspelt("--http_port=1".into(), "http-port".into())));
        check(
            "--model-repo-sitory=x",
            Err(SplitError::Misspelt("--model-repo-sitory=x".into(), "model-repository".into())),
        );
    }

    #[test]
    fn a_missing_value_and_a_stray_word_are_refused() {
        check("--http-port", Err(SplitError::MissingValue("http-port".into())));
        check("serve --http-port 1", Err(SplitError::Unexpected("serve".into())));
        check("--http-port 1 -- --help", Err(SplitError::Unexpected("--help".into())));
        check("--", Ok(&[]));
    }
}
