//! Where lines are written: on a terminal a table that is painted anew in its place, below the lines of what happened; anywhere
//! else the lines alone.

use std::io::{self, IsTerminal, Write};

use super::report::Line;

/// Standard output as the user sees it.
#[derive(Debug)]
pub(crate) struct Screen {
    is_live: bool,
    /// Lines of the table that stand on the screen.
    painted: usize,
}

impl Screen {
    /// With a table if standard output is a terminal, unless only lines are wanted.
    pub(crate) fn new(lines_only: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_live: !lines_only && !is_dumb && io::stdout().is_terminal(), painted: 0 }
    }

    /// Characters per line, and lines.
    pub(crate) fn size(&self) -> (usize, usize) {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let or = |number: Option<u16>, usual| number.map(usize::from).filter(|number| *number > 4).unwrap_or(usual) - 1;
        (or(size.as_ref().map(|size| size.ws_col), 80), or(size.as_ref().map(|size| size.ws_row), 24))
    }

    /// Shows what happened, and where everything stands now.
    pub(crate) fn show(&mut self, lines: &[Line], table: &[String]) {
        let is_live = self.is_live;
        let lines = lines.iter().filter(|line| !(is_live && line.is_in_table)).map(|line| line.text.as_str());
        let text = self.paint(lines, table);
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush()); // whoever read it may have left
    }

    /// Shows lines of which the table says nothing.
    pub(crate) fn say(&mut self, lines: &[String], table: &[String]) {
        let lines: Vec<Line> = lines.iter().map(|text| Line { text: text.clone(), is_in_table: false }).collect();
        self.show(&lines, table);
    }

    fn paint<'a>(&mut self, lines: impl Iterator<Item = &'a str>, table: &[String]) -> String {
        let mut text = String::new();
        if self.painted > 0 {
            // up to the first line of the table, and clear from there
            text += &format!("\x1b[{}A\r\x1b[J", self.painted);
        }
        for line in lines {
            text += line;
            text.push('\n');
        }
        if self.is_live {
            for line in table {
                text += line;
                text.push('\n');
            }
            self.painted = table.len();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_terminal_the_table_stays_below_the_lines() {
        let mut screen = Screen { is_live: true, painted: 0 };
        let table = ["vision".to_owned(), "  digits".to_owned()];
        assert_eq!(screen.paint(["one"].into_iter(), &table), "one\nvision\n  digits\n");
        assert_eq!(screen.paint(["two"].into_iter(), &table[..1]), "\x1b[2A\r\x1b[Jtwo\nvision\n");
        assert_eq!(screen.painted, 1);
    }

    #[test]
    fn elsewhere_there_are_lines_only() {
        let mut screen = Screen { is_live: false, painted: 0 };
        assert_eq!(screen.paint(["one"].into_iter(), &["vision".to_owned()]), "one\n");
    }
}
