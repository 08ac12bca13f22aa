//! An event of `tracing`, taken apart for a log line: its message, its fields, where it comes from.

use std::{borrow::Cow, fmt};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

/// What a line is made of.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    pub(super) level: Level,
    /// File name without folders.
    pub(super) file: Cow<'static, str>,
    pub(super) line: u32,
    pub(super) message: String,
    /// Lines under the message, shown as they are: the field `table`.
    pub(super) table: Option<String>,
    pub(super) fields: Vec<(&'static str, FieldValue)>,
}

/// A field, so far as its kind matters to a reader of JSON.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FieldValue {
    Text(String),
    /// Numbers and booleans, as they are written.
    Plain(String),
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let path = metadata.file().unwrap_or("unknown");
        let mut record = Self {
            level: *metadata.level(),
            file: path.rsplit('/').next().unwrap_or(path).into(),
            line: metadata.line().unwrap_or(0),
            message: String::new(),
            table: None,
            fields: Vec::new(),
        };
        event.record(&mut record);
        record
    }

    fn add(&mut self, field: &Field, value: FieldValue) {
        match (field.name(), value) {
            ("message", FieldValue::Text(text)) => self.message = text,
            ("table", FieldValue::Text(text)) => self.table = Some(text),
            // the place of a line that another program wrote: a model
            ("log.file", FieldValue::Text(path)) => {
                self.file = path.rsplit('/').next().unwrap_or(&path).to_owned().into();
            }
            ("log.line", FieldValue::Plain(line)) => self.line = line.parse().unwrap_or(0),
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, FieldValue::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, FieldValue::Text(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, FieldValue::Plain(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, FieldValue::Plain(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, FieldValue::Plain(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for infinity: those go as text.
        let plain = if value.is_finite() { FieldValue::Plain } else { FieldValue::Text };
        self.add(field, plain(value.to_string()));
    }
}
