//! Bytes of bodies that nobody reads, beyond what the windows of their connections allow, bounded for all connections together.
//!
//! A call that does not read its body holds bytes, and so a part of its connection's window. Where such calls hold much of it, their
//! bytes are counted here instead, and the client may send for its other calls again.
//!
//! Source: RFC 9113, section 5.2.2, on receivers that let one stream hold up the others.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What is left of it. Units: bytes.
#[derive(Debug)]
pub struct UnreadBudget(AtomicUsize);

impl UnreadBudget {
    /// So many bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(bytes)))
    }

    /// Bytes that may still be counted.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The bytes of one call that are counted in the budget. They are given back at its end at the latest.
#[derive(Debug)]
pub(crate) struct Unread {
    budget: Arc<UnreadBudget>,
    bytes: usize,
}

impl Unread {
    pub(crate) fn new(budget: &Arc<UnreadBudget>) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    /// The bytes that are counted.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts so many more; `false` if there is no room for them.
    pub(crate) fn add(&mut self, bytes: usize) -> bool {
        let has_room = self.budget.take(bytes);
        self.bytes += if has_room { bytes } else { 0 };
        has_room
    }

    /// So many bytes of the call are gone. How many of them were not counted here.
    pub(crate) fn remove(&mut self, bytes: usize) -> usize {
        let counted = bytes.min(self.bytes);
        if counted > 0 {
            self.bytes -= counted;
            self.budget.give_back(counted);
        }
        bytes - counted
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_share_a_budget_and_give_back_what_they_have() {
        let budget = UnreadBudget::new(100);
        let (mut one, mut other) = (Unread::new(&budget), Unread::new(&budget));
        assert!(one.add(60));
        assert!(!other.add(50));
        assert!(other.add(40));
        assert_eq!((one.bytes(), other.bytes(), budget.left()), (60, 40, 0));
        assert_eq!((one.remove(50), budget.left()), (0, 50));
        assert_eq!((one.remove(50), budget.left()), (40, 60));
        drop(other);
        assert_eq!(budget.left(), 100);
    }
}
