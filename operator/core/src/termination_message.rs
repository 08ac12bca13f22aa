//! Why a container failed, from the end of its log: the one sentence that says it. The kubelet hands over up to 2,048 bytes
//! (`terminationMessagePolicy: FallbackToLogsOnError`); usage texts and lines about the course of things are among them, and times
//! that differ each time.

use serde_json::Value;

/// What the launcher logs when its server has failed: the reason is in the lines before.
pub const CONTAINER_ENDS: &str = "the server did not end well; its container ends with it";

/// What the launcher logs when it starts its server again: which signal ended it is said in more fitting places.
pub const SERVER_RESTARTS: &str = "the server was ended by a signal and is started again";

/// What the server says of models that did not load, after having said why of each.
const MODELS_FAILED: &str = "failed to load all models";

/// How lines begin that follow the reason of the agent's command line.
const ADVICE: [&str; 3] = ["For more information, try ", "Usage: ", "tip: "];

/// Most bytes of it: a status is no log.
const LONGEST: usize = 512;

/// A line of a log.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    level: Level,
    text: std::borrow::Cow<'a, str>,
}

/// How much a line says about an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// What went right, or nearly.
    Course,
    /// What went wrong.
    Error,
    /// It does not say.
    Unknown,
}

/// The reason in the end of a log: its last error, else its last line. `None` if nothing was said.
pub fn reason(log: &str) -> Option<String> {
    let lines: Vec<_> = log.lines().map(parse).filter(says_something).collect();
    let errors = || lines.iter().rev().filter(|line| line.level != Level::Course);
    let last = errors().find(|line| !line.text.ends_with(MODELS_FAILED)).or(errors().next()).or(lines.last())?;
    Some(shortened(&last.text))
}

/// The last error in the end of a log, of a process that did not end by itself: models that did not load are no reason for that, and
/// what went right even less.
pub fn error(log: &str) -> Option<String> {
    let mut lines = log.lines().rev().map(parse).filter(says_something);
    let last = lines.find(|line| line.level != Level::Course && !line.text.ends_with(MODELS_FAILED))?;
    Some(shortened(&last.text))
}

/// Whether a line may be a reason: it is a sentence, no rule or row of a table, and not of those that follow a reason.
fn says_something(line: &Line<'_>) -> bool {
    let text = &line.text;
    let is_table = text.starts_with(['+', '|']);
    let is_prose = text.chars().any(char::is_alphanumeric);
    is_prose
        && !is_table
        && text != CONTAINER_ENDS
        && text != SERVER_RESTARTS
        && !ADVICE.iter().any(|advice| text.starts_with(advice))
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    let known = json(line).or_else(|| triton(line)).or_else(|| iso(line));
    known.unwrap_or(Line { level: Level::Unknown, text: line.into() })
}

/// An object with a message and, perhaps, a level.
fn json(line: &str) -> Option<Line<'_>> {
    let fields: serde_json::Map<String, Value> = serde_json::from_str(line).ok()?;
    let level = fields.get("level").or_else(|| fields.get("severity")).and_then(Value::as_str);
    let level = level.and_then(|level| level.chars().next()).map_or(Level::Unknown, Level::of);
    let text = fields.get("message").or_else(|| fields.get("msg"))?.as_str()?.to_owned();
    Some(Line { level, text: text.into() })
}

/// `E1129 05:20:51.490539 522 telemetry.rs:55] "error: …"`
fn triton(line: &str) -> Option<Line<'_>> {
    let (head, text) = line.split_once("] ")?;
    let mut words = head.split(' ');
    let (stamp, time) = (words.next()?, words.next()?);
    let level = stamp.chars().next().filter(char::is_ascii_uppercase)?;
    let is_stamp = stamp.len() == 5 && stamp[1..].bytes().all(|byte| byte.is_ascii_digit()) && time.contains(':');
    is_stamp.then(|| Line { level: Level::of(level), text: unquoted(text) })
}

/// `2026-11-29T05:20:51Z E 522 telemetry.rs:55] "error: …"`
fn iso(line: &str) -> Option<Line<'_>> {
    let (head, text) = line.split_once("] ")?;
    let mut words = head.split(' ');
    let (stamp, level) = (words.next()?, words.next()?);
    let is_stamp = stamp.len() == 20 && stamp.ends_with('Z') && stamp.as_bytes()[10] == b'T' && level.len() == 1;
    is_stamp.then(|| Line { level: level.chars().next().map_or(Level::Unknown, Level::of), text: unquoted(text) })
}

