//! Label selectors as text, the way they stand in a URL: `a=b,c in (d,e),!f`. Pure.

use std::collections::BTreeSet;

use kube_core::{Expression, Selector};

/// Longest text of a selector, in bytes.
const LONGEST: usize = 16 << 10;

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It is longer than is read.
    #[error("the selector has more than {LONGEST} bytes")]
    TooLong,
    /// One of its requirements is malformed.
    #[error(
        "'{0}' is no requirement of a label selector: write key, !key, key=value, key!=value, key in (a,b) or key notin (a,b)"
    )]
    Malformed(String),
}

/// Reads a selector; an empty one selects everything.
///
/// Errors: [`SelectorError`]. The operators `<` and `>` are for nodes and not taken.
/// Source: "Labels and Selectors" of Kubernetes.
pub fn parse(text: &str) -> Result<Selector, SelectorError> {
    if text.len() > LONGEST {
        return Err(SelectorError::TooLong);
    }
    let mut selector = Selector::default();
    let mut rest = text.trim();
    while !rest.is_empty() {
        // the comma that ends a requirement stands outside of parentheses
        let mut is_within = false;
        let end = rest.find(|letter: char| {
            is_within = letter == '(' || (is_within && letter != ')');
            letter == ',' && !is_within
        });
        let (one, after) = rest.split_at(end.unwrap_or(rest.len()));
        let one = one.trim();
        selector.extend(requirement(one).ok_or_else(|| SelectorError::Malformed(one.to_owned()))?);
        rest = match after.strip_prefix(',').map(str::trim) {
            Some("") => return Err(SelectorError::Malformed(String::new())),
            Some(more) => more,
            None => "",
        };
    }
    Ok(selector)
}

fn requirement(text: &str) -> Option<Expression> {
    if let Some(name) = text.strip_prefix('!') {
        return Some(Expression::DoesNotExist(key(name)?));
    }
    if let Some(list) = text.strip_suffix(')') {
        let (left, list) = list.split_once('(')?;
        let values: BTreeSet<String> = list.split(',').map(value).collect::<Option<_>>()?;
        let (name, operator) = left.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Expression::In(key(name)?, values)),
            "notin" => Some(Expression::NotIn(key(name)?, values)),
            _ => None,
        };
    }
    if let Some((name, other)) = text.split_once("!=") {
        return Some(Expression::NotEqual(key(name)?, value(other)?));
    }
    if let Some((name, other)) = text.split_once('=') {
        return Some(Expression::Equal(key(name)?, value(other.strip_prefix('=').unwrap_or(other))?));
    }
    key(text).map(Expression::Exists)
}

fn key(text: &str) -> Option<String> {
    let text = text.trim();
    let is_key = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    is_key.then(|| text.to_owned())
}

fn value(text: &str) -> Option<String> {
    let text = text.trim();
    let is_value = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    is_value.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use kube_core::SelectorExt;
    use proptest::prelude::*;

    use super::*;

    fn selects(text: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        parse(text).unwrap().matches(&labels)
    }

    #[test]
    fn selectors_select_what_they_say() {
        let labels = [("app", "vision"), ("example.com/tier", "a")];
        for text in [
            "",
            "app",
            "app=vision",
            " app == vision , example.com/tier in (a, b) ",
            "app!=speech",
            "app notin (speech,text),!other",
            "other notin (x)",
            "example.com/tier in (a),app in (vision)",
        ] {
            assert!(selects(text, &labels), "{text}");
        }
        for text in ["!app", "app=speech", "app in ()", "app in (speech)", "other", "app=", "app notin (vision)"] {
            assert!(!selects(text, &labels), "{text}");
        }
        assert!(parse("").unwrap().selects_all());
    }

    #[test]
    fn junk_is_refused() {
        for text in [
            ",",
            "a,",
            ",a",
            "a=b=c",
            "a in",
            "a in b",
            "a within (b)",
            "in (b)",
            "a in (b",
            "a in b)",
            "a>5",
            "a b",
            "=b",
            "a=b;c",
            "a in ((b))",
            "!",
            "\u{1f980}",
            "a in (b) c",
        ] {
            assert!(matches!(parse(text), Err(SelectorError::Malformed(_))), "{text} {:?}", parse(text));
        }
        assert_eq!(parse(&"a".repeat(LONGEST + 1)), Err(SelectorError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "[ab=!,()n i/.]{0,24}") {
            if let Ok(selector) = parse(&text) {
                prop_assert_eq!(parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
