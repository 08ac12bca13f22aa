//! The last lines that a worker wrote to its standard error, for the reason of its end. Bounded.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Most lines kept.
const MOST_LINES: usize = 20;
/// Most bytes kept of one line or traceback.
const MOST_BYTES: usize = 2 << 10;

/// The last lines. Written by one thread, read by another.
#[derive(Debug, Default)]
pub(crate) struct RecentOutput(Mutex<VecDeque<String>>);

impl RecentOutput {
    /// Adds a line or a traceback; of a long one its end is kept.
    pub(crate) fn add(&self, text: &str) {
        let mut lines = self.0.lock();
        if lines.len() == MOST_LINES {
            lines.pop_front();
        }
        let start = text.ceil_char_boundary(text.len().saturating_sub(MOST_BYTES));
        lines.push_back(text[start..].to_owned());
    }

    /// All of them, one below the other.
    pub(crate) fn text(&self) -> String {
        self.0.lock().make_contiguous().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_of_long_ones_the_end() {
        let words = RecentOutput::default();
        (0..100).for_each(|number| words.add(&number.to_string()));
        words.add(&format!("{}end", "\u{20ac}".repeat(1000)));
        let text = words.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[18]), (MOST_LINES, "81", "99"));
        assert!(lines[19].ends_with("\u{20ac}end") && lines[19].len() <= MOST_BYTES, "{}", lines[19].len());
    }
}
