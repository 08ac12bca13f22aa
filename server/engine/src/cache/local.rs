//! Entries in the server's own memory, bounded by bytes: the one that was not asked for the longest makes room. Keys are spread
//! over shards with a lock each, so that look-ups seldom wait for each other; the bound and the order of leaving are those of
//! all shards together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
    time::Instant,
};

use parking_lot::Mutex;
use server_core::{
    metrics::CacheSnapshot,
    response::Outputs,
    response_cache::{CacheKey, CachedResponse},
};

/// Parts of the table, each with its own lock.
const SHARDS: usize = 16;

/// The age of a shard without entries.
const NO_ENTRIES: u64 = u64::MAX;

/// Why a response is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotKept {
    #[error("Requested byte_size: {size} is greater than total cache size: {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("Only input buffers in CPU memory are allowed in cache currently")]
    NotOnHost,
    #[error("other responses that are being kept take all room")]
    NoRoom,
}

/// A bounded table of responses.
pub(super) struct LocalCache {
    shards: [Shard; SHARDS],
    limit: usize,
    /// Bytes of entries, and of those that are being inserted.
    used: AtomicUsize,
    /// Counts uses: the age of an entry is when it was used last.
    clock: AtomicU64,
}

#[derive(Default)]
struct Shard {
    table: Mutex<Table>,
    /// When its oldest entry was used last.
    oldest: AtomicU64,
}

#[derive(Default)]
struct Table {
    entries: HashMap<CacheKey, Entry>,
    /// By when they were used last.
    by_age: BTreeMap<u64, CacheKey>,
    counts: CacheSnapshot,
}

struct Entry {
    used_at: u64,
    response: CachedResponse,
}

impl LocalCache {
    /// An empty table of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        let shards: [Shard; SHARDS] = Default::default();
        shards.iter().for_each(|shard| shard.oldest.store(NO_ENTRIES, Relaxed));
        Self { shards, limit, used: AtomicUsize::new(0), clock: AtomicU64::new(0) }
    }

    /// The response under that key.
    pub(super) fn look_up(&self, key: &CacheKey) -> Option<Outputs> {
        let began = Instant::now();
        let shard = self.shard(key);
        let mut table = shard.table.lock();
        let used_at = self.clock.fetch_add(1, Relaxed);
        let found = table.use_entry(key, used_at);
        shard.note_oldest(&table);
        table.counts.lookup_ns += nanoseconds(began);
        match found {
            Some(_) => table.counts.hits += 1,
            None => table.counts.misses += 1,
        }
        found
    }

    /// Keeps a response of `size` bytes, which `copy` makes, and lets others go for it. One that is there already stays.
    pub(super) fn insert(
        &self,
        key: CacheKey,
        size: usize,
        copy: impl FnOnce() -> Option<CachedResponse>,
    ) -> Result<(), NotKept> {
        let began = Instant::now();
        let shard = self.shard(&key);
        if size > self.limit {
            return Err(NotKept::TooLarge { size, limit: self.limit });
        }
        if shard.table.lock().entries.contains_key(&key) {
            return Ok(());
        }
        // Room first: entries and their makings together stay within the bound.
        self.used.fetch_add(size, SeqCst);
        let given_back = |error| {
            self.used.fetch_sub(size, SeqCst);
            Err(error)
        };
        while self.used.load(SeqCst) > self.limit {
            if !self.evict() {
                return given_back(NotKept::NoRoom);
            }
        }
        let Some(response) = copy() else { return given_back(NotKept::NotOnHost) };
        debug_assert_eq!(response.byte_size(), size, "what is counted is what is there");
        let mut table = shard.table.lock();
        let used_at = self.clock.fetch_add(1, Relaxed);
        let replaced = table.insert(key, Entry { used_at, response });
        shard.note_oldest(&table);
        table.counts.insertion_ns += nanoseconds(began);
        drop(table);
        if let Some(replaced) = replaced {
            self.used.fetch_sub(replaced.response.byte_size(), SeqCst); // somebody else kept the same meanwhile
        }
        Ok(())
    }

    /// The counts now.
    pub(super) fn snapshot(&self) -> CacheSnapshot {
        let mut sum =
            CacheSnapshot { used: self.used.load(SeqCst) as u64, limit: self.limit as u64, ..Default::default() };
        for shard in &self.shards {
            let table = shard.table.lock();
            sum.entries += table.entries.len() as u64;
            sum.hits += table.counts.hits;
            sum.misses += table.counts.misses;
            sum.evictions += table.counts.evictions;
            sum.lookup_ns += table.counts.lookup_ns;
            sum.insertion_ns += table.counts.insertion_ns;
        }
        sum
    }

    /// Lets the entry go that was not used for the longest; `false` if there is none.
    fn evict(&self) -> bool {
        loop {
            let age = |shard: &&Shard| shard.oldest.load(Relaxed);
            let Some(shard) = self.shards.iter().min_by_key(age).filter(|shard| age(shard) != NO_ENTRIES) else {
                return false;
            };
            let mut table = shard.table.lock();
            let evicted = table.remove_oldest();
            shard.note_oldest(&table);
            drop(table);
            if let Some(evicted) = evicted {
                self.used.fetch_sub(evicted.response.byte_size(), SeqCst);
                return true;
            }
        }
    }

    /// Keys are hashes: any of their bytes spreads them.
    fn shard(&self, key: &CacheKey) -> &Shard {
        &self.shards[usize::from(key.as_bytes()[0]) % SHARDS]
    }
}

