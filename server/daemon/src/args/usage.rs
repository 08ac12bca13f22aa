//! The usage text, written from the table; and what is said with it of a command line that is wrong.

use std::fmt::Write;

use super::{
    error::ArgsError,
    flag::{Effect, Flag},
    table,
};

const WIDTH: usize = 100;
const INDENT: &str = "        ";

/// Every flag under its heading: how to write it, what it does, its default.
pub(crate) fn usage() -> String {
    let mut text = String::from("Usage: tritonserver --model-repository=<path> [options]\n");
    for group in table::GROUPS {
        text.push('\n');
        if !group.title.is_empty() {
            let _ = writeln!(text, "{}:", group.title);
        }
        for flag in group.flags {
            describe(flag, &mut text);
        }
    }
    text
}

impl ArgsError {
    /// What the program called `program` says before it ends: the reason last, where it is seen, behind the usage text unless
    /// the words of the line are right each by itself; and first what `getopt_long` says at once.
    pub(crate) fn report(&self, program: &str) -> String {
        match self {
            Self::NoRepository
            | Self::Repository(_)
            | Self::Wildcard
            | Self::HostPolicySetting(_)
            | Self::NoEndpoint
            | Self::NoCertificate(_)
            | Self::NoRootCertificate(_) => format!("{self}\n"),
            _ => {
                let at_once = if let Self::Split(error) = self { error.of_getopt() } else { None };
                let at_once = at_once.map(|text| format!("{program}: {text}\n")).unwrap_or_default();
                format!("{at_once}{}\n{self}\n", usage())
            }
        }
    }
}

fn describe(flag: &Flag, text: &mut String) {
    let separator = if flag.form.is_empty() { "" } else { " " };
    let _ = writeln!(text, "  --{}{separator}{}", flag.name, flag.form);
    let mut help = flag.help.to_owned();
    if !flag.default.is_empty() {
        let _ = write!(help, " Default is {}.", flag.default);
    }
    match flag.effect {
        Effect::Unused(_) => help.push_str(" (Accepted and ignored.)"),
        Effect::Set(_) | Effect::Help | Effect::Version => {}
    }
    wrap(&help, text);
}

fn wrap(help: &str, text: &mut String) {
    let mut width = usize::MAX;
    for word in help.split_whitespace() {
        if width.saturating_add(word.len() + 1) > WIDTH {
            text.push_str(if width == usize::MAX { INDENT } else { "\n        " });
            width = INDENT.len();
        } else {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += word.len();
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_shown_with_its_help_within_the_width() {
        let usage = usage();
        for flag in table::flags() {
            assert!(usage.contains(&format!("\n  --{}", flag.name)), "{}", flag.name);
            assert!(flag.help.ends_with('.'), "{}", flag.name);
        }
        let too_long: Vec<_> = usage.lines().filter(|line| line.len() > WIDTH).collect();
        assert!(too_long.is_empty(), "{too_long:?}");
    }

    #[test]
    fn a_row_shows_form_help_and_default() {
        let expect = "  --http-port <port>\n        Port of the HTTP endpoint; 0 takes a free one. Default is 8000.\n";
        assert!(usage().contains(expect), "{}", usage());
    }
}
