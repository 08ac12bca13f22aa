//! Objects of S3, Google Cloud Storage and Azure: a folder, or one object, which may be an archive. The stores' own client
//! (`server/repositories`) does the work, with resumption and the checksums that the store tells; here are the credentials of a
//! mounted Secret, the rule for addresses, and the count of what comes.

mod connector;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crds::parts::source::Layout;
use operator_core::manifest::ManifestSource;
use server_repositories::{Location, Objects, RemoteRepository, RepositoryError, Transport, Variables};
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};

use self::connector::Guarded;
use super::{
    client::LeastRate,
    guard::AddressRule,
    places::Mounts,
    progress::{Fetched, Limits, Progress},
    unpack::Archive,
};
use crate::{
    fault::{Fault, Reason},
    files::blocking,
    verify::{self, Files},
};

/// Names under which people keep the key of a Google service account in a Secret.
const GOOGLE_KEYS: [&str; 4] =
    ["service-account.json", "key.json", "credentials.json", "gcloud-application-credentials.json"];
/// Names under which people keep the key of an Azure storage account: Triton's variable, then that of KServe's Secrets.
const AZURE_KEYS: [&str; 2] = ["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY"];

/// Where the stores' clients ask for the identity of a machine.
const METADATA: [&str; 2] = ["169.254.169.254", "metadata.google.internal"];
/// Folders listed at the same time: a listing is held in memory whole.
static LISTINGS: Semaphore = Semaphore::const_new(3);
/// How long a listing may take.
const LISTING: Duration = Duration::from_secs(120);

/// Objects to fetch.
pub(super) struct ObjectSource<'a> {
    uri: &'a str,
    endpoint: Option<&'a str>,
    region: Option<&'a str>,
    bucket_in_host: bool,
    secret: Option<&'a str>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Gcs,
    Azure,
}

/// Where the keys of a store come from.
enum Keys {
    Secret(PathBuf),
    /// The environment of the process: the identity of the pod, or what the user of `up` has.
    Environment,
    /// From nowhere: an identity must not go to a server that the model's author names.
    Nowhere,
}

