//! `--log-format=json`: one object per event, for programs that collect logs.

use std::fmt::Write;

use super::{
    event::{FieldValue, Record},
    line::quote,
    stamp::Stamp,
};

/// Names the object has anyway; a field of the same name gets a `_` behind it.
const OWN_NAMES: [&str; 7] = ["time", "level", "pid", "file", "line", "message", "table"];

/// The whole line, with its end: time, level, place, message, then the event's own fields.
pub(super) fn render(record: &Record, now: Stamp, pid: u32) -> String {
    let Stamp { year, month, day, hour, minute, second, micros } = now;
    let Record { level, file, line, message, table, fields } = record;
    let mut text = format!(
        "{{\"time\":\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z\",\
         \"level\":\"{level}\",\"pid\":{pid},\"file\":"
    );
    quote(file, &mut text);
    let _ = write!(text, ",\"line\":{line},\"message\":");
    quote(message, &mut text);
    if let Some(table) = table {
        text.push_str(",\"table\":");
        quote(table, &mut text);
    }
    for (name, value) in fields {
        let mark = if OWN_NAMES.contains(name) { "_" } else { "" };
        let _ = write!(text, ",\"{name}{mark}\":");
        match value {
            FieldValue::Text(value) => quote(value, &mut text),
            FieldValue::Plain(value) => text.push_str(value),
        }
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing::Level;

    use super::*;

    #[test]
    fn an_event_is_one_object_with_its_fields() {
        let record = Record {
            level: Level::WARN,
            file: "file.rs".into(),
            line: 99,
            message: "a \"b\"\n".into(),
            table: None,
            fields: vec![
                ("model", FieldValue::Text("m\\1".into())),
                ("version", FieldValue::Plain("3".into())),
                ("line", FieldValue::Plain("7".into())),
            ],
        };
        let now = Stamp::from_epoch(Duration::new(1_795_222_095, 537_797_000));
        let expect = concat!(
            r#"{"time":"2026-11-21T00:48:15.537797Z","level":"WARN","pid":1,"file":"file.rs","line":99,"#,
            r#""message":"a \"b\"\n","model":"m\\1","version":3,"line_":7}"#,
            "\n"
        );
        assert_eq!(render(&record, now, 1), expect);
    }
}
