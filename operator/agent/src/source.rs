//! Where the files of a model come from: one file per kind of source, all with the same result. Here is what they share:
//! the places where mounted sources lie, what a fetch may cost, and who gets its progress.

pub(crate) mod ask;
pub mod client;
pub mod configmap;
pub mod digest;
pub mod download;
pub mod folder;
pub mod guard;
pub mod http;
pub mod hugging_face;
pub mod inline;
pub(crate) mod objects;
pub mod oci;
pub mod pvc;
pub(crate) mod tar_stream;
pub mod unpack;
#[cfg(test)]
pub(crate) mod web;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use operator_core::{
    labels::MODEL_ACCESS,
    manifest::{ManifestModel, ManifestSource},
    names::is_of_object,
    source_rules::SourceRules,
};
use tokio::sync::watch;

pub use self::guard::AddressRule;

use crate::{
    disk::Reservation,
    fault::{Fault, Reason},
    verify::{FileHash, Files},
};

/// What a fetch brought into its folder.
#[derive(Debug)]
pub struct Fetched {
    /// The files, by path below the folder.
    pub files: Files,
    /// It is one plain file rather than a folder or an archive.
    pub is_bare: bool,
    /// What a checksum speaks of: the archive, the bare file, or the folder as a whole.
    pub hash: FileHash,
}

/// Folders by name: those named one by one, then those below common parents.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// A folder of its own.
    pub named: BTreeMap<String, PathBuf>,
    /// Parents whose subfolders bear the names, searched in order.
    pub below: Vec<PathBuf>,
    /// What gives it a further folder, with NAME in the place of its name: a flag of whoever runs the agent.
    pub given_by: Option<&'static str>,
}

/// Where sources are: folders of this machine, and addresses.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// ConfigMaps: one file per key.
    pub config_maps: Mounts,
    /// Volumes by the name of their claim.
    pub volumes: Mounts,
    /// Secrets: one file per key.
    pub secrets: Mounts,
    /// Which addresses they may have, as far as this machine goes.
    pub addresses: Arc<AddressRule>,
    /// What the manifest rules besides; [`Self::follow`] fills it in.
    pub ruled: Option<Ruled>,
}

/// What a manifest rules, together with what holds on this machine.
#[derive(Debug, Clone)]
pub struct Ruled {
    rules: SourceRules,
    addresses: Arc<AddressRule>,
}

impl Places {
    /// From now on, sources are held to what a manifest rules.
    pub fn follow(&mut self, rules: &SourceRules) {
        if self.ruled.as_ref().is_none_or(|ruled| ruled.rules != *rules) {
            self.ruled = Some(Ruled { rules: rules.clone(), addresses: Arc::new(self.addresses.with(rules)) });
        }
    }

    /// Which addresses sources may have.
    pub fn address_rule(&self) -> &Arc<AddressRule> {
        self.ruled.as_ref().map_or(&self.addresses, |ruled| &ruled.addresses)
    }

    /// Errors: the model's source is opened with a Secret, or lies on a claim, that is not allowed any more.
    fn check_access(&self, source: &ManifestSource) -> Result<(), Fault> {
        let refused = |what, name| {
            let message = format!(
                "{what} '{name}' may not be used any more: the TritonServer does not list it, or it lacks the label {MODEL_ACCESS}"
            );
            Err(Fault::new(Reason::AccessDenied, message))
        };
        let Some(Ruled { rules, .. }) = &self.ruled else { return Ok(()) };
        match (source.secret(), source.claim()) {
            (Some(secret), _) if !rules.allows_secret(secret) => refused("Secret", secret),
            (_, Some(claim)) if !rules.allows_claim(claim) => refused("claim", claim),
            _ => Ok(()),
        }
    }
}

/// What a model may cost to fetch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes downloaded, and bytes unpacked.
    pub bytes: u64,
    /// Files.
    pub files: usize,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long a source may stay silent in the middle.
    pub silence: Duration,
    /// Bytes a second that a source must bring...
    pub least_rate: u64,
    /// ... over each span of this length.
    pub least_rate_over: Duration,
    /// How long a fetch may take in all.
    pub fetch: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 40,
            files: 100_000,
            // with the failure told: ten seconds
            connect: Duration::from_secs(8),
            silence: Duration::from_secs(30),
            least_rate: 1024,
            least_rate_over: Duration::from_secs(60),
            fetch: Duration::from_secs(6 * 3600),
        }
    }
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes so far, and in all where the source says.
    Downloading(u64, Option<u64>),
    /// All is here; it is being checked and laid out.
    Verifying,
}

