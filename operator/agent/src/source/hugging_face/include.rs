//! Which files of a repository are taken: patterns as Python's fnmatch has them, which `hf download --include` uses too. Pure.

/// Files that are about the repository and not about the model.
const ABOUT_THE_REPOSITORY: [&str; 3] = [".gitattributes", ".gitignore", "README.md"];

/// Whether a repository's file of that path is taken by `patterns`. Without patterns, all are that belong to the model.
pub(super) fn is_taken(path: &str, patterns: &[String]) -> bool {
    if patterns.is_empty() {
        return !ABOUT_THE_REPOSITORY.contains(&path);
    }
    patterns.iter().any(|pattern| match pattern.strip_suffix('/') {
        Some(folder) => matches(&format!("{folder}/*"), path), // a folder means what is in it
        None => matches(pattern, path),
    })
}

/// What one place of a pattern takes.
enum Place {
    /// Any text, slashes included.
    Any,
    /// One character, whichever.
    One,
    /// One of these characters (ranges, ends included), or, if `is_not`, one of the others.
    Of { ranges: Vec<(char, char)>, is_not: bool },
    /// This one.
    Just(char),
}

/// Whether the whole of `text` is what `pattern` says. Time: at most the product of both lengths.
fn matches(pattern: &str, text: &str) -> bool {
    let places = places(pattern);
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut next) = (0, 0);
    // where the last `*` stands, and how much of the text it has taken so far
    let mut last_any: Option<(usize, usize)> = None;
    while next < text.len() {
        match places.get(at) {
            Some(Place::Any) => {
                last_any = Some((at, next));
                at += 1;
            }
            Some(place) if place.takes(text[next]) => {
                at += 1;
                next += 1;
            }
            _ => match last_any {
                Some((any, taken)) => {
                    last_any = Some((any, taken + 1));
                    (at, next) = (any + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    places[at..].iter().all(|place| matches!(place, Place::Any))
}

impl Place {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Of { ranges, is_not } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *is_not,
            Self::Just(just) => *just == c,
        }
    }
}

fn places(pattern: &str) -> Vec<Place> {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut places = Vec::with_capacity(pattern.len());
    let mut at = 0;
    while at < pattern.len() {
        at += 1;
        places.push(match pattern[at - 1] {
            '*' => Place::Any,
            '?' => Place::One,
            '[' => match set(&pattern[at..]) {
                Some((place, length)) => {
                    at += length;
                    place
                }
                None => Place::Just('['), // never closed: it stands for itself
            },
            c => Place::Just(c),
        });
    }
    places
}

/// The set behind a `[`, and its length with the `]`.
fn set(rest: &[char]) -> Option<(Place, usize)> {
    let is_not = rest.first() == Some(&'!');
    let start = usize::from(is_not);
    // a `]` right at the beginning is one of the characters
    let end = start + 1 + rest.get(start + 1..)?.iter().position(|c| *c == ']')?;
    let inside = &rest[start..end];
    let mut ranges = vec![];
    let mut at = 0;
    while at < inside.len() {
        match inside[at..] {
            [low, '-', high, ..] => {
                ranges.push((low, high));
                at += 3;
            }
            _ => {
                ranges.push((inside[at], inside[at]));
                at += 1;
            }
        }
    }
    Some((Place::Of { ranges, is_not }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_those_of_python_do() {
        // what fnmatch.fnmatchcase of Python 3.11 says
        for (pattern, text, is_match) in [
            ("*", "", true),
            ("*", "a/b", true),
            ("*.onnx", "onnx/model.onnx", true),
            ("*.onnx", "model.onnx_data", false),
            ("onnx/*", "onnx/a/b", true),
            ("onnx/*", "onnx", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "a/c", true),
            ("[ab].bin", "b.bin", true),
            ("[!ab].bin", "b.bin", false),
            ("[!ab].bin", "c.bin", true),
            ("v[0-9].bin", "v7.bin", true),
            ("v[0-9].bin", "vx.bin", false),
            ("[]].bin", "].bin", true),
            ("[!]].bin", "].bin", false),
            ("[a-].bin", "-.bin", true),
            ("[a", "[a", true),
            ("[]", "[]", true),
            ("**a**b**", "xxaxxbxx", true),
            ("a*b*c", "abxbc", true),
            ("a*b*c", "abxb", false),
            ("é*", "éa", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_made_to_take_for_ever_does_not() {
        let pattern = "*a".repeat(128);
        assert!(!matches(&pattern, &"a".repeat(127)));
        assert!(!matches(&pattern, &format!("{}b", "a".repeat(4000))));
    }

    #[test]
    fn without_patterns_all_that_belongs_to_the_model_is_taken() {
        let taken = |path: &str| is_taken(path, &[]);
        assert!(taken("model.onnx") && taken("1/README.md") && taken("config.pbtxt"));
        assert!(!taken("README.md") && !taken(".gitattributes") && !taken(".gitignore"));
        let patterns = ["onnx/".to_owned(), "README.md".to_owned()];
        assert!(is_taken("onnx/model.onnx", &patterns) && is_taken("README.md", &patterns));
        assert!(!is_taken("model.onnx", &patterns));
    }
}
