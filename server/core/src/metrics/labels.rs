//! Labels of a series: written once, for however many families have a series with them.

use std::{borrow::Cow, sync::Arc};

use super::text::escape;
use crate::stats::ModelSnapshot;

/// Labels in alphabetical order, as Triton prints them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LabelSet {
    pairs: Vec<(Cow<'static, str>, String)>,
    text: String,
}

impl LabelSet {
    /// Of names, which Prometheus must have, and values in any characters.
    pub fn new(mut pairs: Vec<(Cow<'static, str>, String)>) -> Self {
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
        Self { pairs, text }
    }

    /// Name and version of a model alone.
    pub(super) fn of_version(name: &str, version: u64) -> Arc<Self> {
        Arc::new(Self::new(vec![("model".into(), name.to_owned()), ("version".into(), version.to_string())]))
    }

    /// All that the series of a model have.
    pub(super) fn of_model(model: &ModelSnapshot) -> Self {
        let mut pairs = vec![("model".into(), model.name.clone()), ("version".into(), model.version.to_string())];
        pairs.extend(model.namespace.clone().map(|namespace| ("namespace".into(), namespace)));
        pairs.extend(model.gpu_uuid.clone().map(|uuid| ("gpu_uuid".into(), uuid)));
        pairs.extend(model.metric_tags.iter().map(|(key, value)| (format!("_{key}").into(), value.clone())));
        Self::new(pairs)
    }

    /// The same and one more.
    pub(super) fn and(&self, name: &'static str, value: &str) -> Self {
        let mut pairs = self.pairs.clone();
        pairs.push((name.into(), value.to_owned()));
        Self::new(pairs)
    }

    /// Names and values.
    pub fn pairs(&self) -> &[(Cow<'static, str>, String)] {
        &self.pairs
    }

    /// As the text formats have them, without braces.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}