/// Counts what a fetch brings, holds it to its limits, ends it when nobody wants it any more, and reports its progress.
pub struct Progress {
    limits: Limits,
    /// Its share of the disk; none where nobody counts.
    space: Option<Mutex<Reservation>>,
    done: AtomicU64,
    reported: AtomicU64,
    total: AtomicU64,
    is_cancelled: watch::Sender<bool>,
    observer: Box<dyn Fn(Stage) + Send + Sync>,
}

struct CancelledOnDrop(Arc<Progress>);

impl Drop for CancelledOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Brings the files of a model into `into`, which exists and is empty; `beside` is a free path on the same disk.
///
/// Errors: `AccessDenied`, `SourceNotFound`, `CredentialsMissing`, `AddressRefused`, `DownloadFailed`, `ChecksumMismatch`, `InvalidSource`, `StoreFailed`.
pub async fn fetch(
    model: &ManifestModel,
    into: &Path,
    beside: &Path,
    places: &Places,
    progress: &Arc<Progress>,
) -> Result<Fetched, Fault> {
    places.check_access(&model.source)?;
    let checksum = model.checksum.as_deref();
    let fetched = match &model.source {
        // the checksum of a download is checked before anything is unpacked from it
        ManifestSource::Http { uri, secret } => {
            let credentials =
                secret.as_deref().map(|name| http::Credentials::read(&places.secrets, name)).transpose()?;
            let source = http::HttpSource { uri, credentials, checksum, layout: model.layout };
            return source.fetch(places.address_rule(), into, beside, progress).await;
        }
        ManifestSource::Inline { files } => {
            let (files, into, progress) = (files.clone(), into.to_owned(), Arc::clone(progress));
            blocking(move || inline::fetch(&files, &into, &progress)).await?
        }
        ManifestSource::ConfigMap { name, items, keys } => {
            let (name, items, keys, mounts) = (name.clone(), items.clone(), keys.clone(), places.config_maps.clone());
            let (into, progress) = (into.to_owned(), Arc::clone(progress));
            blocking(move || {
                let origin = match &keys {
                    Some(keys) => configmap::Origin::Carried(keys),
                    None => configmap::Origin::mounted(&mounts, &name)?,
                };
                configmap::fetch(&origin, &name, &items, &into, &progress)
            })
            .await?
        }
        ManifestSource::Pvc { claim, path } => {
            let (claim, path, mounts) = (claim.clone(), path.clone(), places.volumes.clone());
            let (into, progress) = (into.to_owned(), Arc::clone(progress));
            blocking(move || pvc::fetch(&mounts, &claim, &path, &into, &progress)).await?
        }
        ManifestSource::S3 { .. } | ManifestSource::Gcs { .. } | ManifestSource::Azure { .. } => {
            let Some(source) = objects::ObjectSource::of(&model.source) else { unreachable!("one of these") };
            let form = (checksum, model.layout);
            source.fetch(places.address_rule(), &places.secrets, form, into, beside, progress).await?
        }
        ManifestSource::HuggingFace { repo, revision, include, endpoint, secret } => {
            let hub = hugging_face::HuggingFace { endpoint, repo, revision, include, secret: secret.as_deref() };
            hub.fetch(places.address_rule(), &places.secrets, into, progress).await?
        }
        ManifestSource::Oci { reference, secret, plain_http } => {
            let oci = oci::Oci { reference, secret: secret.as_deref(), plain_http: *plain_http };
            oci.fetch(places.address_rule(), &places.secrets, into, beside, progress).await?
        }
    };
    progress.verifying();
    if let Some(expected) = checksum {
        crate::verify::check(expected, &fetched.hash)?;
    }
    Ok(fetched)
}

/// What the source is now, for those that may change without the manifest saying so and are large enough to be spared
/// another copy: a text that differs when they do.
pub async fn revision(model: &ManifestModel, places: &Places) -> Option<String> {
    let ManifestSource::Pvc { claim, path } = &model.source else { return None };
    let place = places.volumes.find(claim)?.join(path);
    blocking(move || folder::revision(&place)).await.ok()
}

/// Which state of a source the manifest's entry is about: changes are taken up as they come from a mounted ConfigMap, which is
/// replaced all at once, and only with a new entry or a new process from a volume, which may be half written.
pub fn key(model: &ManifestModel, places: &Places) -> String {
    with_mounted_revision(model, places, model.content_hash())
}

/// The same for the files alone, whatever the configuration in the manifest's entry says.
pub fn files_key(model: &ManifestModel, places: &Places) -> String {
    with_mounted_revision(model, places, model.files_hash())
}

