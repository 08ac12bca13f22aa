//! What is noted of contents, as it lies in a file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::note::{Crash, Note, Open, UNEXPLAINED_MAX};
use crate::{fault::Fault, verify::ContentHash};

/// All that is noted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Noted {
    /// A server process was started and has not ended, as far as anybody knows.
    #[serde(default)]
    pub(super) is_running: bool,
    #[serde(default)]
    pub(super) contents: BTreeMap<ContentHash, Note>,
}

impl Noted {
    pub(super) fn note(&mut self, content: &ContentHash) -> &mut Note {
        self.contents.entry(content.clone()).or_default()
    }

    pub(super) fn begin(&mut self, content: &ContentHash, settle_time: Option<Duration>) {
        let next = self.contents.values().map(|note| note.number).max().unwrap_or(0) + 1;
        let note = self.note(content);
        note.open = Some(Open::new(settle_time));
        if note.number == 0 {
            note.number = next;
        }
    }

    /// What was held against it is forgotten: its server has lived on.
    pub(super) fn settle(&mut self, content: &ContentHash) {
        if let Some(note) = self.contents.get_mut(content) {
            *note = Note { unexplained: note.unexplained, ..Note::default() };
        }
        self.tidy();
    }

    pub(super) fn close(&mut self, content: &ContentHash) {
        if let Some(note) = self.contents.get_mut(content) {
            note.open = None;
        }
        self.tidy();
    }

    pub(super) fn close_all(&mut self) {
        self.contents.values_mut().for_each(|note| note.open = None);
        self.tidy();
    }

    pub(super) fn accuse(&mut self, content: &ContentHash, crash: Crash) {
        let note = self.note(content);
        note.crashes = note.crashes.saturating_add(1);
        note.last = Some(crash);
    }

    pub(super) fn forget_unexplained(&mut self) {
        self.contents.values_mut().for_each(|note| note.unexplained = 0);
        self.tidy();
    }

    pub(super) fn is_accused(&self, content: &ContentHash) -> bool {
        self.contents.get(content).is_some_and(|note| note.crashes > 0)
    }

    pub(super) fn has_unexplained_ends(&self, content: &ContentHash) -> bool {
        self.contents.get(content).is_some_and(|note| note.unexplained >= UNEXPLAINED_MAX)
    }

    /// Notes that say nothing are dropped.
    fn tidy(&mut self) {
        self.contents.retain(|_, note| note.crashes > 0 || note.unexplained > 0 || note.open.is_some());
    }
}

/// What is in the file at `path`; nothing if there is no such file, or none that can be read.
pub(super) fn read(path: &Path) -> Noted {
    let Ok(bytes) = fs::read(path) else { return Noted::default() };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "attempts to load cannot be read: they are counted anew");
        Noted::default()
    })
}

/// Durable when it returns.
pub(super) fn write(path: &Path, noted: &Noted) -> Result<(), Fault> {
    let write = || -> io::Result<()> {
        let temporary = path.with_extension("json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(noted)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| Fault::store("cannot note an attempt to load", &error))
}
