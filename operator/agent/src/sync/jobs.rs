//! The steps themselves, each on its own: fetch and stage, load and confirm, unload and clear away. A job returns how it
//! ended; what follows from that is for the plan.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use operator_core::manifest::ManifestModel;
use server_core::config;

use crate::{
    attempts::Attempts,
    fault::{Fault, Reason},
    files::blocking,
    layout,
    load::{CallError, Server},
    source::{Places, Progress},
    stage,
    store::{Record, Store},
    traces,
    verify::ContentHash,
};

/// How a job ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// A fetch.
    Fetch(Result<ContentHash, Fault>),
    /// A load, and how long it took.
    Load(Result<Duration, NotLoaded>),
    /// An unload.
    Unload,
}

/// Why a load did not come to its end.
#[derive(Debug)]
pub(super) enum NotLoaded {
    /// The content's fault, as far as we know: it counts.
    Failed(Fault),
    /// The server ended before it answered, with what came of the connection: perhaps the content ended it.
    ServerEnded(String),
    /// The server was not there, or not ready to load anything.
    NotNow,
}

/// Brings what `model` wants into the store and notes it.
pub(super) async fn fetch(
    store: Arc<Store>,
    model: ManifestModel,
    key: String,
    places: Places,
    progress: Arc<Progress>,
) -> Ended {
    let limit = progress.limits().fetch;
    let work = pin!(async {
        let record = store.record_of(&model.name);
        let last = record.staged_for(&key).cloned().or(record.staged);
        let (staged, _pinned) = stage::stage(&store, &model, &key, last, &places, &progress).await?;
        let (name, content) = (model.name.clone(), staged.content.clone());
        progress.check()?;
        blocking(move || store.record(&name, |record| record.staged = Some(staged))).await?;
        Ok(content)
    });
    // dropped before the work is: threads that work for it end first of all, however it ends
    let _cancelled = progress.cancelled_on_drop();
    let result = tokio::time::timeout(limit, work).await;
    let late = || {
        let cure = "raise spec.loadPolicy.timeout of the model, or bring its source nearer";
        Fault::new(Reason::DownloadFailed, format!("not fetched within {limit:?}: {cure}"))
    };
    Ended::Fetch(result.unwrap_or_else(|_| Err(late())))
}

/// Does a job, and says in its span how it ended.
pub(super) async fn traced(mut span: Option<traces::Step>, job: impl Future<Output = Ended>) -> Ended {
    span.iter_mut().for_each(traces::Step::begin);
    let ended = job.await;
    if let Some(span) = span {
        span.ended(match &ended {
            Ended::Fetch(Err(fault)) | Ended::Load(Err(NotLoaded::Failed(fault))) => Some(fault.to_string()),
            Ended::Load(Err(NotLoaded::ServerEnded(error))) => Some(format!("the server ended: {error}")),
            Ended::Load(Err(NotLoaded::NotNow)) => Some("the server was not ready for it".to_owned()),
            Ended::Fetch(Ok(_)) | Ended::Load(Ok(_)) | Ended::Unload => None,
        });
    }
    ended
}

/// A load to be done.
pub(super) struct Load {
    pub(super) store: Arc<Store>,
    pub(super) server: Server,
    pub(super) attempts: Arc<Attempts>,
    pub(super) name: String,
    pub(super) content: ContentHash,
    /// The key under which the content was fetched.
    pub(super) key: Option<String>,
    /// What is put back if it fails.
    pub(super) former: Option<ContentHash>,
    pub(super) limit: Duration,
    /// What serves leaves before it comes: both together would not fit.
    pub(super) unloads_first: bool,
    /// What serves is what somebody else has loaded.
    pub(super) ends_override: bool,
    /// What served before is kept on disk.
    pub(super) keeps_former: bool,
    /// The server is not ready without it, if it starts with it.
    pub(super) is_proven: bool,
    /// How long the server has to live on with it, if it is the content in rollout.
    pub(super) settle_time: Option<Duration>,
}

