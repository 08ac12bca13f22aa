//! A repository on an object store: its models by name, and each one's objects. What is asked is asked anew each time; only
//! the names that were seen last are kept, for who must not wait.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::PathBuf,
    sync::Arc,
};

use futures_util::StreamExt;
use object_store::{ObjectMeta, path::Path as Key};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    client::Client,
    connect::{self, Transport},
    credentials::Variables,
    error::{LocalError, Meaning, RepositoryError, detail, meaning, silence},
    fetch::FetchError,
    latest::Latest,
    limits::Limits,
    listing::{BadKey, Listing},
    location::Location,
    mirror::Mirror,
};

/// One repository on an object store.
pub struct RemoteRepository {
    location: Location,
    variables: Arc<Variables>,
    transport: Transport,
    pub(crate) limits: Limits,
    /// Made at the first question, and again after an answer that its credentials or its endpoint may be the reason of.
    client: tokio::sync::Mutex<Option<Arc<Client>>>,
    /// What the last look has found.
    names: Mutex<Result<BTreeSet<String>, RepositoryError>>,
    /// Made with the first file.
    mirror: Mutex<Option<Arc<Mirror>>>,
    /// What lies on this machine, by model.
    models: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Latest>>>>>,
    pub(crate) downloads: Semaphore,
    is_closed: watch::Sender<bool>,
}

/// One model of a remote repository.
#[derive(Clone)]
pub struct RemoteModel {
    pub(crate) repository: Arc<RemoteRepository>,
    pub(crate) name: String,
    /// As it was when the model was found, until that is used: who asks again is told how it is then.
    listing: Arc<Mutex<Option<Listing>>>,
}

// === impl RemoteRepository ===

impl RemoteRepository {
    /// Asks nobody for anything yet.
    pub fn new(location: Location, variables: Arc<Variables>, limits: Limits) -> Self {
        let url = location.to_string();
        Self {
            location,
            variables,
            transport: Transport::default(),
            client: tokio::sync::Mutex::default(),
            names: Mutex::new(Err(RepositoryError::NotRead { url })),
            mirror: Mutex::default(),
            models: Mutex::default(),
            downloads: Semaphore::new(limits.parallel),
            limits,
            is_closed: watch::Sender::new(false),
        }
    }

    /// With the variables of this process.
    pub fn of_this_process(location: Location) -> Self {
        let variables = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::new(location, Arc::new(variables), Limits::default())
    }

    /// The same, reached in another way.
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    #[cfg(test)]
    pub(crate) fn with_client(mut self, client: Client) -> Self {
        self.client = tokio::sync::Mutex::new(Some(Arc::new(client)));
        self
    }

    /// Its URL.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Asks for the names of its models, in about ten seconds at most, and keeps them.
    ///
    /// Errors: it cannot be read; the reason is kept, too.
    pub async fn look(&self) -> Result<(), RepositoryError> {
        let names = self.unless_closed(self.ask_for_names()).await;
        let result = names.as_ref().map(|_| ()).map_err(Clone::clone);
        *self.names.lock() = names;
        result
    }

    /// The names as seen by the last look. Errors: why there are none.
    pub fn names(&self) -> Result<BTreeSet<String>, RepositoryError> {
        self.names.lock().clone()
    }

    /// A model that is there, or is said to be: nobody is asked.
    pub fn model(self: &Arc<Self>, name: &str) -> RemoteModel {
        self.model_as_listed(name, None)
    }

    fn model_as_listed(self: &Arc<Self>, name: &str, listing: Option<Listing>) -> RemoteModel {
        RemoteModel { repository: self.clone(), name: name.to_owned(), listing: Arc::new(Mutex::new(listing)) }
    }

    /// All its models with what their files look like, in as few questions as there are pages of objects.
    ///
    /// Errors: it cannot be read.
    pub async fn look_at_files(self: &Arc<Self>) -> Result<Vec<RemoteModel>, RepositoryError> {
        let objects = match self.unless_closed(self.list_objects("")).await {
            Ok(objects) => objects,
            // Each model for itself, then: one that cannot be listed says nothing of the others.
            Err(RepositoryError::Key { .. } | RepositoryError::TooMany { .. }) => {
                self.look().await?;
                return Ok(self.names()?.iter().map(|name| self.model(name)).collect());
            }
            Err(error) => return Err(error),
        };
        let mut models: BTreeMap<String, Vec<ObjectMeta>> = BTreeMap::new();
        for object in objects {
            let key = object.location.as_ref();
            let below = key.get(self.location.key("").len()..).and_then(|below| below.split_once('/'));
            let Some((name, _)) = below.filter(|(name, _)| !name.starts_with('.')) else { continue };
            models.entry(name.to_owned()).or_default().push(object);
        }
        *self.names.lock() = Ok(models.keys().cloned().collect());
        let listed = |(name, objects): (String, Vec<ObjectMeta>)| {
            let listing = Listing::of(&self.location.key(&name), objects).ok();
            self.model_as_listed(&name, listing)
        };
        Ok(models.into_iter().map(listed).collect())
    }

