//! The server's response cache: one for all models that ask for it, in the server's own memory, in Redis, or in a cache library. Which requests
//! share an entry is [`server_core::response_cache`]'s to say; the way of a request through the cache is `infer/cached.rs`.

mod content;
mod local;
mod redis;
mod scope;
mod settings;

use std::{
    env, fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use server_core::{
    buffer::Buffer,
    byte_budget::{ByteBudget, Reservation},
    error::{Error, Result},
    interface::Interface,
    metrics::CacheSnapshot,
    request::InferRequest,
    response::Outputs,
    response_cache::{CacheKey, CachedResponse, EntryStore, Scope, cache_key, decode, encode},
};

pub use self::settings::CacheConfig;
pub(crate) use self::{
    content::Content,
    scope::{Caching, is_enabled},
};
use self::{local::LocalCache, redis::RedisCache, settings::Settings};
use crate::BlockingPool;

/// Bytes that are hashed or copied on the caller's thread: a few hundred microseconds. More go to the blocking pool.
const MAX_INLINE_BYTES: usize = 1 << 20;

/// The response cache of a server. Clones share it.
#[derive(Clone)]
pub struct ResponseCache(Arc<Shared>);

struct Shared {
    store: Store,
    /// Drawn anew by each process, where entries are this process's own: nobody can tell keys without it.
    secret: Option<[u8; 32]>,
    blocking_pool: BlockingPool,
    /// Bounds what is copied of requests.
    byte_budget: Arc<ByteBudget>,
    /// Versions loaded so far.
    loads: AtomicU64,
}

/// Where entries lie.
#[expect(clippy::large_enum_variant, reason = "there is one per server")]
enum Store {
    Local(LocalCache),
    Redis(RedisCache),
    Library(Arc<dyn EntryStore>),
}

/// What comes at once, or later.
pub(crate) enum Step<T> {
    Now(T),
    Later(Later<T>),
}

/// Errors: it could not be done at all.
pub(crate) type Later<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What a look-up came to.
pub(crate) struct Found {
    /// The request comes back.
    pub(crate) request: InferRequest,
    /// Where its response may be kept; `None` for requests that have no key.
    pub(crate) key: Option<CacheKey>,
    /// The response, if there is one.
    pub(crate) outputs: Option<Outputs>,
}

impl ResponseCache {
    /// The cache that the command line asks for. Long work is done on `blocking_pool`; `byte_budget` bounds what is copied of
    /// requests whose tensors lie with their clients.
    ///
    /// Errors: the settings are wrong, or the cache cannot be made, in Triton's words where it has them.
    pub async fn open(config: &CacheConfig, blocking_pool: BlockingPool, byte_budget: Arc<ByteBudget>) -> Result<Self> {
        let (store, secret) = match settings::read(config, |name| env::var(name).ok())? {
            Settings::Local { size } => (Store::Local(LocalCache::new(size)), Some(random_secret()?)),
            Settings::Redis(settings) => (Store::Redis(RedisCache::open(*settings).await?), None),
        };
        Ok(Self::new(store, secret, blocking_pool, byte_budget))
    }

    /// The cache of a library. It is asked on `blocking_pool`, for it may block.
    pub fn of_library(library: Arc<dyn EntryStore>, blocking_pool: BlockingPool, byte_budget: Arc<ByteBudget>) -> Self {
        Self::new(Store::Library(library), None, blocking_pool, byte_budget)
    }

    fn new(store: Store, secret: Option<[u8; 32]>, blocking_pool: BlockingPool, byte_budget: Arc<ByteBudget>) -> Self {
        Self(Arc::new(Shared { store, secret, blocking_pool, byte_budget, loads: AtomicU64::new(0) }))
    }

    /// Whether other processes may see the entries: then a version is what its files are, and else each load is another, so that
    /// nothing is served of a version that was replaced.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.0.store, Store::Redis(_) | Store::Library(_))
    }

    /// A number that no other load of a version has.
    pub(crate) fn next_load(&self) -> u64 {
        self.0.loads.fetch_add(1, Ordering::Relaxed)
    }

    /// Looks for the response to a checked request.
    pub(crate) fn look_up(&self, scope: Scope, interface: &Arc<Interface>, request: InferRequest) -> Step<Found> {
        let is_long = request.input_bytes() > MAX_INLINE_BYTES;
        if let (false, Store::Local(cache)) = (is_long, &self.0.store) {
            let (request, key) = self.0.key(&scope, interface, request);
            return Step::Now(Found { request, key, outputs: key.and_then(|key| cache.look_up(&key)) });
        }
        // The request is moved, not cloned: a model may write into inputs that nobody else has.
        let (shared, interface) = (self.0.clone(), interface.clone());
        Step::Later(Box::pin(async move {
            let work = {
                let (shared, interface) = (shared.clone(), interface.clone());
                move || shared.key(&scope, &interface, request)
            };
            let (request, key) = shared.blocking_pool.run_if(is_long, work).await?;
            let outputs = match (key, &shared.store) {
                (None, _) => None,
                (Some(key), Store::Local(cache)) => cache.look_up(&key),
                (Some(key), Store::Redis(cache)) => {
                    cache.look_up(&key, name(&interface, &key).as_bytes(), request.timeout).await
                }
                (Some(key), Store::Library(library)) => {
                    let (library, name) = (library.clone(), name(&interface, &key));
                    shared.blocking_pool.run(move || look_up_in_library(&*library, &name)).await?
                }
            };
            Ok(Found { request, key, outputs })
        }))
    }

    /// Keeps a response, which comes back. One that cannot be kept is left out.
    pub(crate) fn insert(&self, interface: &Arc<Interface>, key: CacheKey, outputs: Outputs) -> Step<Outputs> {
        let is_long = outputs.tensors.iter().map(|tensor| tensor.data.len()).sum::<usize>() > MAX_INLINE_BYTES;
        if let (false, Store::Local(cache)) = (is_long, &self.0.store) {
            insert(cache, key, &outputs);
            return Step::Now(outputs);
        }
        let (shared, interface) = (self.0.clone(), interface.clone());
        Step::Later(Box::pin(async move {
            let work = {
                let shared = shared.clone();
                move || match &shared.store {
                    Store::Local(cache) => {
                        insert(cache, key, &outputs);
                        (outputs, None)
                    }
                    Store::Redis(_) | Store::Library(_) => {
                        let entry = encode(&outputs);
                        (outputs, entry)
                    }
                }
            };
            let (outputs, entry) = shared.blocking_pool.run_if(is_long, work).await?;
            match (entry, &shared.store) {
                (Some(entry), Store::Redis(cache)) => {
                    cache.insert(&key, name(&interface, &key).as_bytes(), &entry).await;
                }
                (Some(entry), Store::Library(library)) => {
                    let (library, name) = (library.clone(), name(&interface, &key));
                    shared.blocking_pool.run(move || insert_in_library(&*library, &name, entry)).await?;
                }
                _ => {}
            }
            Ok(outputs)
        }))
    }

    /// What the metrics page says of a cache in the server's own memory.
    pub(crate) fn snapshot(&self) -> Option<CacheSnapshot> {
        match &self.0.store {
            Store::Local(cache) => Some(cache.snapshot()),
            Store::Redis(_) | Store::Library(_) => None, // a library has metrics of its own
        }
    }
}

