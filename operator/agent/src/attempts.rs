//! Which contents server processes ended with. An attempt is noted on disk before a load is asked for and stays open until the content
//! has settled: its server has lived on for its settle time after the load. So no crash, of the server or of the agent, erases it. When a
//! process ends, [`accuse`] says which open attempts that is held against; a content that took down [`CRASHES_MAX`] processes is not
//! loaded again. Contents that are accused together are told apart by loading each by itself.
//!
//! A proven content settles with the server's answer. Ends for which nothing that was open can be held responsible are counted for
//! all contents that were loaded: a content in whose company servers end again and again is no ground to go back to.

mod accuse;
mod file;
mod note;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use self::note::{Crash, UNEXPLAINED_MAX};
use self::{
    accuse::accused,
    file::Noted,
    note::{Note, Open, Stage},
};
use crate::{fault::Fault, store::Store, verify::ContentHash};

/// Server processes a content may take down before it is not loaded any more.
pub const CRASHES_MAX: u32 = 2;

/// A process that lived this long has shown that what it serves ends no servers.
const CALM: Duration = Duration::from_secs(600);

/// What is noted of contents, kept in a file.
#[derive(Debug)]
pub struct Attempts {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    noted: Noted,
    /// Counts server processes, as far as this agent has seen them end.
    process: u64,
    /// Since when the present one is known.
    began: Instant,
    /// Contents that the present process was asked to load, and has not answered yet.
    asked: BTreeSet<ContentHash>,
    /// When contents were loaded that have not settled.
    loaded: BTreeMap<ContentHash, Instant>,
}

/// A load under way, in the process that was asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    process: u64,
}

/// What a start of the server has to know of the contents that the pod follows.
#[derive(Debug, Default)]
pub struct Followed {
    /// Contents that are not proven, with the time a server has to live on with each after its load.
    pub unproven: BTreeMap<ContentHash, Duration>,
    /// By model, those of them that it should serve and that are here.
    pub next: BTreeMap<String, ContentHash>,
}

impl Attempts {
    /// Those in the file at `path`; none if there is no such file, or none that can be read.
    pub fn open(path: PathBuf) -> Self {
        let noted = file::read(&path);
        let now = Instant::now();
        let is_settling = |note: &Note| matches!(note.open, Some(Open { stage: Stage::Settling, .. }));
        let settling = noted.contents.iter().filter(|(_, note)| is_settling(note));
        let loaded = settling.map(|(content, _)| (content.clone(), now)).collect();
        let state = State { noted, process: 0, began: now, asked: BTreeSet::new(), loaded };
        Self { path, state: Mutex::new(state) }
    }

    /// Server processes whose ends are held against a content.
    pub fn crashes(&self, content: &ContentHash) -> u32 {
        self.of(content, |note| note.crashes)
    }

    /// How the last of them ended.
    pub fn last_crash(&self, content: &ContentHash) -> Option<Crash> {
        self.of(content, |note| note.last)
    }

    /// Whether it is being loaded, or has not settled.
    pub fn is_open(&self, content: &ContentHash) -> bool {
        self.of(content, |note| note.open.is_some())
    }

    /// Whether it ended servers, and is neither being tried nor has it settled since.
    pub fn is_suspect(&self, content: &ContentHash) -> bool {
        self.of(content, |note| note.crashes > 0 && note.open.is_none())
    }

    /// Whether it may not be loaded any more.
    pub fn is_given_up(&self, content: &ContentHash) -> bool {
        self.of(content, |note| note.crashes >= CRASHES_MAX && note.open.is_none())
    }

    /// Whether servers end again and again that have it loaded, and nothing else can be held responsible.
    pub fn has_unexplained_ends(&self, content: &ContentHash) -> bool {
        self.of(content, |note| note.unexplained >= UNEXPLAINED_MAX)
    }

    /// Its place in the order in which contents were tried first.
    pub fn number(&self, content: &ContentHash) -> u64 {
        self.of(content, |note| note.number)
    }

    /// Contents that are not proven, being loaded or not settled; whether one of them ended servers before.
    pub fn open_trials(&self) -> BTreeMap<ContentHash, bool> {
        let state = self.lock();
        let is_trial = |note: &Note| note.open.is_some_and(Open::is_unproven);
        let trials = state.noted.contents.iter().filter(|(_, note)| is_trial(note));
        trials.map(|(content, note)| (content.clone(), note.crashes > 0)).collect()
    }