impl Load {
    /// Puts the content into the repository, has the server load it, and confirms it through the index. If that fails, what was
    /// confirmed before is put back, so that a server which starts anew finds something good.
    pub(super) async fn run(self) -> Ended {
        let begun = Instant::now();
        let attempt = {
            let (attempts, content, settle_time) = (Arc::clone(&self.attempts), self.content.clone(), self.settle_time);
            match blocking(move || attempts.begin(&content, settle_time)).await {
                Ok(attempt) => attempt,
                Err(fault) => return Ended::Load(Err(NotLoaded::Failed(fault))),
            }
        };
        let linked = self.store.linked(&self.name);
        let before = self.ready_versions().await;
        let result = self.load().await;
        match &result {
            Ok(()) => {
                self.attempts.loaded(&self.content, attempt);
                if let Some(before) = linked.filter(|before| *before != self.content) {
                    self.attempts.left_the_server(&before);
                }
            }
            Err(NotLoaded::Failed(_) | NotLoaded::NotNow) => self.attempts.refused(&self.content, attempt),
            Err(NotLoaded::ServerEnded(_)) => self.attempts.unanswered(attempt, &self.store),
        }
        if let Err(error) = &result
            && self.former.as_ref() != Some(&self.content)
        {
            self.put_back(error, &before).await;
        }
        Ended::Load(result.map(|()| begun.elapsed()))
    }

    async fn load(&self) -> Result<(), NotLoaded> {
        let target = self.content.clone();
        on_disk(&self.store, &self.name, move |store, name| store.point(name, &target)).await?;
        if self.unloads_first && !self.ready_versions().await.is_empty() {
            self.unload().await?;
        }
        let own_config = if self.ends_override { own_config(&self.store, &self.content).await } else { None };
        match own_config {
            Some(config) => self.server.load_with_own_config(&self.name, &config, self.limit).await?,
            None => self.server.load(&self.name, self.limit).await?,
        }
        if self.ends_override && self.server.index().await?.overridden(&self.name).is_some() {
            // an unload ends it for sure
            self.unload().await?;
            self.server.load(&self.name, self.limit).await?;
        }
        confirm(&self.server, &self.name).await?;
        let (content, key, keeps_former) = (self.content.clone(), self.key.clone(), self.keeps_former);
        on_disk(&self.store, &self.name, move |store, name| {
            store.record(name, |record| match key.and_then(|key| record.staged_for(&key).cloned()) {
                Some(staged) => record.confirm(staged, keeps_former),
                None => record.active = Some(content),
            })
        })
        .await
    }

    /// Puts what was confirmed before into the repository again, and has the server load it if it does not serve it any more.
    async fn put_back(&self, error: &NotLoaded, before: &[u64]) {
        let former = self.former.clone();
        let put_back = on_disk(&self.store, &self.name, move |store, name| match &former {
            Some(former) => store.point(name, former),
            None => store.unpoint(name),
        });
        if let Err(NotLoaded::Failed(fault)) = put_back.await {
            tracing::error!(model = self.name, error = %fault, "cannot put the former content back");
        }
        let again = if self.former.is_some() {
            // of several versions, some of the new content may have come into service before one failed
            if self.ready_versions().await == *before {
                return;
            }
            self.server.load(&self.name, self.limit).await
        } else if !self.is_proven && matches!(error, NotLoaded::Failed(_)) {
            // a server that has started with it waits for it no longer
            self.server.unload(&self.name, UNLOAD_LIMIT).await
        } else {
            return;
        };
        if let Err(error) = again {
            tracing::warn!(model = self.name, %error, "what served before is not back in full");
        }
    }

    async fn unload(&self) -> Result<(), NotLoaded> {
        let gone = tokio::time::timeout(self.limit, make_room(&self.server, &self.name)).await;
        let limit = self.limit;
        let late = || {
            let message = format!("what served before it did not finish its requests within {limit:?}");
            NotLoaded::Failed(Fault::new(Reason::LoadTimedOut, message))
        };
        Ok(gone.map_err(|_| late())??)
    }

    async fn ready_versions(&self) -> Vec<u64> {
        self.server.index().await.map(|index| index.ready_versions(&self.name)).unwrap_or_default()
    }
}

/// The configuration in the content's folder, as JSON.
async fn own_config(store: &Arc<Store>, content: &ContentHash) -> Option<String> {
    let path = store.content(content).join(layout::CONFIG);
    let text = blocking(move || Ok(std::fs::read_to_string(path).ok())).await.ok()??;
    Some(config::to_json(&config::from_text(&text).ok()?).to_string())
}

/// How long a model may take to leave the server before that is asked again.
const UNLOAD_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether a model has left.
const LEAVING_INTERVAL: Duration = Duration::from_millis(100);

