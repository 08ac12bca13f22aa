//! The loads of one request, or of the start-up set: every model once, and the models that an ensemble is made of before it.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use parking_lot::Mutex;
use server_core::{
    ensemble::circular,
    error::{Error, Result},
};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit},
    task::JoinSet,
};

use crate::{background::blocking, lifecycle::Lifecycle, load_waits::Locked, options::LoadParameters};

/// Models that are loaded together.
pub(crate) struct LoadSession {
    lifecycle: Arc<Lifecycle>,
    /// The model that asked for the load; `None` for a client.
    asked_by: Option<String>,
    /// What became of each.
    loads: Mutex<HashMap<String, Arc<OnceCell<Result<()>>>>>,
    /// What each ensemble is made of, read once: so no two can wait for each other.
    parts: Mutex<HashMap<String, BTreeSet<String>>>,
}

/// What a first look at a model came to.
enum First {
    /// It is no ensemble, and was loaded.
    Loaded(Result<()>),
    /// It is an ensemble of these.
    Ensemble(BTreeSet<String>, LoadParameters),
}

impl LoadSession {
    pub(crate) fn new(lifecycle: Arc<Lifecycle>, asked_by: Option<String>) -> Arc<Self> {
        Arc::new(Self { lifecycle, asked_by, loads: Mutex::default(), parts: Mutex::default() })
    }

    /// Loads all models of a name: one, unless repositories are namespaces. Files that come with the load are a model of no
    /// repository.
    ///
    /// Errors: those of each model that failed.
    pub(crate) async fn load_all(self: &Arc<Self>, name: &str, parameters: LoadParameters) -> Result<()> {
        let mut keys = vec![name.to_owned()];
        if self.lifecycle.repositories().namespaces().are_used() && parameters.files.is_empty() {
            let (lifecycle, name) = (self.lifecycle.clone(), name.to_owned());
            let found = blocking(move || lifecycle.repositories().keys_of(&name)).await?;
            keys = if found.is_empty() { keys } else { found };
        }
        let mut failure: Option<Error> = None;
        for key in keys {
            let result = self.clone().load(key.clone(), parameters.clone()).await;
            self.lifecycle.note_requested(&key);
            if let Err(error) = result {
                failure = Some(match failure {
                    Some(first) => Error::new(first.code, format!("{first}{error}")),
                    None => error,
                });
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Loads the model of that key, after those that it is made of. One that was loaded in this session before is not loaded again.
    ///
    /// Errors: the model's own; those of its parts are in the index, and part of its own.
    pub(crate) fn load(
        self: Arc<Self>,
        name: String,
        parameters: LoadParameters,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        Box::pin(async move {
            let cell = self.loads.lock().entry(name.clone()).or_default().clone();
            cell.get_or_init(|| self.clone().run(name, parameters)).await.clone()
        })
    }

    async fn run(self: Arc<Self>, name: String, parameters: LoadParameters) -> Result<()> {
        let result = match self.first_look(&name, parameters).await? {
            First::Loaded(result) => result,
            First::Ensemble(parts, parameters) => self.load_ensemble(&name, parts, parameters).await,
        };
        let (session, own) = (self.clone(), name.clone());
        let is_later =
            move |other: &str| other != own && session.loads.lock().get(other).is_some_and(|load| !load.initialized());
        match &self.asked_by {
            Some(_) => self.lifecycle.reassess_dependents_soon(&name, is_later).await,
            None => self.lifecycle.reassess_dependents(&name, is_later).await,
        }
        result
    }

    async fn first_look(&self, name: &str, parameters: LoadParameters) -> Result<First> {
        self.exclusively(name, move |lifecycle, name| {
            let parts = lifecycle.parts(name, &parameters);
            if parts.is_empty() {
                First::Loaded(lifecycle.load(name, parameters))
            } else {
                First::Ensemble(parts, parameters)
            }
        })
        .await
    }

    async fn load_ensemble(
        self: &Arc<Self>,
        name: &str,
        parts: BTreeSet<String>,
        parameters: LoadParameters,
    ) -> Result<()> {
        self.parts.lock().insert(name.to_owned(), parts.clone());
        let (session, owned) = (self.clone(), name.to_owned());
        if let Some(last) = blocking(move || session.leads_back(&owned)).await? {
            let error = circular(name, &last);
            return self.exclusively(name, move |lifecycle, name| Err(lifecycle.lacks(name, &error))).await?;
        }
        let mut loads = JoinSet::new();
        for part in parts {
            loads.spawn(self.clone().load(part, LoadParameters::default()));
        }
        while loads.join_next().await.is_some() {} // what failed is in the index, and the ensemble says so
        self.exclusively(name, move |lifecycle, name| lifecycle.load(name, parameters)).await?
    }

    /// Takes the lock on a model and a place among the loads at a time, and waits for neither while it has the other: who has
    /// a place may wait for the lock in turn, for its model has this one loaded, and others may use the place meanwhile.
    async fn lock_with_permit(&self, name: &str) -> Result<(Locked<'_>, OwnedSemaphorePermit)> {
        let permits = &self.lifecycle.permits;
        loop {
            let guard = self.lifecycle.lock(None, name).await?;
            if let Ok(permit) = permits.clone().try_acquire_owned() {
                return Ok((guard, permit));
            }
            drop(guard);
            let permit = permits.clone().acquire_owned().await.map_err(|_| Error::unavailable("Server not ready"))?;
            if let Some(guard) = self.lifecycle.try_lock(name) {
                return Ok((guard, permit));
            }
        }
    }

    /// The model that leads back to the ensemble, if any of its parts does. Blocks.
    fn leads_back(&self, name: &str) -> Option<String> {
        let (mut open, mut seen) = (vec![name.to_owned()], BTreeSet::new());
        while let Some(part) = open.pop() {
            let parts = self.parts_of(&part);
            if parts.contains(name) {
                return Some(part);
            }
            open.extend(parts.into_iter().filter(|part| seen.insert(part.clone())));
        }
        None
    }

    fn parts_of(&self, name: &str) -> BTreeSet<String> {
        if let Some(parts) = self.parts.lock().get(name) {
            return parts.clone();
        }
        let read = self.lifecycle.parts(name, &LoadParameters::default());
        self.parts.lock().entry(name.to_owned()).or_insert(read).clone()
    }

    /// Does something with a model while nobody else loads or unloads it, off the runtime's threads and as one of a bounded
    /// number of loads. What a model asked for is not one of them, for the load that it may be part of is.
    ///
    /// Errors: whoever loads or unloads the model waits for the one that asked for this.
    async fn exclusively<R: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Lifecycle, &str) -> R + Send + 'static,
    ) -> Result<R> {
        let (_guard, permit) = match &self.asked_by {
            Some(asked_by) => (self.lifecycle.lock(Some(asked_by), name).await?, None),
            None => {
                let (guard, permit) = self.lock_with_permit(name).await?;
                (guard, Some(permit))
            }
        };
        let (lifecycle, name) = (self.lifecycle.clone(), name.to_owned());
        blocking(move || {
            let _permit = permit;
            work(&lifecycle, &name)
        })
        .await
    }
}
