//! How far the server is between its start and its exit: alive, ready, asked to drain, leaving, exiting.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use server_core::{
    error::{Code, Error, Result},
    interface::ModelId,
};
use tokio::task::JoinSet;

use crate::{Engine, drain::DrainState};

pub(crate) const STARTING: u8 = 0;
pub(crate) const RUNNING: u8 = 1;
pub(crate) const EXITING: u8 = 2;
/// About to exit: everything is served, but nobody should send more.
pub(crate) const LEAVING: u8 = 3;
/// A repository could not be read at start, or the start-up list was wrong: there is nothing to serve.
pub(crate) const FAILED: u8 = 4;
/// As [`LEAVING`], and ready for callers that have nowhere else to go.
pub(crate) const LEAVING_READY: u8 = 5;

/// How far the server is on its way to its exit, while it still serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It stays.
    No,
    /// Callers should go elsewhere, if they can: it is ready all the same.
    WhileReady,
    /// Callers should go elsewhere: it is not ready any more.
    Unready,
}

impl Engine {
    /// Whether the process serves, or may come to. Errors: `Unavailable` while it exits.
    pub fn is_live(&self) -> Result<bool> {
        self.not_exiting("Server exiting").map(|()| self.phase.load(Ordering::SeqCst) != FAILED)
    }

    /// Whether traffic should come: the start-up set is there, and its models say that they can serve. A model that is added
    /// later, or fails to be, never changes this. Errors: `Unavailable` while it exits.
    pub async fn is_ready(&self) -> Result<bool> {
        match self.readiness_questions()? {
            Some(questions) => Ok(all_say_yes(questions).await),
            None => Ok(false),
        }
    }

    /// Asks the models of the start-up set that have a word of their own; `None`: the server is not ready whatever they say. Runs on
    /// the runtime.
    pub(crate) fn readiness_questions(&self) -> Result<Option<JoinSet<bool>>> {
        self.not_exiting("Server exiting")?;
        if !matches!(self.phase.load(Ordering::SeqCst), RUNNING | LEAVING_READY) || self.drain.lasts() {
            return Ok(None);
        }
        let mut questions = JoinSet::new();
        if !self.options.strict_readiness {
            return Ok(Some(questions));
        }
        for name in self.required.lock().iter() {
            let Some(entry) = self.registry.entry(name).filter(|entry| entry.is_settled()) else { return Ok(None) };
            let models = entry.versions.values().filter_map(|version| version.model.as_ref());
            for question in models.filter_map(|model| model.runner().readiness()) {
                questions.spawn(question);
            }
        }
        Ok(Some(questions))
    }

    /// Whether that model can serve, also in its own word. Errors: it is unknown.
    pub async fn is_model_ready(&self, model: ModelId<'_>) -> Result<bool> {
        self.not_exiting("Server not ready")?;
        let question = match self.registry.find(model.name, model.version) {
            Ok(model) if model.is_healthy() => model.runner().readiness(),
            Ok(_) => return Ok(false),
            Err(error) if error.code == Code::Unavailable || self.options.namespaces => return Ok(false),
            Err(error) => return Err(self.while_starting(error)),
        };
        match question {
            Some(question) => Ok(question.await),
            None => Ok(true),
        }
    }

    /// From here on the server asks callers to go elsewhere; whatever comes all the same is served. It is no longer ready, unless
    /// it was and `stays_ready`: then it serves those that have nowhere else to go. May be called again without.
    pub fn begin_leaving(&self, stays_ready: bool) {
        let next = |phase| match phase {
            EXITING => None, // who exits has left already
            RUNNING | LEAVING_READY if stays_ready => Some(LEAVING_READY),
            _ => Some(LEAVING),
        };
        let _ = self.phase.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        self.is_leaving.send_replace(());
    }

    /// Whether callers should go elsewhere, and whether the server is ready all the same.
    pub fn leaves(&self) -> Leaving {
        match self.phase.load(Ordering::Relaxed) {
            LEAVING => Leaving::Unready,
            LEAVING_READY => Leaving::WhileReady,
            _ if self.drain.lasts() => Leaving::Unready,
            _ => Leaving::No,
        }
    }

    /// How many inference requests came since the server began to leave.
    pub fn late_requests(&self) -> u64 {
        self.late_requests.load(Ordering::Relaxed)
    }

    /// Asks callers to go elsewhere for as long as `lease`, of [`DRAIN_LEASE_MAX`] at most, or goes on with that: the server is not
    /// ready meanwhile, and serves whatever comes all the same.
    pub fn drain(&self, lease: Duration) -> DrainState {
        let state = self.drain.renew(Instant::now(), lease);
        self.is_leaving.send_replace(());
        state
    }

    /// The server is ready again, if it is not leaving for good.
    pub fn end_drain(&self) {
        self.drain.end();
    }

    /// Becomes ready once callers should go elsewhere, though requests are still served.
    pub fn leaving(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static + use<> {
        let (mut is_leaving, engine) = (self.is_leaving.subscribe(), Arc::downgrade(self));
        async move {
            let leaves = || engine.upgrade().is_some_and(|engine| engine.leaves() != Leaving::No);
            while !leaves() {
                if is_leaving.changed().await.is_err() {
                    std::future::pending().await // an engine that is gone asks nobody for anything
                }
            }
        }
    }

    /// From here on the server says that it exits and takes no new work. Requests already inside go on.
    pub fn close_admission(&self) {
        self.phase.store(EXITING, Ordering::SeqCst);
    }

    /// Closes admission, lets what runs finish, unloads. `true` if all ended within the limit.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.close_admission();
        let is_complete = self.lifecycle.drain(limit).await;
        self.lifecycle.close_repositories();
        is_complete
    }

    pub(crate) fn not_exiting(&self, message: &'static str) -> Result<()> {
        if self.phase.load(Ordering::Relaxed) == EXITING { Err(Error::unavailable(message)) } else { Ok(()) }
    }

    /// What is not there while the start-up set is loaded may be about to come: not yet is not unknown.
    pub(crate) fn while_starting(&self, error: Error) -> Error {
        let is_starting = self.phase.load(Ordering::Relaxed) == STARTING;
        if is_starting && error.code == Code::NotFound { Error::unavailable("Server not ready") } else { error }
    }
}

/// Whether all models that were asked can serve.
pub(crate) async fn all_say_yes(mut questions: JoinSet<bool>) -> bool {
    while let Some(answer) = questions.join_next().await {
        if !answer.unwrap_or(false) {
            return false;
        }
    }
    true
}
