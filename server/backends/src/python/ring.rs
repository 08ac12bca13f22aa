//! Messages in memory that two processes share: one puts them in, the other takes them out, in order. As long as neither has to wait for
//! the other, no system call is made; who is about to wait says that it sleeps, and is to be woken by the next message.
//!
//! Compiled into the server and into the extension module of its workers (`extension/lib.rs`), so it is written for `core` alone. All
//! that the other process can change is an atomic, and whatever it writes there is checked before it is used: a position or a length
//! that cannot be is [`Corrupt`]. Orders of the two processes are tried out in `tests/ring_loom.rs`.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
#[cfg(not(model_check))]
use core::sync::atomic::{AtomicU32, AtomicU64, fence};

#[cfg(model_check)]
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};

/// Bytes of a word. Every record begins with a word that says what it is.
const WORD: usize = 8;

/// The upper half of the first word of a record whose message is elsewhere.
const ELSEWHERE: u32 = 1;

/// The memory. All zero, it is an empty ring. `WORDS` is a power of two.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Ring<const WORDS: usize> {
    /// Words that were ever put in; the writer's to write.
    head: Line<AtomicU32>,
    /// Words that were ever taken out; the reader's to write.
    tail: Line<AtomicU32>,
    /// How many messages are still to come before the reader is woken, while it sleeps or is about to; else 0.
    asleep: Line<AtomicU32>,
    words: [AtomicU64; WORDS],
}

/// How often a writer tries to tell a reader of a message that changes its mind meanwhile, before it wakes it in any case.
const TRIES: u32 = 4;

/// What is written by one process shares no cache line with what is written by the other.
#[repr(C, align(64))]
#[derive(Debug)]
struct Line<T>(T);

/// The other process has written what cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// Who puts messages in.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    head: u32,
    /// As it was last seen.
    tail: u32,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// There is no room for it.
    Full,
    /// The reader finds it.
    Done,
    /// The reader sleeps: who has put it in has to wake it.
    DoneAndWake,
}

/// Who takes messages out.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tail: u32,
}

/// The next message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It has so many bytes.
    Here(usize),
    /// It comes another way.
    Elsewhere,
}

impl<const WORDS: usize> Ring<WORDS> {
    const COUNT: u32 = WORDS as u32;

    /// Words that a message leaves free, for records that say that a message is elsewhere.
    const RESERVED: u32 = Self::COUNT / 256;