impl Level {
    fn of(letter: char) -> Self {
        match letter.to_ascii_uppercase() {
            'E' | 'F' | 'C' => Self::Error,
            'I' | 'W' | 'D' | 'T' | 'V' => Self::Course,
            _ => Self::Unknown,
        }
    }
}

/// The message without the quotes and escapes that the server puts around it.
fn unquoted(text: &str) -> std::borrow::Cow<'_, str> {
    serde_json::from_str::<String>(text).map_or(text.into(), Into::into)
}

/// On one line, and no longer than it should be.
fn shortened(text: &str) -> String {
    let text = text.split(|it: char| it.is_whitespace() || it.is_control()).filter(|word| !word.is_empty());
    let mut text = text.collect::<Vec<_>>().join(" ");
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(log: &str, expect: &str) {
        assert_eq!(reason(log).as_deref().unwrap_or("nothing"), expect);
    }

    #[test]
    fn the_reason_is_the_last_error_whatever_form_its_line_has() {
        check(
            "        Use --trace-config. Default is 0.\n\nunrecognized option '--no-such'\n\
             {\"level\":\"ERROR\",\"message\":\"the server did not end well; its container ends with it\",\"code\":1}\n",
            "unrecognized option '--no-such'",
        );
        check(
            "I1129 05:20:51.490084 522 lifecycle.rs:91] \"listens at 0.0.0.0:8002\"\n\
             E1129 05:20:51.490539 522 telemetry.rs:55] \"error: no \\\"folder\\\"\"\n\
             I1129 05:20:51.490545 522 lifecycle.rs:91] \"closing\"\n",
            "error: no \"folder\"",
        );
        check(
            "error: unexpected argument '--adopt' found\n\n  tip: use '-- --adopt'\n\nUsage: triton-agent run [OPTIONS]\n\n\
             For more information, try '--help'.\n",
            "error: unexpected argument '--adopt' found",
        );
        check("2026-11-29T05:20:51Z E 522 telemetry.rs:55] \"error: taken\"", "error: taken");
        check("{\"severity\":\"E\",\"msg\":\"worse\"}\n{\"severity\":\"I\",\"msg\":\"bye\"}", "worse");
        check("Traceback:\n  File \"x\"\nValueError: no\tsuch\u{7}  thing\n", "ValueError: no such thing");
    }

    #[test]
    fn without_an_error_it_is_the_last_line_and_without_a_line_nothing() {
        check("I1129 05:20:51.490084 522 lifecycle.rs:91] \"loading\"\n", "loading");
        check("", "nothing");
        check(" \n{\"message\":\"the server did not end well; its container ends with it\"}\n\n", "nothing");
    }

    #[test]
    fn tables_and_what_only_repeats_are_no_reason() {
        let table = "+---+\n| model | version | status |\n+---+\n";
        check(&format!("ValueError: no\n{table}"), "ValueError: no");
        check(table, "nothing");
        let failed = "E1129 05:20:51.490539 522 lifecycle.rs:9] \"failed to load 'm' version 1: Internal: no\"\n";
        let all = "E1129 05:20:51.490540 522 telemetry.rs:55] \"error: creating server: Internal - failed to load all models\"\n";
        check(&format!("{failed}{all}"), "failed to load 'm' version 1: Internal: no");
        check(all, "error: creating server: Internal - failed to load all models");
    }

    #[test]
    fn of_a_process_that_was_ended_only_an_error_counts() {
        let said = |log: &str| error(log).unwrap_or_else(|| "nothing".into());
        assert_eq!(said("I1129 05:20:51.490084 522 lifecycle.rs:91] \"loading\"\n+---+\n"), "nothing");
        assert_eq!(
            said("E1129 05:20:51.490540 522 telemetry.rs:55] \"error: failed to load all models\"\n"),
            "nothing"
        );
        let launcher = format!("{{\"level\":\"ERROR\",\"message\":\"{SERVER_RESTARTS}\",\"signal\":6}}");
        assert_eq!(said(&format!("free(): invalid pointer\n{launcher}\n")), "free(): invalid pointer");
    }

    #[test]
    fn junk_is_cut_to_a_line_of_its_own() {
        check("] [] {} \u{0}", "nothing");
        check("] [a] {} \u{0}", "] [a] {}");
        check("{\"message\":3}", "{\"message\":3}");
        check("É129 05:0] x", "É129 05:0] x");
        check("2026-11-29T05:20:5éZ E] x", "2026-11-29T05:20:5éZ E] x");
        let long = reason(&"é".repeat(2000)).unwrap();
        assert!(long.len() <= LONGEST && long.ends_with('…'), "{}", long.len());
    }
}