impl<'a> ObjectSource<'a> {
    /// The objects of a source, if it is one of these.
    pub(super) fn of(source: &'a ManifestSource) -> Option<Self> {
        let made = |kind, uri: &'a String, endpoint: &'a Option<String>, secret: &'a Option<String>| Self {
            uri,
            endpoint: endpoint.as_deref(),
            region: None,
            bucket_in_host: false,
            secret: secret.as_deref(),
            kind,
        };
        match source {
            ManifestSource::S3 { uri, endpoint, region, bucket_in_host, secret } => Some(Self {
                region: region.as_deref(),
                bucket_in_host: *bucket_in_host,
                ..made(Kind::S3, uri, endpoint, secret)
            }),
            ManifestSource::Gcs { uri, endpoint, secret } => Some(made(Kind::Gcs, uri, endpoint, secret)),
            ManifestSource::Azure { uri, endpoint, secret } => Some(made(Kind::Azure, uri, endpoint, secret)),
            _ => None,
        }
    }

    /// Brings the files into the folder `into`; `beside` is a free path for an archive. A checksum of an archive is checked before
    /// anything is unpacked.
    ///
    /// Errors: `SourceNotFound`, `CredentialsMissing`, `AddressRefused`, `DownloadFailed`, `ChecksumMismatch`, `InvalidSource`,
    /// `StoreFailed`, `StoreFull`.
    pub(super) async fn fetch(
        &self,
        rule: &Arc<AddressRule>,
        secrets: &Mounts,
        (checksum, layout): (Option<&str>, Layout),
        into: &Path,
        beside: &Path,
        progress: &Arc<Progress>,
    ) -> Result<Fetched, Fault> {
        let invalid = |what: String| Fault::new(Reason::InvalidSource, what);
        let location = Location::parse(self.uri).map_err(|error| invalid(error.to_string()))?;
        let (variables, certificates) = self.variables(secrets)?;
        let guarded = Arc::new(Guarded::new(rule, progress.limits(), certificates.as_deref())?);
        let transport = Transport { connector: Arc::clone(&guarded) as _, bucket_in_host: self.bucket_in_host };
        let repository =
            RemoteRepository::new(location, variables, limits(progress.limits())).with_transport(transport);
        let failed = |error: RepositoryError| self.explain(guarded.refusal().unwrap_or_else(|| fault(&error)));
        if let Some(endpoint) = self.endpoint {
            guarded.permit(endpoint).await?;
        }
        let objects = {
            let _turn = LISTINGS.acquire().await; // never closed
            let late = |_| Fault::new(Reason::DownloadFailed, format!("{}: not listed within {LISTING:?}", self.uri));
            tokio::time::timeout(LISTING, Objects::list(repository)).await.map_err(late)?.map_err(failed)?
        };
        let objects = objects.ok_or_else(|| {
            Fault::new(
                Reason::SourceNotFound,
                format!("{}: there is no object of that name, and none below it", self.uri),
            )
        })?;
        let paths = paths(&objects, progress.limits())?;
        let is_single = objects.is_single();
        let total = objects.files().map(|(_, bytes)| bytes).fold(0, u64::saturating_add);

        let archive = paths.first().filter(|_| is_single).and_then(|name| Archive::of(name));
        let archive = archive.filter(|_| layout != Layout::File);
        let folder = if archive.is_some() { beside } else { into };
        let (target, counter, guard) = (folder.to_owned(), Arc::clone(progress), Arc::clone(&guarded));
        blocking(move || {
            counter.expect(total)?;
            fs::create_dir_all(&target).map_err(|error| Fault::store("cannot make a folder to fetch into", &error))?;
            let counted = Counted::new(&counter);
            let came = |bytes| counted.came(bytes);
            let fetched = Handle::current().block_on(async {
                tokio::select! {
                    fetched = objects.fetch(&target, &came) => Some(fetched),
                    () = counter.cancelled() => None,
                }
            });
            // why it was ended comes before what it was ended by
            counted.fault().map_or(Ok(()), Err)?;
            match fetched {
                Some(fetched) => fetched.map_err(|error| guard.refusal().unwrap_or_else(|| fault(&error))),
                None => counter.check(),
            }
        })
        .await?;

        progress.verifying();
        let folder = folder.to_owned();
        let (hashing, counter) = (folder.clone(), Arc::clone(progress));
        let files = blocking(move || {
            let hash =
                |path: &String| Ok((path.clone(), verify::hash_of_file(&hashing.join(path), || counter.check())?));
            paths.iter().map(hash).collect::<Result<Files, Fault>>()
        })
        .await?;
        let hash = match files.values().next() {
            Some(hash) if is_single => *hash,
            _ => verify::hash_of_folder(&files),
        };
        let Some(archive) = archive else { return Ok(Fetched { files, is_bare: is_single, hash }) };
        checksum.map_or(Ok(()), |expected| verify::check(expected, &hash))?;
        let name = files.into_keys().next().unwrap_or_default();
        let (into, progress) = (into.to_owned(), Arc::clone(progress));
        blocking(move || {
            let files = archive.unpack(&folder.join(name), &into, &progress)?;
            fs::remove_dir_all(&folder).map_err(|error| Fault::store("cannot remove the archive", &error))?;
            if files.is_empty() {
                return Err(Fault::new(Reason::InvalidSource, "the archive is empty"));
            }
            Ok(Fetched { files, is_bare: false, hash })
        })
        .await
    }

    /// Without a Secret the identity of the machine is asked for, at an address that is refused: what is missing is the Secret.
    fn explain(&self, fault: Fault) -> Fault {
        let is_of_identity = METADATA.iter().any(|address| fault.message.contains(address));
        if self.secret.is_some() || fault.reason != Reason::AddressRefused || !is_of_identity {
            return fault;
        }
        let message =
            format!("{}: no Secret is named in secretRef, and the pod has no credentials of its own", self.uri);
        Fault::new(Reason::CredentialsMissing, message)
    }

    /// What the client of the store is told instead of the process' environment, and certificates of the endpoint.
    fn variables(&self, secrets: &Mounts) -> Result<(Arc<Variables>, Option<Vec<u8>>), Fault> {
        let keys = match (self.secret, self.endpoint) {
            (Some(name), _) => Keys::Secret(self.secret_folder(secrets, name)?),
            // signing for S3 gives nothing away; the others send a token that is good elsewhere
            (None, Some(_)) if self.kind != Kind::S3 => Keys::Nowhere,
            (None, _) => Keys::Environment,
        };
        let certificates = match &keys {
            Keys::Secret(folder) => fs::read(folder.join("ca.crt")).ok(),
            Keys::Environment | Keys::Nowhere => None,
        };
        let endpoint = match self.kind {
            Kind::S3 => "AWS_ENDPOINT_URL_S3",
            Kind::Gcs => "CLOUD_STORAGE_EMULATOR_ENDPOINT",
            Kind::Azure => "AZURE_STORAGE_ENDPOINT",
        };
        let given = [(endpoint, self.endpoint), ("AWS_DEFAULT_REGION", self.region)]
            .map(|(name, value)| (name, value.map(str::to_owned)));
        let variables = move |name: &str| {
            if let Some((_, Some(value))) = given.iter().find(|(given, _)| *given == name) {
                return Some(value.clone());
            }
            match &keys {
                Keys::Secret(folder) if name == "GOOGLE_APPLICATION_CREDENTIALS" => {
                    let mut files = GOOGLE_KEYS.iter().map(|key| folder.join(key));
                    files.find(|file| file.is_file()).map(|file| file.display().to_string())
                }
                Keys::Secret(folder) if name == AZURE_KEYS[0] => AZURE_KEYS.iter().find_map(|key| value(folder, key)),
                Keys::Secret(folder) => value(folder, name),
                Keys::Environment => std::env::var(name).ok().filter(|value| !value.is_empty()),
                Keys::Nowhere => None,
            }
        };
        Ok((Arc::new(variables), certificates))
    }

    /// The mounted Secret, once it has the keys without which nothing would be signed.
    fn secret_folder(&self, secrets: &Mounts, name: &str) -> Result<PathBuf, Fault> {
        let missing = |what: String| Fault::new(Reason::CredentialsMissing, what);
        let folder = secrets
            .find(name)
            .ok_or_else(|| missing(format!("Secret '{name}' is not mounted: {}", secrets.places(name))))?;
        let (has_keys, wanted) = match self.kind {
            Kind::S3 => (
                ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].iter().all(|key| value(&folder, key).is_some()),
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            Kind::Gcs => (GOOGLE_KEYS.iter().any(|key| folder.join(key).is_file()), "service-account.json"),
            Kind::Azure => (AZURE_KEYS.iter().any(|key| value(&folder, key).is_some()), AZURE_KEYS[0]),
        };
        if has_keys { Ok(folder) } else { Err(missing(format!("Secret '{name}' is absent, or has no {wanted}"))) }
    }
}

