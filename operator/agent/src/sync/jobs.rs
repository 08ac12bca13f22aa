//! The steps themselves, each on its own: fetch and stage, load and confirm, unload and clear away. A job returns how it
//! ended; what follows from that is for the plan.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use operator_core::manifest::ManifestModel;

use crate::{
    attempts::Attempts,
    fault::{Fault, Reason},
    load::{CallError, Server},
    source::{Places, Progress, blocking},
    stage,
    store::{Record, Store},
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
    /// The server ended before it answered: perhaps the content ended it.
    ServerEnded(Fault),
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
    let work = async {
        let last = store.ledger().remove(&model.name).and_then(|record| record.staged);
        let (staged, _pinned) = stage::stage(&store, &model, &key, last, &places, &progress).await?;
        let (name, content) = (model.name.clone(), staged.content.clone());
        progress.check()?;
        blocking(move || store.record(&name, |record| record.staged = Some(staged))).await?;
        Ok(content)
    };
    let result = tokio::time::timeout(limit, work).await;
    let late = || Fault::new(Reason::DownloadFailed, format!("not fetched within {limit:?}"));
    Ended::Fetch(result.unwrap_or_else(|_| Err(late())))
}

/// Puts a content into the repository, has the server load it, and confirms it through the index. If that fails, what was
/// confirmed before is put back, so that a server which starts anew finds something good.
pub(super) async fn load(
    store: Arc<Store>,
    server: Server,
    attempts: Arc<Attempts>,
    name: String,
    content: ContentHash,
    active: Option<ContentHash>,
    limit: Duration,
) -> Ended {
    let begun = Instant::now();
    let before = ready_versions(&server, &name).await;
    let target = content.clone();
    let attempt = {
        let (attempts, content) = (Arc::clone(&attempts), content.clone());
        match blocking(move || attempts.begin(&content)).await {
            Ok(attempt) => attempt,
            Err(fault) => return Ended::Load(Err(NotLoaded::Failed(fault))),
        }
    };
    let result = async {
        on_disk(&store, &name, move |store, name| store.point(name, &target)).await?;
        server.load(&name, limit).await.map_err(NotLoaded::from)?;
        confirm(&server, &name).await?;
        let active = content.clone();
        on_disk(&store, &name, move |store, name| store.record(name, |record| record.active = Some(active))).await
    }
    .await;
    match &result {
        Ok(()) => attempts.succeeded([&content]),
        Err(NotLoaded::Failed(_) | NotLoaded::NotNow) => attempts.answered(&content, attempt),
        Err(NotLoaded::ServerEnded(_)) => {} // the attempt stays open
    }
    if result.is_err() && active.as_ref() != Some(&content) {
        let has_former = active.is_some();
        let put_back = on_disk(&store, &name, move |store, name| match &active {
            Some(active) => store.point(name, active),
            None => store.unpoint(name),
        });
        if let Err(NotLoaded::Failed(fault)) = put_back.await {
            tracing::error!(model = name, error = %fault, "cannot put the former content back");
        }
        // of several versions, some of the new content may have come into service before one failed
        if has_former
            && ready_versions(&server, &name).await != before
            && let Err(error) = server.load(&name, limit).await
        {
            tracing::warn!(model = name, %error, "the former versions are not all back");
        }
    }
    Ended::Load(result.map(|()| begun.elapsed()))
}

async fn ready_versions(server: &Server, name: &str) -> Vec<u64> {
    server.index().await.map(|index| index.ready_versions(name)).unwrap_or_default()
}

/// Has the server drop a model, waits until it has, and only then takes its files away.
pub(super) async fn unload(store: Arc<Store>, server: Server, name: String) -> Ended {
    const LIMIT: Duration = Duration::from_secs(60);
    let gone = async {
        server.unload(&name, LIMIT).await?;
        while {
            let index = server.index().await?;
            index.is_changing(&name) || !index.ready_versions(&name).is_empty()
        } {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, CallError>(())
    };
    let gone = tokio::time::timeout(LIMIT, gone).await.unwrap_or(Err(CallError::TimedOut(LIMIT)));
    let done = match gone {
        Ok(()) => on_disk(&store, &name, |store, name| {
            store.unpoint(name)?;
            store.record(name, |record| *record = Record::default())
        })
        .await
        .map_err(|error| format!("{error:?}")),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = done {
        tracing::warn!(model = name, error, "not unloaded yet");
        tokio::time::sleep(Duration::from_secs(2)).await; // before the plan asks again
    }
    Ended::Unload
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
            error @ CallError::Lost(_) => Self::ServerEnded(Fault::new(Reason::LoadFailed, error.to_string())),
            error @ CallError::TooLarge(_) => Self::Failed(Fault::new(Reason::LoadFailed, error.to_string())),
        }
    }
}
