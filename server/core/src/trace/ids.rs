//! Numbers of traces, and identities of traces and spans.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{SpanId, TraceId};

/// Gives out what no other trace has. The seed makes identities differ from those of other processes.
#[derive(Debug)]
pub struct Ids {
    seed: [u8; 32],
    numbers: AtomicU64,
    identities: AtomicU64,
}

impl Ids {
    /// `seed` is random: nobody else has it.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, numbers: AtomicU64::new(0), identities: AtomicU64::new(0) }
    }

    /// The next number, from 1.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed) + 1
    }

    /// A new identity of a trace.
    pub(super) fn trace(&self) -> TraceId {
        TraceId(self.identity())
    }

    /// A new identity of a span.
    pub fn span(&self) -> SpanId {
        SpanId(self.identity())
    }

    fn identity<const N: usize>(&self) -> [u8; N] {
        loop {
            let count = self.identities.fetch_add(1, Relaxed);
            let hash = blake3::keyed_hash(&self.seed, &count.to_le_bytes());
            let mut bytes = [0; N];
            bytes.copy_from_slice(&hash.as_bytes()[..N]);
            if bytes != [0; N] {
                return bytes;
            }
        }
    }
}