impl Shard {
    /// Called with the table locked.
    fn note_oldest(&self, table: &Table) {
        self.oldest.store(table.by_age.keys().next().copied().unwrap_or(NO_ENTRIES), Relaxed);
    }
}

impl Table {
    fn use_entry(&mut self, key: &CacheKey, used_at: u64) -> Option<Outputs> {
        let entry = self.entries.get_mut(key)?;
        self.by_age.remove(&std::mem::replace(&mut entry.used_at, used_at));
        self.by_age.insert(used_at, *key);
        Some(entry.response.outputs())
    }

    fn insert(&mut self, key: CacheKey, entry: Entry) -> Option<Entry> {
        let used_at = entry.used_at;
        let replaced = self.entries.insert(key, entry);
        if let Some(replaced) = &replaced {
            self.by_age.remove(&replaced.used_at);
        }
        self.by_age.insert(used_at, key);
        replaced
    }

    fn remove_oldest(&mut self) -> Option<Entry> {
        let (_, key) = self.by_age.pop_first()?;
        self.counts.evictions += 1;
        self.entries.remove(&key)
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, thread};

    use proptest::prelude::*;
    use server_core::{
        config::from_text,
        interface::Interface,
        response_cache::{Scope, cache_key},
        tensor::{DataType, Tensor},
    };
    use smallvec::smallvec;

    use super::*;

    /// The key of a request that has only a name.
    fn key(name: u32) -> CacheKey {
        let request = server_core::request::InferRequest {
            model_name: "m".into(),
            model_version: Default::default(),
            id: String::new(),
            inputs: smallvec![],
            outputs: smallvec![],
            parameters: vec![],
            sequence: None,
            priority: 0,
            timeout: None,
            received_at: Instant::now(),
            callers: None,
            trace: None,
        };
        let config = from_text("name: 'm' output { name: 'X' data_type: TYPE_UINT8 dims: [ -1 ] }").unwrap();
        let interface = Interface::new(&config, 1, Default::default()).unwrap();
        cache_key(None, &Scope::new("m", 1, &name.to_le_bytes()), &interface, &request).unwrap()
    }

    fn response(value: u8, length: usize) -> Outputs {
        let data = vec![value; length].into();
        let tensor = Tensor { name: "X".into(), data_type: DataType::Uint8, shape: smallvec![length as i64], data };
        Outputs { tensors: smallvec![tensor], ..Outputs::default() }
    }

    fn keep(cache: &LocalCache, name: u32, length: usize) -> Result<(), NotKept> {
        let outputs = response(name as u8, length);
        cache.insert(key(name), CachedResponse::byte_size_of(&outputs), || CachedResponse::of(&outputs))
    }

    fn is_there(cache: &LocalCache, name: u32) -> bool {
        let found = cache.look_up(&key(name));
        if let Some(outputs) = &found {
            assert!(outputs.tensors[0].data.as_host().unwrap().iter().all(|byte| *byte == name as u8));
        }
        found.is_some()
    }

