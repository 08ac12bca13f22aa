//! Cuts what a process writes into lines for the log. Bounded: a line that does not end is cut, a traceback that does
//! not end too. Pure: bytes in, records out.

/// Longest line kept whole, in bytes; longer ones are cut into pieces of this length at most.
const LONGEST_LINE: usize = 8 << 10;
/// Longest traceback kept whole, in bytes.
const LONGEST_TRACEBACK: usize = 64 << 10;

/// Cuts the bytes of one pipe into records: lines, without their ends, and whole tracebacks.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The line that has not ended yet.
    partial: Vec<u8>,
    /// The traceback that has not ended yet.
    traceback: String,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// A line; empty ones are dropped.
    Line(String),
    /// A Python traceback with the exception at its end, over several lines.
    Traceback(String),
}

impl Lines {
    /// Takes what was read; gives the records that are complete with it.
    pub(crate) fn push(&mut self, mut bytes: &[u8], records: &mut Vec<Record>) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..at], records);
            self.end_line(records);
            bytes = &bytes[at + 1..];
        }
        self.extend(bytes, records);
    }

    /// The pipe has ended, or the process is silent: gives what is there of an unfinished record.
    pub(crate) fn flush(&mut self, records: &mut Vec<Record>) {
        self.end_line(records);
        self.end_traceback(records);
    }

    fn extend(&mut self, mut bytes: &[u8], records: &mut Vec<Record>) {
        while self.partial.len() + bytes.len() > LONGEST_LINE {
            let (head, rest) = bytes.split_at(LONGEST_LINE - self.partial.len());
            self.partial.extend_from_slice(head);
            let tail = self.partial.split_off(end_of_whole_characters(&self.partial));
            self.end_line(records);
            self.partial = tail;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn end_line(&mut self, records: &mut Vec<Record>) {
        let text = String::from_utf8_lossy(&self.partial);
        let text = text.trim_end_matches('\r');
        if !self.traceback.is_empty() {
            let is_inside = text.is_empty() || text.starts_with([' ', '\t']);
            if !self.partial.is_empty() {
                self.traceback.push('\n');
                self.traceback.push_str(text);
            }
            if !is_inside || self.traceback.len() > LONGEST_TRACEBACK {
                self.end_traceback(records);
            }
        } else if text == "Traceback (most recent call last):" {
            self.traceback.push_str(text);
        } else if !text.trim().is_empty() {
            records.push(Record::Line(text.to_owned()));
        }
        self.partial.clear();
    }

    fn end_traceback(&mut self, records: &mut Vec<Record>) {
        if !self.traceback.is_empty() {
            records.push(Record::Traceback(std::mem::take(&mut self.traceback)));
        }
    }
}

/// Where the last character begins that may go on behind the end; the length if none does.
fn end_of_whole_characters(bytes: &[u8]) -> usize {
    let begins = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
    let last = bytes.iter().rev().take(4).position(begins).map_or(bytes.len(), |back| bytes.len() - 1 - back);
    match bytes.get(last..).map(std::str::from_utf8) {
        Some(Err(error)) if error.error_len().is_none() && last > 0 => last,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushed in pieces of every length, the records are the same.
    #[track_caller]
    fn check(text: &[u8], expect: &[&str]) {
        for length in [1, 2, 3, 7, 8191, text.len().max(1)] {
            let (mut lines, mut records) = (Lines::default(), Vec::new());
            for piece in text.chunks(length) {
                lines.push(piece, &mut records);
            }
            lines.flush(&mut records);
            assert!(lines.partial.is_empty() && lines.traceback.is_empty());
            let records: Vec<&str> = records
                .iter()
                .map(|record| match record {
                    Record::Line(text) | Record::Traceback(text) => text.as_str(),
                })
                .collect();
            assert_eq!(records, expect, "in pieces of {length}");
        }
    }

    #[test]
    fn lines_come_without_their_ends_and_empty_ones_not_at_all() {
        check(b"one\ntwo\r\n\n  \nlast", &["one", "two", "last"]);
        check(b"", &[]);
        check("gr\u{fc}n\n\u{1f600}\n".as_bytes(), &["gr\u{fc}n", "\u{1f600}"]);
        check(b"not \xff text\n", &["not \u{fffd} text"]);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let text = "\u{20ac}".repeat(5000); // 15,000 bytes
        check(text.as_bytes(), &[&"\u{20ac}".repeat(2730), &"\u{20ac}".repeat(2270)]);
        let garbage = [0x80; 10_000];
        check(&garbage, &[&"\u{fffd}".repeat(8192), &"\u{fffd}".repeat(1808)]);
    }

    #[test]
    fn a_traceback_stays_whole() {
        let traceback = "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    f()\n    ~^^\nValueError: no";
        check(format!("before\n{traceback}\nafter\n").as_bytes(), &["before", traceback, "after"]);
        check(
            format!("{traceback}\n\nDuring handling of it\n\n{traceback}").as_bytes(),
            &[traceback, "During handling of it", traceback],
        );
        let mut records = Vec::new();
        Lines::default().push(format!("{traceback}\n").as_bytes(), &mut records);
        assert_eq!(records, [Record::Traceback(traceback.to_owned())]);
    }

    #[test]
    fn a_traceback_that_does_not_end_is_cut() {
        let mut text = String::from("Traceback (most recent call last):\n");
        text.push_str(&"  and so on and so on and so on\n".repeat(5000)); // 155 kB
        let mut records = Vec::new();
        Lines::default().push(text.as_bytes(), &mut records);
        let Some(Record::Traceback(first)) = records.first() else { panic!("{records:?}") };
        assert!((LONGEST_TRACEBACK..LONGEST_TRACEBACK + 100).contains(&first.len()), "{}", first.len());
    }
}
