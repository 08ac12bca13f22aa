//! What an agent says, without a server: which entries of the manifest it follows is decided by the agent's own code, and each is served a
//! moment after it was asked for.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use operator_core::Manifest;
use tokio::sync::watch;
use triton_agent::{
    State,
    adopt::{self, LastServed, PodFacts},
    state::{ModelState, Phase},
};

/// What is answered to whoever asks for the state.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) tag: String,
    /// Empty: nothing can be said yet.
    pub(crate) body: Bytes,
}

/// The agent of one pod.
#[derive(Debug)]
pub(crate) struct Agent {
    manifest: Option<Arc<Manifest>>,
    adopts: String,
    last_served: BTreeMap<String, LastServed>,
    said: watch::Sender<Answer>,
    /// Answers so far.
    count: u64,
}

impl Agent {
    pub(crate) fn new() -> Self {
        let nothing = Answer { tag: String::new(), body: Bytes::new() };
        Self {
            manifest: None,
            adopts: String::new(),
            last_served: BTreeMap::new(),
            said: watch::channel(nothing).0,
            count: 0,
        }
    }

    pub(crate) fn listen(&self) -> watch::Receiver<Answer> {
        self.said.subscribe()
    }

    /// Takes a manifest and the annotation of the pod. `true`: something has to be loaded, [`Agent::load`] ends that.
    pub(crate) fn take(&mut self, manifest: &Arc<Manifest>, adopts: &str) -> bool {
        let is_known = self.manifest.as_ref().is_some_and(|known| known.hash == manifest.hash);
        if is_known && self.adopts == adopts {
            return false;
        }
        (self.manifest, self.adopts) = (Some(Arc::clone(manifest)), adopts.to_owned());
        self.say()
    }

    /// What was to be loaded serves now. `true`: so that there is more to load.
    pub(crate) fn load(&mut self) -> bool {
        let Some(following) = self.following() else { return false };
        self.last_served = following
            .entries
            .iter()
            .map(|(name, entry)| (name.clone(), LastServed::Entry(entry.hash.clone())))
            .collect();
        self.say()
    }

    fn following(&self) -> Option<adopt::Following> {
        let facts = PodFacts {
            adopts: Some(adopt::parse(&self.adopts)),
            last_served: self.last_served.clone(),
            ..PodFacts::default()
        };
        self.manifest.as_ref().map(|manifest| adopt::follow(manifest, &facts))
    }

    /// Says where every model stands; `true` if one is not served yet.
    fn say(&mut self) -> bool {
        let Some(following) = self.following() else { return false };
        let state_of = |(name, entry): (&String, &adopt::Entry)| {
            let serves = self.last_served.get(name) == Some(&LastServed::Entry(entry.hash.clone()));
            let phase = if serves { Phase::Ready } else { Phase::Loading };
            let versions = if self.last_served.contains_key(name) { vec![1] } else { vec![] };
            (name.clone(), ModelState { entry: Some(entry.hash.clone()), phase, versions, ..ModelState::default() })
        };
        let models: BTreeMap<_, _> = following.entries.iter().map(state_of).collect();
        let is_settled = models.values().all(|model| model.phase == Phase::Ready);
        let state = State {
            manifest_hash: following.published.hash.clone(),
            server_is_live: true,
            server_is_ready: true,
            is_settled,
            adopts: Some(adopt::parse(&self.adopts)),
            models,
            ..State::default()
        };
        let body = Bytes::from(serde_json::to_vec(&state).unwrap_or_default());
        if self.said.borrow().body != body {
            self.count += 1;
            self.said.send_replace(Answer { tag: format!("\"{}\"", self.count), body });
        }
        !is_settled
    }
}
