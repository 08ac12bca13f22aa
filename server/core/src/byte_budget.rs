//! One budget for the bytes of all requests that are in flight, whichever front end reads them. Lock-free.
//!
//! A front end reserves before it buffers and keeps the reservation as long as the bytes live, so that neither many
//! callers at once nor a slow model can make the server hold more than the limit.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::error::{Error, Result};

/// A limit on bytes, and how many of them are taken.
#[derive(Debug)]
pub struct ByteBudget {
    limit: usize,
    in_use: AtomicUsize,
    refused: AtomicU64,
}

impl ByteBudget {
    /// A budget of `limit` bytes; 0 is no limit.
    pub fn new(limit: usize) -> Self {
        let limit = if limit == 0 { usize::MAX } else { limit };
        Self { limit, in_use: AtomicUsize::new(0), refused: AtomicU64::new(0) }
    }

    /// Takes `bytes` until the reservation is dropped.
    ///
    /// Errors: `Unavailable` if more than the limit would be in use, `InvalidArgument` if that is so whatever else is.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation> {
        self.take(bytes, bytes)?;
        Ok(Reservation { budget: self.clone(), bytes })
    }

    /// Bytes taken now.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Relaxed)
    }

    /// How often bytes were refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// The limit in bytes; `None` if there is none.
    pub fn limit(&self) -> Option<usize> {
        Some(self.limit).filter(|&limit| limit != usize::MAX)
    }

    /// Takes `bytes` for a request that has `total` bytes with them.
    fn take(&self, bytes: usize, total: usize) -> Result<()> {
        let add = |in_use: usize| in_use.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.in_use.try_update(Relaxed, Relaxed, add).map(|_| ()).map_err(|in_use| self.refuse(total, in_use))
    }

    #[cold]
    fn refuse(&self, total: usize, in_use: usize) -> Error {
        self.refused.fetch_add(1, Relaxed);
        if total > self.limit {
            return Error::invalid_argument(format!(
                "a request of {total} bytes is larger than all requests in flight may be together, {} bytes. Send less at \
                 once, or use --max-inflight-request-bytes to increase the limit.",
                self.limit
            ));
        }
        Error::unavailable(format!(
            "no memory for a request of {total} bytes: requests in flight use {in_use} bytes of the maximum of {} \
             bytes. Send it again later, or use --max-inflight-request-bytes to increase the limit.",
            self.limit
        ))
    }
}

/// Bytes taken from a budget; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<ByteBudget>,
    bytes: usize,
}

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` more.
    ///
    /// Errors: as [`ByteBudget::reserve`]; what is held stays held.
    pub fn grow_by(&mut self, bytes: usize) -> Result<()> {
        let total = self.bytes.saturating_add(bytes);
        self.budget.take(bytes, total)?;
        self.bytes = total;
        Ok(())
    }

    /// Holds at least `bytes` in all.
    ///
    /// Errors: as [`ByteBudget::reserve`]; what is held stays held.
    pub fn grow_to(&mut self, bytes: usize) -> Result<()> {
        match bytes.checked_sub(self.bytes) {
            None | Some(0) => Ok(()),
            Some(more) => self.grow_by(more),
        }
    }

    /// Holds at most `bytes` in all; gives the rest back.
    pub fn shrink_to(&mut self, bytes: usize) {
        let rest = self.bytes.saturating_sub(bytes);
        self.budget.in_use.fetch_sub(rest, Relaxed);
        self.bytes -= rest;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.in_use.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn bytes_are_held_until_the_reservation_is_dropped() {
        let budget = Arc::new(ByteBudget::new(100));
        let mut first = budget.reserve(60).unwrap();
        let second = budget.reserve(40).unwrap();
        assert_eq!((budget.in_use(), budget.refused(), budget.limit()), (100, 0, Some(100)));
        drop(second);
        first.grow_to(50).unwrap();
        assert_eq!((first.bytes(), budget.in_use()), (60, 60));
        first.grow_to(90).unwrap();
        first.grow_by(10).unwrap();
        assert_eq!((first.bytes(), budget.in_use()), (100, 100));
        first.shrink_to(30);
        first.shrink_to(40);
        assert_eq!((first.bytes(), budget.in_use()), (30, 30));
        drop(first);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_counted_and_takes_nothing() {
        let budget = Arc::new(ByteBudget::new(100));
        let mut held = budget.reserve(60).unwrap();
        let error = budget.reserve(41).unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert_eq!(
            error.message,
            "no memory for a request of 41 bytes: requests in flight use 60 bytes of the maximum of 100 bytes. Send it \
             again later, or use --max-inflight-request-bytes to increase the limit."
        );
        assert!(held.grow_by(41).unwrap_err().message.contains("a request of 101 bytes"));
        held.grow_by(usize::MAX).unwrap_err();
        assert_eq!((held.bytes(), budget.in_use(), budget.refused()), (60, 60, 3));
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let budget = Arc::new(ByteBudget::new(0));
        let held = budget.reserve(usize::MAX).unwrap();
        assert_eq!(budget.limit(), None);
        drop(held);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn threads_together_never_exceed_the_limit() {
        let budget = Arc::new(ByteBudget::new(30));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let held = budget.reserve(10);
                        assert!(budget.in_use() <= 30);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(budget.in_use(), 0);
    }
}