    #[test]
    fn the_entry_that_was_not_asked_for_the_longest_makes_room() {
        let size = CachedResponse::byte_size_of(&response(0, 1000));
        let cache = LocalCache::new(3 * size);
        for name in [1, 2, 3] {
            keep(&cache, name, 1000).unwrap();
        }
        assert!(is_there(&cache, 1));
        keep(&cache, 4, 1000).unwrap();
        assert_eq!([1, 2, 3, 4].map(|name| is_there(&cache, name)), [true, false, true, true]);
        let snapshot = cache.snapshot();
        assert_eq!((snapshot.entries, snapshot.evictions, snapshot.hits, snapshot.misses), (3, 1, 4, 1));
        assert_eq!(snapshot.used, 3 * size as u64);
        // one as large as all of them
        keep(&cache, 5, 1000 + 2 * size).unwrap();
        assert_eq!([1, 3, 4, 5].map(|name| is_there(&cache, name)), [false, false, false, true]);
        assert_eq!(cache.snapshot().used, cache.snapshot().limit);
    }

    #[test]
    fn a_response_larger_than_the_cache_is_not_kept_and_harms_none() {
        let cache = LocalCache::new(1000);
        keep(&cache, 1, 100).unwrap();
        assert!(matches!(keep(&cache, 2, 1000), Err(NotKept::TooLarge { limit: 1000, .. })));
        assert!(is_there(&cache, 1) && !is_there(&cache, 2));
    }

    #[test]
    fn a_response_that_is_there_is_not_kept_again() {
        let cache = LocalCache::new(10_000);
        keep(&cache, 1, 100).unwrap();
        let used = cache.snapshot().used;
        cache.insert(key(1), 1, || unreachable!("nobody needs a copy")).unwrap();
        assert_eq!((cache.snapshot().used, cache.snapshot().entries), (used, 1));
    }

    #[test]
    fn a_response_that_cannot_be_copied_leaves_its_room() {
        let cache = LocalCache::new(10_000);
        assert_eq!(cache.insert(key(1), 500, || None), Err(NotKept::NotOnHost));
        assert_eq!(cache.snapshot().used, 0);
    }

    #[test]
    fn many_threads_stay_within_the_bound() {
        let cache = LocalCache::new(50_000);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for thread in 0..4_u32 {
                let (cache, is_over) = (&cache, &is_over);
                scope.spawn(move || {
                    for turn in 0..2000_u32 {
                        let name = (thread * 7919 + turn * 104_729) % 97;
                        if !is_there(cache, name) {
                            let _ = keep(cache, name, 100 + 37 * name as usize);
                        }
                        let snapshot = cache.snapshot();
                        // what is being inserted is counted before there is room for it
                        is_over.fetch_or(snapshot.used > snapshot.limit + 4 * 8_000, Relaxed);
                    }
                });
            }
        });
        assert!(!is_over.into_inner());
        let snapshot = cache.snapshot();
        assert!(snapshot.used <= snapshot.limit && snapshot.entries > 0 && snapshot.evictions > 0, "{snapshot:?}");
        let entries: usize = (0..97).filter_map(|name| cache.look_up(&key(name))).count();
        assert_eq!(entries as u64, snapshot.entries);
    }

    proptest! {
        /// The same as a list that is kept in the order of use.
        #[test]
        fn it_holds_what_a_list_in_order_of_use_would(
            limit in 500_usize..5000,
            turns in proptest::collection::vec((0..12_u32, 0..900_usize, any::<bool>()), 0..100),
        ) {
            let cache = LocalCache::new(limit);
            let mut list: Vec<(u32, usize)> = Vec::new(); // last used last
            for (name, length, is_look_up) in turns {
                let known = list.iter().position(|(known, _)| *known == name);
                if is_look_up {
                    prop_assert_eq!(is_there(&cache, name), known.is_some());
                    if let Some(place) = known {
                        let used = list.remove(place);
                        list.push(used);
                    }
                    continue;
                }
                let size = CachedResponse::byte_size_of(&response(0, length));
                prop_assert_eq!(keep(&cache, name, length).is_ok(), size <= limit);
                if known.is_none() && size <= limit {
                    while list.iter().map(|(_, size)| size).sum::<usize>() + size > limit {
                        list.remove(0);
                    }
                    list.push((name, size));
                }
            }
            let used: usize = list.iter().map(|(_, size)| size).sum();
            prop_assert_eq!(cache.snapshot().used, used as u64);
            prop_assert_eq!(cache.snapshot().entries, list.len() as u64);
        }
    }
}