/// Has the server drop a model, waits until it has, and only then takes its files away.
pub(super) async fn unload(store: Arc<Store>, attempts: Arc<Attempts>, server: Server, name: String) -> Ended {
    let gone = evicted(&server, &name).await;
    if let (Ok(()), Some(content)) = (&gone, store.linked(&name)) {
        attempts.left_the_server(&content);
    }
    let done = match gone {
        Ok(()) if store.is_known(&name) => on_disk(&store, &name, |store, name| {
            store.unpoint(name)?;
            store.record(name, |record| *record = Record::default())
        })
        .await
        .map_err(|error| format!("{error:?}")),
        Ok(()) => Ok(()), // somebody else had it loaded
        Err(error) => Err(error.to_string()),
    };
    retry_later(&name, done).await;
    Ended::Unload
}

/// Has the server drop what somebody else had it load; the files stay.
pub(super) async fn evict(server: Server, name: String) -> Ended {
    retry_later(&name, evicted(&server, &name).await.map_err(|error| error.to_string())).await;
    Ended::Unload
}

async fn evicted(server: &Server, name: &str) -> Result<(), CallError> {
    let gone = tokio::time::timeout(UNLOAD_LIMIT, leave(server, name)).await;
    gone.unwrap_or(Err(CallError::TimedOut(UNLOAD_LIMIT)))
}

/// Looks in a row at which a model serves that was unloaded: then it is back.
const BACK_LOOKS: u32 = 10;

/// Has the server drop a model and waits until it has, or until it is back: the load of an ensemble brings its parts with it, from
/// the repository as it is by then.
async fn make_room(server: &Server, name: &str) -> Result<(), CallError> {
    server.unload(name, UNLOAD_LIMIT).await?;
    let mut serves = 0;
    while serves < BACK_LOOKS {
        let index = server.index().await?;
        let is_changing = index.is_changing(name);
        if !is_changing && index.ready_versions(name).is_empty() {
            return Ok(());
        }
        serves = if is_changing { 0 } else { serves + 1 };
        tokio::time::sleep(LEAVING_INTERVAL).await;
    }
    Ok(())
}

/// Has the server drop a model and waits until it has.
async fn leave(server: &Server, name: &str) -> Result<(), CallError> {
    server.unload(name, UNLOAD_LIMIT).await?;
    while {
        let index = server.index().await?;
        index.is_changing(name) || !index.ready_versions(name).is_empty()
    } {
        tokio::time::sleep(LEAVING_INTERVAL).await;
    }
    Ok(())
}

async fn retry_later(name: &str, done: Result<(), String>) {
    if let Err(error) = done {
        tracing::warn!(model = name, error, "not unloaded yet");
        tokio::time::sleep(Duration::from_secs(2)).await; // before the plan asks again
    }
}

/// The server said yes; the index has to say so too.
async fn confirm(server: &Server, name: &str) -> Result<(), NotLoaded> {
    let index = server.index().await?;
    if !index.ready_versions(name).is_empty() {
        return Ok(());
    }
    let reason = index.reason(name).unwrap_or("it loaded, but no version of it takes requests");
    Err(NotLoaded::Failed(Fault::new(Reason::LoadFailed, reason)))
}

async fn on_disk(
    store: &Arc<Store>,
    name: &str,
    work: impl FnOnce(&Store, &str) -> Result<(), Fault> + Send + 'static,
) -> Result<(), NotLoaded> {
    let (store, name) = (Arc::clone(store), name.to_owned());
    blocking(move || work(&store, &name)).await.map_err(NotLoaded::Failed)
}

impl From<CallError> for NotLoaded {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Absent(_) => Self::NotNow,
            // Triton's words for a server that starts or stops, and for a model somebody else is loading
            CallError::Refused(message)
                if matches!(message.as_str(), "Server not ready" | "Server exiting")
                    || message.ends_with("is currently loading or unloading") =>
            {
                Self::NotNow
            }
            CallError::Refused(message) => Self::Failed(Fault::new(Reason::LoadFailed, message)),
            CallError::TimedOut(limit) => {
                Self::Failed(Fault::new(Reason::LoadTimedOut, format!("the server did not load it within {limit:?}")))
            }
            error @ CallError::Lost(_) => Self::ServerEnded(error.to_string()),
            error @ CallError::TooLarge(_) => Self::Failed(Fault::new(Reason::LoadFailed, error.to_string())),
        }
    }
}
