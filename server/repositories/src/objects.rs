//! What lies at one address, a folder or a single object, fetched for somebody who keeps the files himself: no mirror, no versions.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, path::Path as Key};
use tokio::time::timeout;

use crate::{
    client::Client,
    error::{Meaning, RepositoryError, meaning, silence},
    fetch,
    listing::{BadKey, Listing, RemoteFile},
    repository::RemoteRepository,
};

/// The objects at an address, as they were when they were listed.
pub struct Objects {
    repository: RemoteRepository,
    client: Arc<Client>,
    files: BTreeMap<PathBuf, RemoteFile>,
    is_single: bool,
}

impl Objects {
    /// Lists what lies at the repository's address; `None` if nothing does.
    ///
    /// Errors: the store cannot be asked, or has keys that are no files.
    pub async fn list(repository: RemoteRepository) -> Result<Option<Self>, RepositoryError> {
        let location = repository.location().clone();
        let objects = repository.list_objects("").await?;
        let listing =
            Listing::of(&location.prefix, objects).map_err(|BadKey { key, reason }| repository.bad_key(key, reason))?;
        let client = repository.client().await?;
        if !listing.files.is_empty() {
            return Ok(Some(Self { repository, client, files: listing.files, is_single: false }));
        }
        let Some(name) = location.prefix.rsplit('/').next().filter(|name| !name.is_empty()) else { return Ok(None) };
        let key = Key::parse(&location.prefix)
            .map_err(|_| repository.bad_key(location.prefix.clone(), "which no store can have".into()))?;
        match timeout(repository.limits.answer, client.store.head(&key)).await {
            Ok(Ok(object)) => {
                let files = BTreeMap::from([(PathBuf::from(name), RemoteFile::of(object))]);
                Ok(Some(Self { repository, client, files, is_single: true }))
            }
            Ok(Err(error)) if meaning(&error) == Meaning::Missing => Ok(None),
            Ok(Err(error)) => Err(repository.refused(&client, &error).await),
            Err(_) => Err(repository.unreachable(&client, silence(repository.limits.answer))),
        }
    }

    /// Whether the address is that of one object.
    pub fn is_single(&self) -> bool {
        self.is_single
    }

    /// Paths below the address, and bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.files.iter().map(|(path, file)| (path.as_path(), file.size))
    }

    /// Fetches all of them into `folder`, several at once, each checked against the checksum that the store tells.
    ///
    /// Blocks while it writes: call it from a thread that may. `came` is told the length of each piece before it is written, and ends
    /// the work by `false`. Errors: a file cannot be had or written; it was ended.
    pub async fn fetch(&self, folder: &Path, came: &(dyn Fn(u64) -> bool + Sync)) -> Result<(), RepositoryError> {
        let fetches = self.files.iter().map(|(path, file)| async move {
            let to = folder.join(path);
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent).map_err(|error| self.local(parent, &error))?;
            }
            let url = match self.is_single {
                true => self.repository.location().to_string(),
                false => format!("{}/{}", self.repository.location(), path.display()),
            };
            fetch::fetch(&*self.client.store, file, &to, &self.repository.limits, came)
                .await
                .map_err(|error| self.repository.not_fetched(&self.client, url, file.size, error))
        });
        stream::iter(fetches).buffer_unordered(self.repository.limits.parallel).try_collect::<()>().await
    }

    fn local(&self, path: &Path, error: &std::io::Error) -> RepositoryError {
        RepositoryError::Local {
            url: self.repository.location().to_string(),
            path: path.display().to_string(),
            variable: self.repository.location().mount_variable(),
            reason: error.to_string(),
        }
    }
}
