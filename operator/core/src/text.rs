//! Texts from elsewhere (names of files, words of servers and stores) on their way to a status, an event or a terminal.

use std::borrow::Cow;

/// Whether a character shows nothing of itself, and may change how what is around it is shown: controls, marks of the writing
/// direction, characters without width.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text in one line: white space is one blank, characters that are hidden are written as `\u{...}`.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let is_fine = |c: char| !is_hidden(c) && (c == ' ' || !c.is_whitespace());
    if text.chars().all(is_fine) && !text.contains("  ") && text.trim() == text {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if is_hidden(c) { line.extend(c.escape_unicode()) } else { line.push(c) }
        }
    }
    Cow::Owned(line)
}

/// The beginning of `text` in one line, at most `max` bytes, whole characters only.
pub(crate) fn cut(text: &str, max: usize) -> String {
    let text = one_line(text);
    if text.len() <= max {
        return text.into_owned();
    }
    const MORE: char = '…';
    let end = text.floor_char_boundary(max - MORE.len_utf8());
    format!("{}{MORE}", &text[..end])
}

/// Sentences in one line, with `; ` between them: what ends one of them by itself is taken off.
pub(crate) fn joined<S: AsRef<str>>(sentences: impl IntoIterator<Item = S>) -> String {
    let ends = |c: char| matches!(c, ';' | ',') || c.is_whitespace();
    let mut all = String::new();
    for sentence in sentences {
        let sentence = sentence.as_ref().trim_matches(ends);
        if sentence.is_empty() {
            continue;
        }
        if !all.is_empty() {
            all.push_str("; ");
        }
        all.push_str(sentence);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_upon_is_written_out() {
        for (text, expect) in [
            ("as it is: 'größe' \\ 日本", "as it is: 'größe' \\ 日本"),
            ("Traceback:\n  File \"x\"\r\n\tdies\n", "Traceback: File \"x\" dies"),
            ("1/\u{1b}[31mRED\u{0}/x", "1/\\u{1b}[31mRED\\u{0}/x"),
            ("\u{202e}fdp.exe a\u{200b}b", "\\u{202e}fdp.exe a\\u{200b}b"),
            ("", ""),
        ] {
            assert_eq!(one_line(text), expect);
            assert_eq!(one_line(expect), expect, "and stays so");
        }
    }

    #[test]
    fn sentences_are_joined_without_their_own_ends() {
        assert_eq!(
            joined(["not in /backends/nowhere.;", "no further replica"]),
            "not in /backends/nowhere.; no further replica"
        );
        assert_eq!(joined(["in initialize\n;", "", " ; ", "a; b"]), "in initialize; a; b");
        assert_eq!(joined([""; 2]), "");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("aäöü", 6), "aä…");
        assert_eq!(cut("in\n\u{1b}x", 20), "in \\u{1b}x");
        assert!(cut(&"ä".repeat(5000), 1024).len() <= 1024);
    }
}
