//! Triton's two looks of a log line, and the quotes around its message.
//!
//! Source: Triton log format: level letter, UTC time, process id, place, then the message as a JSON string.

use std::fmt::Write;

use tracing::Level;

use super::{
    event::{FieldValue, Record},
    stamp::Stamp,
};

/// `--log-format` among the text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `I0521 12:34:56.789012 1234 file.rs:99] "message"`
    Default,
    /// `2026-05-21T12:34:56Z I 1234 file.rs:99] "message"`
    Iso8601,
}

/// The whole line, with its end; fields stand after the message as ` key=value`.
pub(super) fn render(record: &Record, now: Stamp, pid: u32, style: Style, is_escaped: bool) -> String {
    let letter = match record.level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let Stamp { year, month, day, hour, minute, second, micros } = now;
    let mut line = String::with_capacity(80 + record.message.len());
    let _ = match style {
        Style::Default => {
            write!(line, "{letter}{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} {pid} ")
        }
        Style::Iso8601 => {
            write!(line, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z {letter} {pid} ")
        }
    };
    let _ = write!(line, "{}:{}] ", record.file, record.line);
    let message = message(record);
    if is_escaped {
        quote(&message, &mut line)
    } else {
        line.push_str(&message)
    }
    line.push('\n');
    if let Some(table) = &record.table {
        line.push_str(table.trim_end());
        line.push('\n');
    }
    line
}

fn message(record: &Record) -> String {
    let mut text = record.message.clone();
    for (name, value) in &record.fields {
        if !text.is_empty() {
            text.push(' ');
        }
        let _ = match value {
            FieldValue::Text(value) if value.is_empty() || value.contains(char::is_whitespace) => {
                write!(text, "{name}={value:?}")
            }
            FieldValue::Text(value) | FieldValue::Plain(value) => write!(text, "{name}={value}"),
        };
    }
    text
}

/// Appends `text` as a JSON string.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(level: Level, message: &str) -> Record {
        Record { level, file: "file.rs".into(), line: 99, message: message.into(), table: None, fields: Vec::new() }
    }

    #[track_caller]
    fn check(record: &Record, style: Style, expect: &str) {
        let now = Stamp::from_epoch(Duration::new(1_795_222_095, 537_797_000));
        assert_eq!(render(record, now, 27_151, style, true), expect);
    }

    #[test]
    fn the_default_look_is_that_of_glog() {
        check(&record(Level::INFO, "message"), Style::Default, "I1121 00:48:15.537797 27151 file.rs:99] \"message\"\n");
        check(&record(Level::ERROR, "no"), Style::Default, "E1121 00:48:15.537797 27151 file.rs:99] \"no\"\n");
        check(&record(Level::WARN, "hm"), Style::Default, "W1121 00:48:15.537797 27151 file.rs:99] \"hm\"\n");
        check(&record(Level::DEBUG, "oh"), Style::Default, "I1121 00:48:15.537797 27151 file.rs:99] \"oh\"\n");
    }

    #[test]
    fn the_other_look_is_iso8601() {
        let expect = "2026-11-21T00:48:15Z I 27151 file.rs:99] \"message\"\n";
        check(&record(Level::INFO, "message"), Style::Iso8601, expect);
    }

    #[test]
    fn a_message_is_escaped_as_a_json_string() {
        let record = record(Level::INFO, "a \"b\"\n\tc\\d\u{1}é");
        let expect = "I1121 00:48:15.537797 27151 file.rs:99] \"a \\\"b\\\"\\n\\tc\\\\d\\u0001é\"\n";
        check(&record, Style::Default, expect);
        let now = Stamp::from_epoch(Duration::ZERO);
        let raw = render(&record, now, 1, Style::Iso8601, false);
        assert_eq!(raw, "1970-01-01T00:00:00Z I 1 file.rs:99] a \"b\"\n\tc\\d\u{1}é\n");
    }

    #[test]
    fn fields_follow_the_message() {
        let mut record = record(Level::INFO, "loaded");
        record.fields = vec![
            ("model", FieldValue::Text("resnet".into())),
            ("version", FieldValue::Plain("3".into())),
            ("reason", FieldValue::Text("two words".into())),
        ];
        let expect = r#"I1121 00:48:15.537797 27151 file.rs:99] "loaded model=resnet version=3 reason=\"two words\"""#;
        check(&record, Style::Default, &format!("{expect}\n"));
    }

    #[test]
    fn a_table_stands_under_its_heading_as_it_is() {
        let mut record = record(Level::INFO, "Models");
        record.table = Some("+---+\n| a |\n+---+\n".into());
        check(&record, Style::Default, "I1121 00:48:15.537797 27151 file.rs:99] \"Models\"\n+---+\n| a |\n+---+\n");
    }
}