/// Counts what comes, and keeps why it was too much.
struct Counted<'a> {
    progress: &'a Progress,
    state: Mutex<(LeastRate, Option<Fault>)>,
}

impl<'a> Counted<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self { progress, state: Mutex::new((LeastRate::new(progress.limits(), Instant::now()), None)) }
    }

    /// Whether more may come.
    fn came(&self, bytes: u64) -> bool {
        let (least, fault) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = least.count(bytes, Instant::now()).map_err(|what| Fault::new(Reason::DownloadFailed, what));
        match rate.and_then(|()| self.progress.add(bytes)) {
            Ok(()) => fault.is_none(),
            Err(new) => {
                fault.get_or_insert(new);
                false
            }
        }
    }

    fn fault(self) -> Option<Fault> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// The paths as they will lie on disk. Errors: one is none that a model's folder may have; there are too many.
fn paths(objects: &Objects, limits: &Limits) -> Result<Vec<String>, Fault> {
    let invalid = |what: String| Fault::new(Reason::InvalidSource, what);
    let mut paths = Vec::new();
    for (path, _) in objects.files() {
        if paths.len() >= limits.files {
            return Err(invalid(format!("the source has more than {} files", limits.files)));
        }
        let path = path.to_str().ok_or_else(|| invalid("the source has a name that is not UTF-8".to_owned()))?;
        let clean = verify::clean_path(path).map_err(invalid)?;
        if clean != path {
            return Err(invalid(format!("'{}' is no path of a file", path.escape_debug())));
        }
        paths.push(clean);
    }
    Ok(paths)
}

/// The limits of the stores' client.
fn limits(limits: &Limits) -> server_repositories::Limits {
    server_repositories::Limits {
        connect: limits.connect.min(Duration::from_secs(3)),
        silence: limits.silence,
        objects: limits.files,
        ..server_repositories::Limits::default()
    }
}

fn fault(error: &RepositoryError) -> Fault {
    let reason = match error {
        RepositoryError::Credentials { .. } | RepositoryError::Denied { .. } => Reason::CredentialsMissing,
        RepositoryError::NoBucket { .. } => Reason::SourceNotFound,
        RepositoryError::Key { .. } | RepositoryError::TooMany { .. } => Reason::InvalidSource,
        RepositoryError::Local { .. } | RepositoryError::NoSpace { .. } => Reason::StoreFailed,
        _ => Reason::DownloadFailed,
    };
    // Triton's sentence about its client comes first, and says less than the rest
    let text = error.to_string();
    let text = text.split_once("Unable to read model repository ").map_or(text.as_str(), |(_, rest)| rest);
    Fault::new(reason, text)
}

/// What a key of a mounted Secret holds.
fn value(folder: &Path, key: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join(key)).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