/// `entry` with the state of the source behind it where that is seen as a folder that changes all at once.
pub(crate) fn with_mounted_revision(model: &ManifestModel, places: &Places, entry: String) -> String {
    match &model.source {
        ManifestSource::ConfigMap { name, keys: None, .. } => {
            let revision = places.config_maps.revision(name);
            format!("{entry}:{}", revision.as_deref().unwrap_or("absent"))
        }
        ManifestSource::ConfigMap { .. }
        | ManifestSource::Inline { .. }
        | ManifestSource::Pvc { .. }
        | ManifestSource::Http { .. }
        | ManifestSource::S3 { .. }
        | ManifestSource::Gcs { .. }
        | ManifestSource::Azure { .. }
        | ManifestSource::HuggingFace { .. }
        | ManifestSource::Oci { .. } => entry,
    }
}

/// What the source is opened with, as a text that differs when it changes: credentials, and the addresses that it may have.
/// Content that was fetched stays good without it; what could not be fetched may be had with other credentials.
pub fn credentials(model: &ManifestModel, places: &Places) -> Option<String> {
    if places.check_access(&model.source).is_err() {
        return Some("refused".to_owned());
    }
    match &model.source {
        ManifestSource::Http { .. }
        | ManifestSource::S3 { .. }
        | ManifestSource::Gcs { .. }
        | ManifestSource::Azure { .. }
        | ManifestSource::HuggingFace { .. }
        | ManifestSource::Oci { .. } => {
            let secret = model.source.secret().and_then(|name| places.secrets.revision(name));
            Some(format!("{} {}", secret.unwrap_or_default(), places.address_rule().revision()))
        }
        ManifestSource::ConfigMap { .. } | ManifestSource::Inline { .. } | ManifestSource::Pvc { .. } => None,
    }
}

/// Runs disk work on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Fault::new(Reason::StoreFailed, format!("the work on disk broke off: {error}"))))
}

impl Mounts {
    /// The folder of that name, if it exists. What no object can be called leads nowhere: it could lead out of the parents.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let named = self.named.get(name).cloned().into_iter();
        let below = self.below.iter().filter(|_| is_of_object(name)).map(|parent| parent.join(name));
        named.chain(below).find(|path| path.is_dir())
    }

    /// What the folder of that name is now, as a text that differs when it changes; `None` while it is not there.
    pub fn revision(&self, name: &str) -> Option<String> {
        self.find(name).and_then(|mounted| folder::revision(&mounted).ok())
    }

    /// The places where `name` would be looked for, as a sentence tells them.
    pub fn places(&self, name: &str) -> String {
        let named = self.named.get(name).cloned().into_iter();
        let all: Vec<_> =
            named.chain(self.below.iter().map(|parent| parent.join(name))).map(|p| p.display().to_string()).collect();
        let looked = if all.is_empty() {
            "no place is set up for it".to_owned()
        } else {
            format!("looked for {}", all.join(", "))
        };
        match self.given_by {
            Some(flag) => format!("{looked}; give its folder with {}", flag.replace("NAME", name)),
            None => looked,
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("done", &self.done).field("total", &self.total).finish_non_exhaustive()
    }
}

impl Progress {
    /// A fetch that has not begun; `observer` gets each stage, and bytes in steps.
    pub fn new(limits: Limits, observer: impl Fn(Stage) + Send + Sync + 'static) -> Arc<Self> {
        Self::with_space(limits, None, observer)
    }

    /// The same, which writes no more than the disk has room for.
    pub fn on_disk(limits: Limits, space: Reservation, observer: impl Fn(Stage) + Send + Sync + 'static) -> Arc<Self> {
        Self::with_space(limits, Some(Mutex::new(space)), observer)
    }