    /// An empty ring.
    #[cfg(any(test, model_check))]
    pub(crate) fn new() -> Self {
        let number = || Line(AtomicU32::new(0));
        Self { head: number(), tail: number(), asleep: number(), words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    fn word(&self, position: u32) -> &AtomicU64 {
        const { assert!(WORDS.is_power_of_two() && WORDS < 1 << 31) };
        &self.words[position as usize % WORDS]
    }
}

impl Writer {
    /// Puts a message in, if it has room.
    pub(crate) fn put<const WORDS: usize>(&mut self, ring: &Ring<WORDS>, message: &[u8]) -> Result<Put, Corrupt> {
        let Ok(length) = u32::try_from(message.len()) else { return Ok(Put::Full) };
        let count = 1 + length.div_ceil(WORD as u32);
        if !self.has_room(ring, count.saturating_add(Ring::<WORDS>::RESERVED))? {
            return Ok(Put::Full);
        }
        ring.word(self.head).store(length.into(), Relaxed);
        let mut position = self.head.wrapping_add(1);
        for part in message.chunks(WORD) {
            let mut word = [0; WORD];
            word[..part.len()].copy_from_slice(part);
            ring.word(position).store(u64::from_ne_bytes(word), Relaxed);
            position = position.wrapping_add(1);
        }
        Ok(self.publish(ring, position))
    }

    /// Says that the next message comes another way. Its reader need not be woken, for it is by that message.
    pub(crate) fn put_elsewhere<const WORDS: usize>(&mut self, ring: &Ring<WORDS>) -> Result<Put, Corrupt> {
        if !self.has_room(ring, 1)? {
            return Ok(Put::Full);
        }
        ring.word(self.head).store(u64::from(ELSEWHERE) << 32, Relaxed);
        Ok(self.publish(ring, self.head.wrapping_add(1)))
    }

    fn has_room<const WORDS: usize>(&mut self, ring: &Ring<WORDS>, count: u32) -> Result<bool, Corrupt> {
        let free = |tail: u32| Ring::<WORDS>::COUNT.checked_sub(self.head.wrapping_sub(tail)).ok_or(Corrupt);
        if free(self.tail)? >= count {
            return Ok(true);
        }
        let tail = ring.tail.0.load(Acquire); // what was read there was read before it is overwritten
        let has_room = free(tail)? >= count;
        self.tail = tail;
        Ok(has_room)
    }

    fn publish<const WORDS: usize>(&mut self, ring: &Ring<WORDS>, head: u32) -> Put {
        self.head = head;
        ring.head.0.store(head, Release);
        fence(SeqCst); // with the one of `may_sleep`: either the reader sees the message, or it is seen to sleep
        let mut left = ring.asleep.0.load(Relaxed);
        for _ in 0..TRIES {
            if left == 0 {
                return Put::Done;
            }
            match ring.asleep.0.compare_exchange(left, left - 1, Relaxed, Relaxed) {
                Ok(1) => break,
                Ok(_) => return Put::Done,
                Err(changed) => left = changed, // the reader has woken up by itself
            }
        }
        Put::DoneAndWake
    }
}

impl Reader {
    /// The next message, if it is there.
    pub(crate) fn next<const WORDS: usize>(&self, ring: &Ring<WORDS>) -> Result<Option<Next>, Corrupt> {
        let used = ring.head.0.load(Acquire).wrapping_sub(self.tail);
        if used == 0 {
            return Ok(None);
        }
        let first = ring.word(self.tail).load(Relaxed);
        let (length, kind) = (first as u32, (first >> 32) as u32);
        let is_inside = used <= Ring::<WORDS>::COUNT && length.div_ceil(WORD as u32) < used;
        match kind {
            0 if is_inside => Ok(Some(Next::Here(length as usize))),
            ELSEWHERE if is_inside && length == 0 => Ok(Some(Next::Elsewhere)),
            _ => Err(Corrupt),
        }
    }

    /// Takes out the message that was seen to be next, with as many bytes as `into` has; none of one that is elsewhere.
    pub(crate) fn take<const WORDS: usize>(&mut self, ring: &Ring<WORDS>, into: &mut [u8]) {
        let mut position = self.tail.wrapping_add(1);
        for part in into.chunks_mut(WORD) {
            let word = ring.word(position).load(Relaxed).to_ne_bytes();
            part.copy_from_slice(&word[..part.len()]);
            position = position.wrapping_add(1);
        }
        self.tail = position;
        ring.tail.0.store(position, Release);
    }

    /// Says that the reader sleeps from now on, unless a message is there: whoever puts in so many more, one at least, wakes it with the
    /// last of them. It may be woken once more than that, if it did not sleep in the end.
    pub(crate) fn may_sleep<const WORDS: usize>(&self, ring: &Ring<WORDS>, messages: u32) -> bool {
        ring.asleep.0.store(messages, Relaxed);
        fence(SeqCst); // with the one of `publish`
        let is_empty = ring.head.0.load(Relaxed) == self.tail;
        if !is_empty {
            self.wake(ring);
        }
        is_empty
    }

    /// Says that the reader is awake, by whatever it was woken.
    pub(crate) fn wake<const WORDS: usize>(&self, ring: &Ring<WORDS>) {
        ring.asleep.0.store(0, Relaxed);
    }
}

/// Words of each ring of a worker: 64 KiB.
const WORDS: usize = 8 << 10;

/// The memory of a worker's execute channel.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) to_worker: Ring<WORDS>,
    pub(crate) to_server: Ring<WORDS>,
    /// Not 0 while the worker may look for its next message for a moment before it sleeps; the server's to write.
    pub(crate) may_spin: AtomicU32,
}

/// Bytes of the largest message on a socket.
pub(crate) const MESSAGE_MAX: usize = 64 << 10;

/// The message on the socket that wakes its reader, and is nothing but that.
pub(crate) const DOORBELL: &[u8] = b"!";

#[cfg(test)]
#[cfg(not(model_check))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const FEW: usize = 512;

