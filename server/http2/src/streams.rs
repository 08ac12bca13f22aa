//! The streams of a connection: those that are open, and what is remembered of those that were. Pure.
//!
//! Source: RFC 9113, section 5.1.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use crate::flow::{ReceiveWindow, SendWindow};

/// Streams that were closed lately and are remembered.
const REMEMBERED: usize = 64;

/// A stream that is open, at least in one direction.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) receive_window: ReceiveWindow,
    pub(crate) send_window: SendWindow,
    /// Whether the client has not ended its side.
    pub(crate) is_receiving: bool,
    /// What is left to come of a body whose length is known.
    pub(crate) length_left: Option<u64>,
    /// In which batch of bytes it was opened.
    pub(crate) batch: u64,
}

/// How a stream that is not open was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Both sides have ended it.
    Ended,
    /// By the client, which has reset it.
    ByClient,
    /// By this side: what the client sends before it hears of that is no fault.
    ByServer,
    /// So long ago that nobody knows.
    Forgotten,
    /// It was never open, and cannot be opened any more: the client has opened a later one.
    Skipped,
}

/// All streams of a connection. Open ones have a key, which is used again.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    keys: HashMap<u32, usize, BuildHasherDefault<IdHasher>>,
    /// The stream that was looked for last, and its key: the next frame is often of the same.
    recent: (u32, usize),
    closed: VecDeque<(u32, Closed)>,
    /// Streams up to this one may be forgotten.
    forgotten: u32,
}

impl Streams {
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Adds one that was opened.
    pub(crate) fn insert(&mut self, stream: Stream) -> usize {
        let id = stream.id;
        let key = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(key) {
            Some(slot) => *slot = Some(stream),
            None => self.slots.push(Some(stream)),
        }
        self.keys.insert(id, key);
        self.recent = (id, key);
        key
    }

    /// The key of a stream that is open.
    pub(crate) fn find(&mut self, id: u32) -> Option<usize> {
        if self.recent.0 == id && id != 0 {
            return Some(self.recent.1);
        }
        let key = *self.keys.get(&id)?;
        self.recent = (id, key);
        Some(key)
    }

    pub(crate) fn get(&self, key: usize) -> Option<&Stream> {
        self.slots.get(key)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut Stream> {
        self.slots.get_mut(key)?.as_mut()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }

    /// Closes one that was open.
    pub(crate) fn remove(&mut self, key: usize, closed: Closed) -> Option<Stream> {
        let stream = self.slots.get_mut(key)?.take()?;
        self.keys.remove(&stream.id);
        if self.recent.0 == stream.id {
            self.recent = (0, 0); // no stream has that number
        }
        self.free.push(key);
        self.remember(stream.id, closed);
        Some(stream)
    }

    /// Keeps memory for so many streams only. Does nothing while there are any.
    pub(crate) fn shrink(&mut self, kept: usize) {
        if self.is_empty() && self.slots.len() > kept {
            self.slots.truncate(kept);
            self.slots.shrink_to_fit();
            self.free = (0..kept).rev().collect();
            self.keys.shrink_to(kept);
        }
    }

    /// Remembers one that was closed, or refused.
    pub(crate) fn remember(&mut self, id: u32, closed: Closed) {
        if self.closed.len() == REMEMBERED
            && let Some((forgotten, _)) = self.closed.pop_front()
        {
            self.forgotten = self.forgotten.max(forgotten);
        }
        self.closed.push_back((id, closed));
    }

    /// The client has now ended, or reset, one that was closed by this side: it sends nothing more for it.
    pub(crate) fn closed_by_client(&mut self, id: u32, closed: Closed) {
        let mut remembered = self.closed.iter_mut().rev();
        if let Some((_, before)) = remembered.find(|(other, before)| *other == id && *before == Closed::ByServer) {
            *before = closed;
        }
    }

    /// How one was closed that is not open, and not later than those that were opened.
    pub(crate) fn closed(&self, id: u32) -> Closed {
        let remembered = self.closed.iter().rev().find(|(closed, _)| *closed == id);
        match remembered {
            Some((_, closed)) => *closed,
            None if id <= self.forgotten => Closed::Forgotten,
            None => Closed::Skipped,
        }
    }
}

/// Numbers of streams are chosen by clients, but a client has few of them at a time and hurts only itself with them.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u32) -> Stream {
        Stream {
            id,
            receive_window: ReceiveWindow::new(1),
            send_window: SendWindow::new(1),
            is_receiving: true,
            length_left: None,
            batch: 0,
        }
    }

    #[test]
    fn streams_are_found_while_they_are_open_and_keys_are_used_again() {
        let mut streams = Streams::default();
        let keys: Vec<_> = (0..1000).map(|number| streams.insert(stream(2 * number + 1))).collect();
        assert_eq!((streams.len(), streams.find(0), streams.find(2001)), (1000, None, None));
        for (number, key) in keys.iter().enumerate() {
            let id = 2 * number as u32 + 1;
            assert_eq!(streams.find(id), Some(*key));
            assert_eq!(streams.remove(*key, Closed::ByClient).unwrap().id, id);
            assert_eq!(streams.find(id), None);
            assert!(streams.remove(*key, Closed::ByClient).is_none());
        }
        assert!(streams.is_empty());
        assert!(streams.insert(stream(2001)) < 1000);
        assert_eq!(streams.iter_mut().count(), 1);
    }

    #[test]
    fn how_a_stream_was_closed_is_known_for_a_while() {
        let mut streams = Streams::default();
        for (id, closed) in [(3, Closed::ByServer), (7, Closed::ByClient)] {
            let key = streams.insert(stream(id));
            streams.remove(key, closed);
        }
        let ways = |streams: &Streams| [1, 3, 5, 7].map(|id| streams.closed(id));
        assert_eq!(ways(&streams), [Closed::Skipped, Closed::ByServer, Closed::Skipped, Closed::ByClient]);
        streams.closed_by_client(3, Closed::Ended);
        streams.closed_by_client(5, Closed::Ended);
        streams.closed_by_client(7, Closed::Ended);
        assert_eq!(ways(&streams), [Closed::Skipped, Closed::Ended, Closed::Skipped, Closed::ByClient]);
        for number in 0..REMEMBERED as u32 - 1 {
            streams.remember(9 + 2 * number, Closed::ByClient);
        }
        assert_eq!(ways(&streams), [Closed::Forgotten, Closed::Forgotten, Closed::Skipped, Closed::ByClient]);
    }
}