    /// The model of a name, if anything lies below it now. Errors: the store cannot be asked, or has keys that are no files.
    pub async fn find(self: &Arc<Self>, name: &str) -> Result<Option<RemoteModel>, RepositoryError> {
        if name.is_empty() || name.contains(|char: char| char == '/' || char.is_control()) || matches!(name, "." | "..")
        {
            return Ok(None); // no key is like that
        }
        let listing = self.list(name).await?;
        Ok((!listing.is_empty()).then(|| self.model_as_listed(name, Some(listing))))
    }

    /// Nobody wants the files of a model any more, except those who have them open.
    pub fn forget(&self, name: &str) {
        self.models.lock().remove(name);
        if let Some(mirror) = &*self.mirror.lock() {
            mirror.remove_parts(name);
        }
    }

    /// Removes all files at once and fetches no more: the process ends.
    pub fn close(&self) {
        self.is_closed.send_replace(true);
        self.models.lock().clear();
        if let Some(mirror) = self.mirror.lock().take() {
            mirror.remove();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.is_closed.borrow()
    }

    /// Gives an answer up when the repository is closed: the runtime that would bring it is about to end.
    pub(crate) async fn unless_closed<T>(
        &self,
        answer: impl Future<Output = Result<T, RepositoryError>>,
    ) -> Result<T, RepositoryError> {
        let mut is_closed = self.is_closed.subscribe();
        tokio::select! {
            biased;
            _ = is_closed.wait_for(|is_closed| *is_closed) => Err(RepositoryError::Closed),
            answer = answer => answer,
        }
    }

    pub(crate) fn latest(&self, name: &str) -> Arc<tokio::sync::Mutex<Option<Latest>>> {
        self.models.lock().entry(name.to_owned()).or_default().clone()
    }

    pub(crate) fn mirror(&self) -> Result<Arc<Mirror>, RepositoryError> {
        let mut mirror = self.mirror.lock();
        if self.is_closed() {
            return Err(RepositoryError::Closed);
        }
        if let Some(mirror) = &*mirror {
            return Ok(mirror.clone());
        }
        let parent = (self.variables)(self.location.mount_variable()).map_or_else(std::env::temp_dir, PathBuf::from);
        let made = Arc::new(Mirror::create(&parent).map_err(|error| self.local(error))?);
        Ok(mirror.insert(made).clone())
    }

    pub(crate) fn local(&self, LocalError { path, error }: LocalError) -> RepositoryError {
        RepositoryError::Local {
            url: self.location.to_string(),
            path: path.display().to_string(),
            variable: self.location.mount_variable(),
            reason: error.to_string(),
        }
    }

    pub(crate) async fn client(&self) -> Result<Arc<Client>, RepositoryError> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let made = Arc::new(self.connect().await?);
        tracing::info!("reading model repository '{}' ({})", self.location, made.tried);
        Ok(client.insert(made).clone())
    }

    /// Files of credentials and certificates are read: on a thread that may block.
    async fn connect(&self) -> Result<Client, RepositoryError> {
        let (location, variables, limits) = (self.location.clone(), self.variables.clone(), self.limits.clone());
        let transport = self.transport.clone();
        let connect = move || Handle::current().block_on(connect::connect(&location, &*variables, &limits, &transport));
        spawn_blocking(connect).await.unwrap_or(Err(RepositoryError::Closed))
    }

    async fn ask_for_names(&self) -> Result<BTreeSet<String>, RepositoryError> {
        let client = self.client().await?;
        let prefix = self.prefix("")?;
        let answer = timeout(self.limits.answer, client.store.list_with_delimiter(prefix.as_ref())).await;
        let found = match answer {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(self.refused(&client, &error).await),
            Err(_) => return Err(self.silent(&client).await),
        };
        if found.common_prefixes.is_empty() && found.objects.is_empty() {
            tracing::warn!("model repository '{}' is empty: is the path right?", self.location);
        }
        let names = found.common_prefixes.iter().filter_map(|prefix| prefix.filename());
        Ok(names.filter(|name| !name.starts_with('.')).map(str::to_owned).collect())
    }

    async fn list(&self, name: &str) -> Result<Listing, RepositoryError> {
        let objects = self.unless_closed(self.list_objects(name)).await?;
        let listing = Listing::of(&self.location.key(name), objects);
        listing.map_err(|BadKey { key, reason }| self.bad_key(key, reason))
    }