    fn taken(reader: &mut Reader, ring: &Ring<FEW>) -> Option<Option<Vec<u8>>> {
        let message = match reader.next(ring).unwrap()? {
            Next::Here(length) => Some(vec![0; length]),
            Next::Elsewhere => None,
        };
        let mut bytes = message.clone().unwrap_or_default();
        reader.take(ring, &mut bytes);
        Some(message.map(|_| bytes))
    }

    proptest! {
        #[test]
        fn messages_come_as_they_were_put_in(steps in prop::collection::vec((0..3u8, 0..2000usize), 1..200)) {
            let ring = Ring::<FEW>::new();
            let (mut writer, mut reader, mut inside) = (Writer::default(), Reader::default(), VecDeque::new());
            for (index, (step, length)) in steps.into_iter().enumerate() {
                let message = match step {
                    0 => Some(vec![index as u8; length]),
                    1 => None,
                    _ => {
                        prop_assert_eq!(taken(&mut reader, &ring), inside.pop_front());
                        continue;
                    }
                };
                let put = match &message {
                    Some(message) => writer.put(&ring, message),
                    None => writer.put_elsewhere(&ring),
                };
                match put.unwrap() {
                    Put::Full => prop_assert!(!inside.is_empty()),
                    put => {
                        prop_assert_eq!(put, Put::Done);
                        inside.push_back(message);
                    }
                }
            }
        }

        #[test]
        fn whatever_the_other_process_writes_is_read_or_refused(words in prop::collection::vec(any::<u64>(), 8), head: u32, tail: u32) {
            let ring = Ring::<8>::new();
            words.iter().zip(&ring.words).for_each(|(from, to)| to.store(from % (1 << 33), Relaxed));
            ring.head.0.store(head, Relaxed);
            ring.tail.0.store(tail, Relaxed);
            let (mut writer, mut reader) = (Writer::default(), Reader::default());
            let _ = (writer.put(&ring, &[1; 20]), writer.put_elsewhere(&ring));
            for _ in 0..20 {
                let Ok(Some(next)) = reader.next(&ring) else { break };
                let length = if let Next::Here(length) = next { length } else { 0 };
                prop_assert!(length <= 56);
                reader.take(&ring, &mut vec![0; length]);
            }
        }
    }

    #[test]
    fn a_reader_that_sleeps_is_woken_once() {
        let ring = Ring::<FEW>::new();
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        assert_eq!(writer.put(&ring, b"first"), Ok(Put::Done));
        assert!(!reader.may_sleep(&ring, 1), "a message is there");
        assert_eq!(taken(&mut reader, &ring), Some(Some(b"first".to_vec())));
        assert!(reader.may_sleep(&ring, 2));
        assert_eq!(writer.put(&ring, b"second"), Ok(Put::Done));
        assert_eq!(writer.put(&ring, b""), Ok(Put::DoneAndWake));
        assert_eq!(writer.put(&ring, b"one more"), Ok(Put::Done));
        assert_eq!(taken(&mut reader, &ring), Some(Some(b"second".to_vec())));
        assert_eq!(taken(&mut reader, &ring), Some(Some(Vec::new())));
    }

    #[test]
    fn where_no_message_has_room_there_is_still_some_to_say_where_it_is() {
        let ring = Ring::<FEW>::new();
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        assert_eq!(writer.put(&ring, &[0; FEW * WORD]), Ok(Put::Full));
        while writer.put(&ring, &[0; 8]) == Ok(Put::Done) {}
        assert_eq!((writer.put_elsewhere(&ring), writer.put_elsewhere(&ring)), (Ok(Put::Done), Ok(Put::Done)));
        assert_eq!(writer.put_elsewhere(&ring), Ok(Put::Full));
        taken(&mut reader, &ring).unwrap();
        assert_eq!(writer.put_elsewhere(&ring), Ok(Put::Done));
    }
}
