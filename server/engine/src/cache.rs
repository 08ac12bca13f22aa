//! The server's response cache: one for all models that ask for it, in the server's own memory. Which requests
//! share an entry is [`server_core::response_cache`]'s to say; the way of a request through the cache is `infer/cached.rs`.

mod local;
mod scope;
mod settings;

use std::{
    fmt,
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
    response_cache::{CacheKey, CachedResponse, Scope, cache_key},
};

pub(crate) use self::scope::{Caching, is_enabled};
pub use self::settings::CacheConfig;
use self::{local::LocalCache, settings::Settings};
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
enum Store {
    Local(LocalCache),
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
        let (store, secret) = match settings::read(config)? {
            Settings::Local { size } => (Store::Local(LocalCache::new(size)), Some(random_secret()?)),
        };
        Ok(Self(Arc::new(Shared { store, secret, blocking_pool, byte_budget, loads: AtomicU64::new(0) })))
    }

    /// The scope of a model version that is being loaded: each load has entries of its own, so that nothing is served of a
    /// version that was replaced.
    pub(crate) fn scope(&self, model: &str, version: u64) -> Scope {
        let load = self.0.loads.fetch_add(1, Ordering::Relaxed);
        Scope::new(model, version, &load.to_le_bytes())
    }

    /// Looks for the response to a checked request.
    pub(crate) fn look_up(&self, scope: Scope, interface: &Arc<Interface>, request: InferRequest) -> Step<Found> {
        if request.input_bytes() <= MAX_INLINE_BYTES {
            return Step::Now(self.0.look_up_here(&scope, interface, request));
        }
        // Moved, not cloned: a model may write into inputs that nobody else has.
        let (shared, interface) = (self.0.clone(), interface.clone());
        Step::Later(Box::pin(async move {
            let pool = shared.blocking_pool.clone();
            pool.run(move || shared.look_up_here(&scope, &interface, request)).await
        }))
    }

    /// Keeps a response, which comes back. One that cannot be kept is left out, and the log says why.
    pub(crate) fn insert(&self, key: CacheKey, outputs: Outputs) -> Step<Outputs> {
        if outputs.tensors.iter().map(|tensor| tensor.data.len()).sum::<usize>() <= MAX_INLINE_BYTES {
            self.0.insert_here(key, &outputs);
            return Step::Now(outputs);
        }
        let shared = self.0.clone();
        Step::Later(Box::pin(async move {
            let pool = shared.blocking_pool.clone();
            let insert = move || {
                shared.insert_here(key, &outputs);
                outputs
            };
            pool.run(insert).await
        }))
    }

    /// What the metrics page says of a cache in the server's own memory.
    pub(crate) fn snapshot(&self) -> Option<CacheSnapshot> {
        match &self.0.store {
            Store::Local(cache) => Some(cache.snapshot()),
        }
    }
}

impl Shared {
    fn look_up_here(&self, scope: &Scope, interface: &Interface, mut request: InferRequest) -> Found {
        if !self.copy_out(&mut request) {
            return Found { request, key: None, outputs: None };
        }
        let key = cache_key(self.secret.as_ref(), scope, interface, &request);
        let outputs = key.and_then(|key| match &self.store {
            Store::Local(cache) => cache.look_up(&key),
        });
        Found { request, key, outputs }
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

    fn insert_here(&self, key: CacheKey, outputs: &Outputs) {
        let inserted = match &self.store {
            Store::Local(cache) => {
                cache.insert(key, CachedResponse::byte_size_of(outputs), || CachedResponse::of(outputs))
            }
        };
        if let Err(error) = inserted {
            tracing::debug!("Failed to insert key [{key}] into response cache: {error}");
        }
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