    /// Contents that the server loads by itself as it starts, and has not said anything of yet.
    pub fn starting(&self) -> BTreeSet<ContentHash> {
        let state = self.lock();
        let is_starting = |(content, note): &(&ContentHash, &Note)| {
            matches!(note.open, Some(Open { stage: Stage::Loading, .. })) && !state.asked.contains(*content)
        };
        state.noted.contents.iter().filter(is_starting).map(|(content, _)| content.clone()).collect()
    }

    /// A load is about to be asked for. `settle_time`: how long the server has to live on with the content afterwards; none if it is
    /// proven. Durable when it returns.
    pub fn begin(&self, content: &ContentHash, settle_time: Option<Duration>) -> Result<Attempt, Fault> {
        let mut state = self.lock();
        state.noted.begin(content, settle_time);
        file::write(&self.path, &state.noted)?;
        state.asked.insert(content.clone());
        Ok(Attempt { process: state.process })
    }

    /// The server has loaded it, as it was asked to in `attempt`.
    pub fn loaded(&self, content: &ContentHash, attempt: Attempt) {
        self.change(|state| {
            if attempt.process == state.process {
                state.loaded(content);
            }
        });
    }

    /// The server has answered that it did not load it: it did not end.
    pub fn refused(&self, content: &ContentHash, attempt: Attempt) {
        self.change(|state| {
            if attempt.process == state.process {
                state.refused(content);
            }
        });
    }

    /// The server has ended instead of answering.
    pub fn unanswered(&self, attempt: Attempt, store: &Store) {
        self.change(|state| {
            if attempt.process == state.process {
                state.end(store);
            }
        });
    }

    /// The server's start has loaded `loaded` and has said why it did not load `refused`.
    pub fn started(&self, loaded: &[ContentHash], refused: &[ContentHash]) {
        self.change(|state| {
            loaded.iter().for_each(|content| state.loaded(content));
            refused.iter().for_each(|content| state.close(content));
        });
    }

    /// It was taken out of the server, or another content in its place: what it does from now on is over.
    pub fn left_the_server(&self, content: &ContentHash) {
        self.change(|state| {
            if state.loaded.contains_key(content) {
                state.close(content);
            }
        });
    }

    /// Those that have settled by `now` are settled from then on. When the next one will be.
    pub fn settle(&self, now: Instant) -> Option<Instant> {
        self.change(|state| {
            let due: Vec<_> =
                state.settling().filter(|(_, end)| *end <= now).map(|(content, _)| content.clone()).collect();
            for content in &due {
                state.loaded.remove(content);
                state.noted.settle(content);
            }
            if now.saturating_duration_since(state.began) >= CALM {
                state.noted.forget_unexplained();
            }
        });
        self.lock().settling().map(|(_, end)| end).min()
    }

    /// The server process, by the number it has here.
    pub fn process(&self) -> u64 {
        self.lock().process
    }

    /// That process is not there any more, and was not asked to end.
    pub fn server_gone(&self, process: u64, store: &Store) {
        self.change(|state| {
            if state.process == process {
                state.end(store);
            }
        });
    }

    /// The server ended on purpose: no content is a reason for that.
    pub fn server_left(&self) {
        self.change(|state| {
            state.noted.close_all();
            state.another_process();
        });
    }

    /// The content is not there any more.
    pub fn forget(&self, content: &ContentHash) {
        self.change(|state| {
            state.noted.contents.remove(content);
            state.asked.remove(content);
            state.loaded.remove(content);
        });
    }

