//! Gauges of the response cache in the server's own memory.

use super::family::{Family, Kind, Page};

/// What is counted of a response cache in the server's own memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheSnapshot {
    /// Bytes in use.
    pub used: u64,
    /// Most bytes it may use.
    pub limit: u64,
    /// Responses that it holds.
    pub entries: u64,
    /// Look-ups that found one.
    pub hits: u64,
    /// Look-ups that found none.
    pub misses: u64,
    /// Responses that left to make room.
    pub evictions: u64,
    /// Time of all look-ups, nanoseconds.
    pub lookup_ns: u64,
    /// Time of all insertions, nanoseconds.
    pub insertion_ns: u64,
}

type OfLocalCache = (&'static str, &'static str, fn(&CacheSnapshot) -> f64);

/// Families of the local response cache, in the order of the page; all of them gauges, as Triton has them.
const OF_LOCAL_CACHE: [OfLocalCache; 8] = [
    ("nv_cache_util", "Cache utilization [0.0 - 1.0]", |cache| cache.used as f64 / cache.limit.max(1) as f64),
    ("nv_cache_num_entries", "Number of responses stored in response cache", |cache| cache.entries as f64),
    ("nv_cache_num_hits", "Number of cache hits in response cache", |cache| cache.hits as f64),
    ("nv_cache_num_misses", "Number of cache misses in response cache", |cache| cache.misses as f64),
    ("nv_cache_num_lookups", "Number of cache lookups in response cache", |cache| (cache.hits + cache.misses) as f64),
    ("nv_cache_num_evictions", "Number of cache evictions in response cache", |cache| cache.evictions as f64),
    ("nv_cache_lookup_duration", "Total cache lookup duration (hit and miss), in microseconds", |cache| {
        (cache.lookup_ns / 1000) as f64
    }),
    ("nv_cache_insertion_duration", "Total cache insertion duration, in microseconds", |cache| {
        (cache.insertion_ns / 1000) as f64
    }),
];

/// Whether one has that name.
pub(super) fn has(name: &str) -> bool {
    OF_LOCAL_CACHE.iter().any(|(of_cache, ..)| *of_cache == name)
}

impl Page {
    /// Adds a local response cache.
    pub fn add_local_cache(&mut self, cache: &CacheSnapshot) {
        let families =
            OF_LOCAL_CACHE.iter().map(|(name, help, value)| Family::single(Kind::Gauge, name, help, value(cache)));
        self.families.extend(families);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_cache_has_its_gauges() {
        let cache = CacheSnapshot {
            used: 144,
            limit: 10_000,
            entries: 16,
            hits: 23,
            misses: 16,
            evictions: 1,
            lookup_ns: 92_500,
            insertion_ns: 159_000,
        };
        let mut page = Page::default();
        page.add_local_cache(&cache);
        insta::assert_snapshot!(page.text());
    }
}
