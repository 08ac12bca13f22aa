//! The words in the annotation [`crate::labels::ADOPT`] of a pod: which contents in rollout it may serve, and which of them it drains for
//! or holds back. The operator writes them ([`crate::rollout`]), the agent acts upon them.
//!
//! | word | the pod |
//! |---|---|
//! | `drain/SECONDS/CONTENT` | is not ready from then on, waits until nobody sends requests, for as many seconds at least, unloads and loads |
//! | `hold/CONTENT` | serves on: another pod is out of the Service |
//! | `CONTENT` alone | unloads and loads at once: nobody else serves the model |
//! | none of these | waits a few seconds for one of them: manifest and annotation reach it one after the other |

use std::{collections::BTreeSet, time::Duration};

/// What a word begins with that has a pod leave the Service for a content.
pub(crate) const DRAIN: &str = "drain/";

/// What a word begins with that has a pod wait.
pub(crate) const HOLD: &str = "hold/";

/// What a pod does before it unloads a content to load its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOrder {
    /// Nothing: it begins at once.
    None,
    /// Nothing is said of the content, so far.
    Unsaid,
    /// It leaves the Service; it takes as long at least until no new callers are sent to it.
    After(Duration),
    /// It waits.
    Hold,
}

impl DrainOrder {
    /// What the words of an annotation say of the content that `content` names ([`crate::ManifestModel::adopt_word`]).
    pub fn of(words: &BTreeSet<String>, content: &str) -> Self {
        let mut orders = words.iter().filter_map(|word| {
            if let Some(held) = word.strip_prefix(HOLD) {
                return (held == content).then_some(Self::Hold);
            }
            let (seconds, drained) = word.strip_prefix(DRAIN)?.split_once('/')?;
            let seconds = seconds.parse().ok().filter(|_| drained == content)?;
            Some(Self::After(Duration::from_secs(seconds)))
        });
        orders.next_back().unwrap_or(if words.contains(content) { Self::None } else { Self::Unsaid })
    }
}

/// Contents as the annotation names them.
pub fn to_text(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// The contents that an annotation names.
pub(crate) fn from_text(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