    /// A server process is about to start and will load what it finds in the repository. What ended the one before is taken out of
    /// it, or what served before is put in its place: each is loaded by itself once the server is up. Where servers ended with
    /// what served before, and nothing says why, its successor comes at once. Of all others an attempt is noted.
    pub fn server_starting(&self, store: &Store, followed: &Followed) -> Result<(), Fault> {
        let mut state = self.lock();
        state.end(store);
        let ledger = store.ledger();
        let mut starting = Vec::new();
        for name in store.names() {
            let Some(linked) = store.linked(&name) else { continue };
            let record = ledger.get(&name).cloned().unwrap_or_default();
            let noted = &state.noted;
            let next = followed.next.get(&name).filter(|next| !noted.is_accused(next));
            let begins_with = if noted.is_accused(&linked) {
                tracing::warn!(
                    model = name,
                    content = linked.short(),
                    "the server ended with this content of the model"
                );
                let former = record.former.as_ref().map(|former| &former.content);
                record.active.iter().chain(former).find(|content| !noted.is_accused(content)).cloned()
            } else {
                Some(linked.clone())
            };
            let begins_with = match (begins_with, next) {
                (Some(content), Some(next)) if noted.has_unexplained_ends(&content) => Some(next.clone()),
                (content, _) => content,
            };
            match &begins_with {
                Some(content) if *content == linked => {}
                Some(content) => store.point(&name, content)?,
                None => store.unpoint(&name)?,
            }
            if let Some(content) = begins_with {
                // what it stands in for is not what serves any more
                if record.former.as_ref().is_some_and(|former| former.content == content) {
                    store.record(&name, |record| {
                        record.active = Some(content.clone());
                        record.confirmed = record.former.take();
                    })?;
                }
                starting.push(content);
            }
        }
        for content in starting {
            state.noted.begin(&content, followed.unproven.get(&content).copied());
        }
        state.noted.is_running = true;
        state.began = Instant::now();
        file::write(&self.path, &state.noted)
    }

    fn of<T: Default>(&self, content: &ContentHash, what: impl FnOnce(&Note) -> T) -> T {
        self.lock().noted.contents.get(content).map(what).unwrap_or_default()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let before = state.noted.clone();
        change(&mut state);
        if state.noted == before {
            return;
        }
        if let Err(fault) = file::write(&self.path, &state.noted) {
            // one attempt too many is counted: the content is loaded by itself the next time
            tracing::warn!(error = %fault, "attempts to load are not noted");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn loaded(&mut self, content: &ContentHash) {
        self.asked.remove(content);
        match self.noted.contents.get_mut(content).map(|note| &mut note.open) {
            Some(Some(open)) if open.is_unproven() => {
                open.stage = Stage::Settling;
                self.loaded.insert(content.clone(), Instant::now());
            }
            _ => self.noted.settle(content),
        }
    }

    /// Contents that settle, each with the end of its settle time; not those that were asked for again meanwhile.
    fn settling(&self) -> impl Iterator<Item = (&ContentHash, Instant)> {
        let settling = self.loaded.iter().filter(|(content, _)| !self.asked.contains(*content));
        settling.map(|(content, since)| {
            let open = self.noted.contents.get(content).and_then(|note| note.open);
            (content, *since + open.map(Open::settle_time).unwrap_or_default())
        })
    }

    /// What was loaded before goes on, and settles as if it had not been asked for again.
    fn refused(&mut self, content: &ContentHash) {
        let note = self.noted.contents.get_mut(content).filter(|_| self.loaded.contains_key(content));
        match note.and_then(|note| note.open.as_mut()) {
            Some(open) => {
                open.stage = Stage::Settling;
                self.asked.remove(content);
            }
            None => self.close(content),
        }
    }

    fn close(&mut self, content: &ContentHash) {
        self.asked.remove(content);
        self.loaded.remove(content);
        self.noted.close(content);
    }

    /// The process has ended, by nobody's order.
    fn end(&mut self, store: &Store) {
        let now = Instant::now();
        if now.saturating_duration_since(self.began) >= CALM {
            self.noted.forget_unexplained();
        }
        let accused = accused(&self.noted.contents);
        for content in &accused {
            let is_loading = !self.loaded.contains_key(content);
            let lived = self.loaded.get(content).map(|since| now.saturating_duration_since(*since));
            let lived = lived.map(|lived| u64::try_from(lived.as_millis()).unwrap_or(u64::MAX));
            let crash = if is_loading { Crash::WhileLoading } else { Crash::AfterLoad(lived) };
            tracing::error!(content = content.short(), ?crash, "the end of the server is held against this content");
            self.noted.accuse(content, crash);
        }
        if accused.is_empty() && self.noted.is_running {
            let ledger = store.ledger();
            for name in store.names() {
                let (linked, record) = (store.linked(&name), ledger.get(&name));
                let served =
                    record.and_then(|record| record.active.as_ref()).filter(|active| linked.as_ref() == Some(active));
                if let Some(content) = served {
                    self.noted.note(content).unexplained += 1;
                }
            }
        }
        self.noted.close_all();
        self.another_process();
    }

    fn another_process(&mut self) {
        self.noted.is_running = false;
        self.process += 1;
        self.asked.clear();
        self.loaded.clear();
    }
}

#[cfg(test)]
mod tests;
