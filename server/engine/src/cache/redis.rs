//! Entries in a Redis server that other servers may share. What is asked of it is bounded in time: a Redis that is down, slow or
//! gone is a cache in which nothing is found.
//!
//! A lost connection is made again in the background, at growing intervals; meanwhile nobody waits for it.

mod connect;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{Value, aio::MultiplexedConnection, cmd};
use server_core::{
    error::{Error, Result},
    response::Outputs,
    response_cache::{CacheKey, decode},
};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{sleep, timeout},
};

use self::connect::Connector;
use super::settings::RedisSettings;

/// Requests that may wait for answers on one connection; further ones wait for a place.
const IN_FLIGHT: usize = 128;

/// How long a connection that was lost is left alone; each time that it is lost again soon or cannot be made, twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// A connection that held for so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Redis takes no value larger than this, unless it is told to.
const MAX_VALUE: usize = 512 << 20;

/// A Redis server as a cache.
pub(super) struct RedisCache(Arc<Shared>);

struct Shared {
    connector: Connector,
    slots: Vec<Slot>,
    socket_timeout: Duration,
    wait_timeout: Duration,
    runtime: Handle,
    /// Redis refused a command, and the log says so.
    is_refusing: AtomicBool,
}

/// The place of one connection. A key has one, so that what is looked for after it was kept is found.
struct Slot {
    state: Mutex<State>,
    in_flight: Semaphore,
}

struct State {
    /// `None` while it is made again.
    connection: Option<MultiplexedConnection>,
    /// Counts connections.
    generation: u64,
    made_at: Instant,
    pause: Duration,
}

/// A connection in use.
struct Used {
    connection: MultiplexedConnection,
    generation: u64,
}

impl RedisCache {
    /// Connects. Call it on a runtime: connections live there.
    ///
    /// Errors: the settings name files that cannot be read, or Redis does not answer, in Triton's words where it has them.
    pub(super) async fn open(settings: RedisSettings) -> Result<Self> {
        let failed = |why: String| Error::internal(format!("Failed to initialize RedisCache: {why}"));
        let RedisSettings { pool_size, socket_timeout, wait_timeout, .. } = settings;
        let connector = Connector::new(settings).map_err(failed)?;
        let mut slots = Vec::new();
        for _ in 0..pool_size {
            let connection = Some(connector.connect().await.map_err(failed)?);
            let state = State { connection, generation: 0, made_at: Instant::now(), pause: FIRST_PAUSE };
            slots.push(Slot { state: Mutex::new(state), in_flight: Semaphore::new(IN_FLIGHT) });
        }
        let (runtime, is_refusing) = (Handle::current(), AtomicBool::new(false));
        Ok(Self(Arc::new(Shared { connector, slots, socket_timeout, wait_timeout, runtime, is_refusing })))
    }

    /// The response under that name, within `limit` if there is one.
    pub(super) async fn look_up(&self, key: &CacheKey, name: &[u8], limit: Option<Duration>) -> Option<Outputs> {
        let command = cmd("GET").arg(name).clone();
        let value = self.0.ask(self.0.slot(key), &command, limit).await?;
        let Value::BulkString(bytes) = value else { return None };
        decode(bytes.into())
            .inspect_err(|error| {
                let name = String::from_utf8_lossy(name);
                tracing::warn!("the response that Redis has under '{name}' is ignored: {error}");
            })
            .ok()
    }

    /// Keeps a response.
    pub(super) async fn insert(&self, key: &CacheKey, name: &[u8], entry: &[u8]) {
        if entry.len() <= MAX_VALUE {
            let command = cmd("SET").arg(name).arg(entry).clone();
            self.0.ask(self.0.slot(key), &command, None).await;
        }
    }
}

impl Shared {
    fn slot(&self, key: &CacheKey) -> usize {
        usize::from(key.as_bytes()[1]) % self.slots.len()
    }

    /// The answer to a command; `None` if there is none in time.
    async fn ask(self: &Arc<Self>, slot: usize, command: &redis::Cmd, limit: Option<Duration>) -> Option<Value> {
        let place = &self.slots[slot];
        let within = |most: Duration| limit.map_or(most, |limit| limit.min(most));
        let Used { mut connection, generation } = place.connection()?;
        let _permit = timeout(within(self.wait_timeout), place.in_flight.acquire()).await.ok()?.ok()?;
        let answer = async { connection.send_packed_command(command).await?.extract_error() };
        match timeout(within(self.socket_timeout), answer).await {
            Ok(Ok(value)) => {
                self.is_refusing.store(false, Ordering::Relaxed);
                Some(value)
            }
            Ok(Err(error)) if error.is_io_error() || error.is_unrecoverable_error() => {
                self.lost(slot, generation, &error.to_string());
                None
            }
            Ok(Err(error)) => {
                // an answer, though not to the question: it is full, or reads its files
                if !self.is_refusing.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the response cache in Redis refuses: {error}");
                }
                None
            }
            Err(_) if limit.is_some_and(|limit| limit < self.socket_timeout) => None, // the request's own limit
            Err(_) => {
                self.lost(slot, generation, &format!("no answer within {} ms", self.socket_timeout.as_millis()));
                None
            }
        }
    }

    /// Gives up a connection, and has it made again.
    fn lost(self: &Arc<Self>, slot: usize, generation: u64, why: &str) {
        let pause = {
            let mut state = self.slots[slot].state.lock();
            if state.generation != generation || state.connection.take().is_none() {
                return; // somebody saw it before
            }
            let was_good = state.made_at.elapsed() >= GOOD_AFTER;
            state.pause = if was_good { FIRST_PAUSE } else { (state.pause * 2).min(LAST_PAUSE) };
            state.pause
        };
        tracing::warn!("the response cache in Redis is lost, and requests go on without it: {why}");
        self.runtime.spawn(make_again(Arc::downgrade(self), slot, pause));
    }
}

/// Connects until it succeeds, or the cache is gone.
async fn make_again(shared: Weak<Shared>, slot: usize, mut pause: Duration) {
    let lost_at = Instant::now();
    loop {
        sleep(pause).await;
        let Some(shared) = shared.upgrade() else { return };
        match shared.connector.connect().await {
            Ok(connection) => {
                let mut state = shared.slots[slot].state.lock();
                state.connection = Some(connection);
                state.generation += 1;
                state.made_at = Instant::now();
                drop(state);
                let seconds = lost_at.elapsed().as_secs();
                tracing::info!("the response cache in Redis answers again, after {seconds} s");
                return;
            }
            Err(error) => {
                pause = (pause * 2).min(LAST_PAUSE);
                tracing::debug!("Redis: {error}");
            }
        }
    }
}

impl Slot {
    fn connection(&self) -> Option<Used> {
        let state = self.state.lock();
        Some(Used { connection: state.connection.clone()?, generation: state.generation })
    }
}
