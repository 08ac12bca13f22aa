//! How long keys wait for their turn. Where that is long, there is more to do than can be done, and what can wait had better wait. Pure.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::server_key::ServerKey;

/// When keys were due that have not been taken.
#[derive(Debug, Default)]
pub(super) struct Waits {
    due: HashMap<ServerKey, Instant>,
    /// How long the key that was taken last had waited.
    last: Duration,
}

impl Waits {
    /// A key was put in, and is due then.
    pub(super) fn put(&mut self, key: &ServerKey, due: Instant) {
        match self.due.get_mut(key) {
            Some(known) => *known = due.min(*known),
            None => drop(self.due.insert(key.clone(), due)),
        }
    }

    /// A key was taken.
    pub(super) fn take(&mut self, key: &ServerKey, now: Instant) {
        if let Some(due) = self.due.remove(key) {
            self.last = now.saturating_duration_since(due);
        }
    }

    /// Nobody was there to take any of them before `now`.
    pub(super) fn restart(&mut self, now: Instant) {
        self.due.values_mut().for_each(|due| *due = now.max(*due));
    }

    /// How many wait, those included that are not due yet.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// How long the key that was taken last had waited.
    pub(super) fn last(&self) -> Duration {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_from_when_it_was_due_first() {
        let (mut waits, begun) = (Waits::default(), Instant::now());
        let key = |name: &str| ServerKey { namespace: "ml".into(), name: name.into() };
        let at = |second| begun + Duration::from_secs(second);
        waits.put(&key("a"), at(600));
        waits.put(&key("a"), at(2));
        waits.put(&key("a"), at(5));
        waits.put(&key("b"), at(7));
        assert_eq!((waits.len(), waits.last()), (2, Duration::ZERO));
        waits.take(&key("a"), at(9));
        assert_eq!((waits.len(), waits.last()), (1, Duration::from_secs(7)));
        waits.put(&key("c"), at(10));
        waits.put(&key("d"), at(90));
        waits.restart(at(60));
        waits.take(&key("c"), at(61));
        assert_eq!(waits.last(), Duration::from_secs(1));
        waits.take(&key("d"), at(93));
        assert_eq!((waits.len(), waits.last()), (1, Duration::from_secs(3)));
        waits.take(&key("b"), at(7));
        waits.take(&key("never put in"), at(70));
        assert_eq!((waits.len(), waits.last()), (0, Duration::ZERO));
    }
}