    /// The objects of a model, or of all, if the name is empty.
    pub(crate) async fn list_objects(&self, name: &str) -> Result<Vec<ObjectMeta>, RepositoryError> {
        let client = self.client().await?;
        let prefix = self.prefix(name)?;
        let mut pages = client.store.list(prefix.as_ref());
        let mut objects = Vec::new();
        loop {
            match timeout(self.limits.answer, pages.next()).await {
                Ok(Some(Ok(object))) => objects.push(object),
                Ok(Some(Err(error))) => return Err(self.refused(&client, &error).await),
                Ok(None) => return Ok(objects),
                Err(_) => return Err(self.silent(&client).await),
            }
            if objects.len() > self.limits.objects {
                let (url, key) = (self.location.to_string(), self.location.key(name));
                return Err(RepositoryError::TooMany { url, key, limit: self.limits.objects });
            }
        }
    }

    /// What the keys of a model begin with; of the repository, if the name is empty.
    fn prefix(&self, name: &str) -> Result<Option<Key>, RepositoryError> {
        let text = if name.is_empty() { self.location.prefix.clone() } else { self.location.key(name) };
        if text.is_empty() {
            return Ok(None);
        }
        Key::parse(&text).map(Some).map_err(|_| self.bad_key(text, "which no store can have".into()))
    }

    pub(crate) fn bad_key(&self, key: String, reason: String) -> RepositoryError {
        RepositoryError::Key { url: self.location.to_string(), key: key.escape_debug().to_string(), reason }
    }

    /// Credentials and endpoints are looked up again at the next question: they may have been mended.
    pub(crate) async fn refused(&self, client: &Client, error: &object_store::Error) -> RepositoryError {
        let tried = client.tried.to_string();
        let (url, client, detail) = (self.location.to_string(), self.location.client_failed(), detail(error));
        let refused = match meaning(error) {
            Meaning::Missing => RepositoryError::NoBucket { client, url, bucket: self.location.bucket(), tried },
            Meaning::Denied => RepositoryError::Denied { client, url, detail, tried },
            Meaning::InvalidKey => {
                let text = error.to_string();
                let key = text.split_once("Path \"").and_then(|(_, rest)| rest.split_once('"'));
                let key = key.map_or(&*text, |(key, _)| key).to_owned();
                return self.bad_key(key, "which is no path below its model".into());
            }
            Meaning::Changed | Meaning::Other => RepositoryError::Unreachable { client, url, detail, tried },
        };
        self.client.lock().await.take();
        refused
    }

    async fn silent(&self, client: &Client) -> RepositoryError {
        self.client.lock().await.take();
        self.unreachable(client, silence(self.limits.answer))
    }

    pub(crate) fn unreachable(&self, client: &Client, detail: String) -> RepositoryError {
        RepositoryError::Unreachable {
            client: self.location.client_failed(),
            url: self.location.to_string(),
            detail,
            tried: client.tried.to_string(),
        }
    }

    /// Why an object of that URL and size did not become a file.
    pub(crate) fn not_fetched(&self, client: &Client, url: String, size: u64, error: FetchError) -> RepositoryError {
        match error {
            FetchError::Changed => RepositoryError::Changed { url },
            FetchError::Denied(detail) => {
                let (client, tried) = (self.location.client_failed(), client.tried.to_string());
                RepositoryError::Denied { client, url, detail, tried }
            }
            FetchError::Damaged { attempts, detail } => RepositoryError::Damaged { url, attempts, detail },
            FetchError::Broken { detail, got } => RepositoryError::Broken { url, detail, got, size },
            FetchError::Local(error) => self.local(error),
            FetchError::Closed => RepositoryError::Closed,
        }
    }
}

// === impl RemoteModel ===

impl RemoteModel {
    /// A number for what its files look like now, without fetching any; `None` if there are none.
    ///
    /// `is_ignored` says which do not count, by their path below the model's folder. Errors: the store cannot be asked.
    pub async fn digest(&self, is_ignored: impl Fn(&std::path::Path) -> bool) -> Result<Option<u64>, RepositoryError> {
        let listing = self.listing().await?;
        Ok((!listing.is_empty()).then(|| listing.digest(is_ignored)))
    }

    /// Its files, as they are in the store now, or were when it was found just before.
    pub(crate) async fn listing(&self) -> Result<Arc<Listing>, RepositoryError> {
        let listed = self.listing.lock().take();
        match listed {
            Some(listing) => Ok(Arc::new(listing)),
            None => self.repository.list(&self.name).await.map(Arc::new),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Its URL.
impl fmt::Display for RemoteModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repository.location, self.name)
    }
}

impl fmt::Debug for RemoteModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteModel({self})")
    }
}