impl Shared {
    /// The key of a request, if it has one.
    fn key(&self, scope: &Scope, interface: &Interface, mut request: InferRequest) -> (InferRequest, Option<CacheKey>) {
        let key =
            self.copy_out(&mut request).then(|| cache_key(self.secret.as_ref(), scope, interface, &request)).flatten();
        (request, key)
    }

    /// What a client can change meanwhile is read once, so that the answer is kept under what the model saw. `false` if there
    /// is no room for it.
    fn copy_out(&self, request: &mut InferRequest) -> bool {
        for input in request.inputs.iter_mut().filter(|input| input.data.is_of_client()) {
            let Some(bytes) = input.data.as_host() else { return false };
            let Ok(reservation) = self.byte_budget.reserve(bytes.len()) else { return false };
            let copied = Copied { bytes: bytes.to_vec(), _reservation: reservation };
            input.data = Buffer::unique(Bytes::from_owner(copied));
        }
        true
    }
}

fn insert(cache: &LocalCache, key: CacheKey, outputs: &Outputs) {
    let size = CachedResponse::byte_size_of(outputs);
    if let Err(error) = cache.insert(key, size, || CachedResponse::of(outputs)) {
        tracing::debug!("Failed to insert key [{key}] into response cache: {error}");
    }
}

/// What an entry is called where others see it.
fn name(interface: &Interface, key: &CacheKey) -> String {
    format!("tritonserver/{}/{}/{key}", interface.model_name, interface.version)
}

/// The response under that name. What cannot be read is looked for in vain.
fn look_up_in_library(library: &dyn EntryStore, name: &str) -> Option<Outputs> {
    let found = library.look_up(name).inspect_err(|error| tracing::warn!("Failed to look up key [{name}]: {error}"));
    decode(found.ok()??)
        .inspect_err(|error| {
            tracing::warn!("the response that the cache library has under '{name}' is ignored: {error}")
        })
        .ok()
}

fn insert_in_library(library: &dyn EntryStore, name: &str, entry: Vec<u8>) {
    if let Err(error) = library.insert(name, entry.into()) {
        tracing::debug!("Failed to insert key [{name}] into response cache: {error}");
    }
}

/// Bytes of a request beside its body, and their part of the budget.
struct Copied {
    bytes: Vec<u8>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for ResponseCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.store {
            Store::Local(cache) => write!(f, "ResponseCache(local, {:?})", cache.snapshot()),
            Store::Redis(_) => f.write_str("ResponseCache(redis)"),
            Store::Library(_) => f.write_str("ResponseCache(library)"),
        }
    }
}

fn random_secret() -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    // 32 bytes come whole, says getrandom(2)
    match rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()) {
        Ok(32) => Ok(secret),
        other => Err(Error::internal(format!("cannot draw a secret for the response cache: {other:?}"))),
    }
}
