//! Labels of a series: written once in each form, for however many families have a series with them.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use super::protobuf::wire;
use crate::stats::ModelSnapshot;

/// A name and its value.
pub type Label = (Cow<'static, str>, Arc<str>);

/// Labels in alphabetical order, as Triton prints them.
#[derive(Debug, Clone, Default)]
pub struct LabelSet {
    pairs: Vec<Label>,
    text: String,
    messages: OnceLock<Vec<u8>>,
}

impl LabelSet {
    /// Of names, which Prometheus must have, and values in any characters.
    pub fn new(mut pairs: Vec<Label>) -> Self {
        pairs.sort_unstable();
        let mut text = String::with_capacity(pairs.iter().map(|(name, value)| name.len() + value.len() + 4).sum());
        for (name, value) in &pairs {
            if !text.is_empty() {
                text.push(',');
            }
            text.extend([name, "=\""]);
            escape(&mut text, value);
            text.push('"');
        }
        Self { pairs, text, messages: OnceLock::new() }
    }

    /// Name and version of a model alone.
    pub(super) fn of_version(name: &str, version: u64) -> Arc<Self> {
        Arc::new(Self::new(vec![("model".into(), name.into()), version_label(version)]))
    }

    /// All that the series of a model have.
    pub(super) fn of_model(model: &ModelSnapshot) -> Self {
        let mut pairs = vec![("model".into(), model.name.as_str().into()), version_label(model.version)];
        pairs.extend(model.namespace.as_deref().map(|namespace| ("namespace".into(), namespace.into())));
        pairs.extend(model.gpu_uuid.as_deref().map(|uuid| ("gpu_uuid".into(), uuid.into())));
        pairs.extend(model.metric_tags.iter().map(|(key, value)| (format!("_{key}").into(), value.as_str().into())));
        Self::new(pairs)
    }

    /// The same and one more.
    pub(super) fn and(&self, label: Label) -> Self {
        let mut pairs = Vec::with_capacity(self.pairs.len() + 1);
        pairs.extend(self.pairs.iter().cloned());
        pairs.push(label);
        Self::new(pairs)
    }

    /// Names and values.
    pub fn pairs(&self) -> &[Label] {
        &self.pairs
    }

    /// As the text formats have them, without braces.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// As the protobuf format has them: all fields of the series that are labels.
    pub(super) fn messages(&self) -> &[u8] {
        self.messages.get_or_init(|| messages(&self.pairs))
    }
}

fn version_label(version: u64) -> Label {
    ("version".into(), itoa::Buffer::new().format(version).into())
}

/// A label's value in the text format: backslash, quote and line feed are escaped.
pub(crate) fn escape(text: &mut String, value: &str) {
    if !value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        return text.push_str(value);
    }
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

/// The labels of a `Metric`.
fn messages(labels: &[Label]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(labels.iter().map(|(name, value)| name.len() + value.len() + 8).sum());
    labels.iter().for_each(|(name, value)| write_pair(&mut bytes, name, value));
    bytes
}

/// `LabelPair`.
pub(super) fn write_pair(bytes: &mut Vec<u8>, name: &str, value: &str) {
    wire::message(bytes, 1, |bytes| {
        wire::text(bytes, 1, name);
        wire::text(bytes, 2, value);
    });
}

impl PartialEq for LabelSet {
    fn eq(&self, other: &Self) -> bool {
        self.pairs == other.pairs
    }
}

impl Eq for LabelSet {}
