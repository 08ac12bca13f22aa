//! What the ledger knows of a model: what was fetched for it, what the server was seen to serve.

use serde::{Deserialize, Serialize};

use crate::verify::ContentHash;

/// What the ledger knows of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was fetched last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
    /// What the server was last seen to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ContentHash>,
    /// What `active` was fetched as; absent in ledgers of agents that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Staged>,
    /// What was confirmed before that, kept while the model may have to go back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Staged>,
}

/// A fetched content and what it was fetched for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Which entry of the manifest, in which state of its source.
    pub key: String,
    /// What the source was then, where it may change without the manifest saying so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What came of it.
    pub content: ContentHash,
    /// What its files came from, as far as it is known: with other settings it need not be fetched again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// What the files of a content came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Which source, checksum, layout and format.
    pub key: String,
    /// Text of the `config.pbtxt` that the source had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

impl Staged {
    /// Content hash of the entry that it was fetched for.
    pub fn entry(&self) -> &str {
        self.key.split(':').next().unwrap_or_default()
    }
}

impl Record {
    /// What was fetched for that entry, in that state of its source, if it is still here.
    pub fn staged_for(&self, key: &str) -> Option<&Staged> {
        self.all_staged().find(|staged| staged.key == key)
    }

    /// What was fetched for that entry, in whatever state of its source.
    pub fn staged_by(&self, entry: &str) -> Option<&Staged> {
        self.all_staged().find(|staged| staged.entry() == entry)
    }

    /// The server serves `staged`. What it served before is kept if `keeps_former`.
    pub fn confirm(&mut self, staged: Staged, keeps_former: bool) {
        let before = self.confirmed.take().filter(|before| before.key != staged.key);
        if keeps_former {
            self.former = before.or(self.former.take()).filter(|former| former.key != staged.key);
        }
        self.active = Some(staged.content.clone());
        self.confirmed = Some(staged);
    }

    /// Contents it speaks of.
    pub fn contents(&self) -> impl Iterator<Item = &ContentHash> {
        self.active.iter().chain(self.all_staged().map(|staged| &staged.content))
    }

    fn all_staged(&self) -> impl Iterator<Item = &Staged> {
        [&self.staged, &self.confirmed, &self.former].into_iter().flatten()
    }
}