    fn with_space(
        limits: Limits,
        space: Option<Mutex<Reservation>>,
        observer: impl Fn(Stage) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            space,
            done: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            total: AtomicU64::new(u64::MAX),
            is_cancelled: watch::Sender::new(false),
            observer: Box::new(observer),
        })
    }

    /// The limits it is held to.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Ends the fetch at its next step.
    pub fn cancel(&self) {
        self.is_cancelled.send_replace(true);
    }

    /// Ends the fetch, wherever it is, once what this returns is dropped.
    pub fn cancelled_on_drop(self: &Arc<Self>) -> impl Drop + use<> {
        CancelledOnDrop(Arc::clone(self))
    }

    /// Waits until the fetch is no longer wanted.
    pub async fn cancelled(&self) {
        let _ = self.is_cancelled.subscribe().wait_for(|is_cancelled| *is_cancelled).await; // never closed
    }

    /// Fails once the fetch is no longer wanted.
    pub fn check(&self) -> Result<(), Fault> {
        if *self.is_cancelled.borrow() {
            return Err(Fault::new(Reason::DownloadFailed, "no longer wanted"));
        }
        Ok(())
    }

    /// The source says how much it will be. Blocks: files may be counted and deleted to make room.
    ///
    /// Errors: it is over the limit; `StoreFull`.
    pub fn expect(&self, total: u64) -> Result<(), Fault> {
        if total > self.limits.bytes {
            let limit = self.limits.bytes;
            return Err(Fault::new(
                Reason::InvalidSource,
                format!("the source is {total} bytes long, over the limit of {limit}"),
            ));
        }
        self.on_space(|space| space.expect(total.saturating_sub(self.done.load(Ordering::Relaxed))))?;
        self.total.store(total, Ordering::Relaxed);
        self.report();
        Ok(())
    }

    /// That many more bytes came and are about to be written. Blocks, as [`Self::expect`] does.
    ///
    /// Errors: over the limit, or no longer wanted; `StoreFull`.
    pub fn add(&self, bytes: u64) -> Result<(), Fault> {
        self.check()?;
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if done > self.limits.bytes {
            let limit = self.limits.bytes;
            return Err(Fault::new(Reason::InvalidSource, format!("the source is over the limit of {limit} bytes")));
        }
        self.write(bytes)?;
        let step = (self.total.load(Ordering::Relaxed) / 100).clamp(64 << 10, 1 << 20);
        if done - self.reported.load(Ordering::Relaxed) >= step {
            self.report();
        }
        Ok(())
    }

    /// That many bytes are gone again: an attempt begins at zero.
    pub fn take_back(&self, bytes: u64) {
        let take = |done: u64| Some(done.saturating_sub(bytes));
        for count in [&self.done, &self.reported] {
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take); // `take` always gives a number
        }
    }

    /// That many bytes are about to be written which did not come from the source: unpacked, or made here. Blocks.
    ///
    /// Errors: no longer wanted; `StoreFull`.
    pub fn write(&self, bytes: u64) -> Result<(), Fault> {
        self.check()?;
        self.on_space(|space| space.write(bytes))
    }

    /// Makes room for a file of that length before its bytes are given to [`Self::write`]. Blocks.
    ///
    /// Errors: no longer wanted; `StoreFull`.
    pub fn make_room(&self, length: u64) -> Result<(), Fault> {
        self.check()?;
        self.on_space(|space| space.expect(length))
    }

    fn on_space(&self, action: impl FnOnce(&mut Reservation) -> Result<(), Fault>) -> Result<(), Fault> {
        let Some(space) = &self.space else { return Ok(()) };
        action(&mut space.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All is here.
    pub fn verifying(&self) {
        (self.observer)(Stage::Verifying);
    }

    fn report(&self) {
        let done = self.done.load(Ordering::Relaxed);
        self.reported.store(done, Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed);
        (self.observer)(Stage::Downloading(done, (total != u64::MAX).then_some(total)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(source: &str) -> ManifestModel {
        let text = format!(
            r#"{{"name":"m","resource":"m","source":{source},"layout":"Auto","config":{{"text":"","precedence":"Fields"}},
                "readiness":"Required","load":{{"timeout":"1s","retries":0,"backoff":"1s"}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn no_name_leads_out_of_the_folder_that_objects_are_mounted_in() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["config-maps/files", "config-maps/a.b", "secrets/marked"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let mounts = Mounts { below: vec![root.path().join("config-maps")], ..Mounts::default() };
        assert!(mounts.find("files").is_some() && mounts.find("a.b").is_some());
        let absolute = root.path().join("secrets/marked").display().to_string();
        for name in ["../secrets/marked", "..", ".", "", "files/../../secrets/marked", "files/", absolute.as_str()] {
            assert_eq!(mounts.find(name), None, "{name}");
            assert_eq!(mounts.revision(name), None, "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_not_allowed_any_more_opens_nothing_and_is_tried_again_when_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let named =
            |name: &str| Mounts { named: [(name.to_owned(), folder.path().to_owned())].into(), ..Mounts::default() };
        let mut places = Places { secrets: named("token"), volumes: named("models"), ..Places::default() };
        let rules = |text: &str| serde_json::from_str::<SourceRules>(text).unwrap();
        for source in [r#"{"http":{"uri":"http://h/m","secret":"token"}}"#, r#"{"pvc":{"claim":"models","path":""}}"#] {
            let model = model(source);
            places.follow(&rules(r#"{"secrets":["token"],"claims":["models"]}"#));
            let allowed = credentials(&model, &places);
            places.follow(&rules(r#"{"secrets":["other"],"claims":[]}"#));
            let progress = Progress::new(Limits::default(), |_| ());
            let into = folder.path().join("into");
            let fault = fetch(&model, &into, &folder.path().join("beside"), &places, &progress).await.unwrap_err();
            assert_eq!(fault.reason, Reason::AccessDenied, "{fault}");
            assert_ne!(credentials(&model, &places), allowed, "so that it is tried again once it is allowed");
        }
    }
}
