//! What waits to be sent on a connection, in order: small pieces are copied behind each other, large ones between them are not.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// Most pieces given to one system call: about 32 frames.
pub(crate) const MOST_SLICES: usize = 64;
/// Shorter pieces are copied: that costs less than one more piece in a system call. Units: bytes.
const LEAST_LARGE: usize = 8 << 10;
/// Capacity that an empty queue keeps, in bytes.
pub(crate) const IDLE_CAPACITY: usize = 8 << 10;

/// Bytes to be sent.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    copied: Vec<u8>,
    /// Bytes of `copied` that are sent already.
    sent: usize,
    /// Each with the number of bytes of `copied` before it, sent ones included.
    large: VecDeque<(usize, Bytes)>,
    /// Bytes of `large` together.
    large_bytes: usize,
}

impl SendQueue {
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.copied.len() && self.large.is_empty()
    }

    /// Bytes that wait and were copied.
    pub(crate) fn copied_bytes(&self) -> usize {
        self.copied.len() - self.sent
    }

    /// Bytes that wait and were not copied.
    pub(crate) fn large_bytes(&self) -> usize {
        self.large_bytes
    }

    /// Where frames are written to the end.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.copied
    }

    /// Adds a piece to the end.
    pub(crate) fn add(&mut self, piece: Bytes) {
        if piece.len() < LEAST_LARGE {
            self.copied.extend_from_slice(&piece);
        } else {
            self.large_bytes += piece.len();
            self.large.push_back((self.copied.len(), piece));
        }
    }

    /// What is to be sent next, as far as one system call takes it; how many of `slices` that are.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MOST_SLICES]) -> usize {
        let mut count = 0;
        let mut put = |bytes: &'a [u8]| {
            let has_room = count < MOST_SLICES;
            if has_room && !bytes.is_empty() {
                slices[count] = IoSlice::new(bytes);
                count += 1;
            }
            has_room
        };
        let mut at = self.sent;
        for (before, piece) in &self.large {
            if !(put(&self.copied[at..*before]) && put(piece)) {
                return count;
            }
            at = *before;
        }
        put(&self.copied[at..]);
        count
    }

    /// So many bytes were sent.
    pub(crate) fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let copied_until = self.large.front().map_or(self.copied.len(), |(before, _)| *before);
            let copied = (copied_until - self.sent).min(count);
            self.sent += copied;
            count -= copied;
            let Some((_, piece)) = self.large.front_mut().filter(|_| count > 0) else { break };
            let part = piece.len().min(count);
            piece.advance(part);
            self.large_bytes -= part;
            count -= part;
            if piece.is_empty() {
                self.large.pop_front();
            }
        }
        if self.is_empty() {
            self.copied.clear();
            self.copied.shrink_to(IDLE_CAPACITY);
            self.sent = 0;
        }
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.copied.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes out what is queued, `step` bytes at a time.
    fn drain(queue: &mut SendQueue, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let count = queue.slices(&mut slices);
            let mut part: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            assert!(!part.is_empty());
            part.truncate(step);
            queue.advance(part.len());
            sent.extend_from_slice(&part);
        }
        sent
    }

    #[test]
    fn bytes_leave_in_order_however_many_are_sent_at_once() {
        for step in [1000, 8191, 8192, 100_000, usize::MAX] {
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            for number in 0..100u8 {
                let length = usize::from(number % 5) * if number % 3 == 0 { 1 } else { LEAST_LARGE };
                let piece = vec![number; length];
                expected.extend_from_slice(&piece);
                match number % 2 {
                    0 => queue.buffer().extend_from_slice(&piece),
                    _ => queue.add(piece.into()),
                }
            }
            assert!(drain(&mut queue, step) == expected, "{step} at once");
            assert_eq!((queue.large_bytes(), queue.copied_bytes()), (0, 0));
        }
    }

    #[test]
    fn large_pieces_are_not_copied_and_an_empty_queue_keeps_little() {
        let mut queue = SendQueue::default();
        let piece = Bytes::from(vec![1; 100_000]);
        queue.buffer().extend_from_slice(b"head");
        queue.add(piece.clone());
        assert!(queue.capacity() <= IDLE_CAPACITY);
        queue.buffer().extend_from_slice(&[0; 10_000]);
        assert_eq!((queue.copied_bytes(), queue.large_bytes()), (10_004, 100_000));
        let mut slices = [IoSlice::new(&[]); MOST_SLICES];
        assert_eq!(queue.slices(&mut slices), 3);
        assert_eq!(slices[1].as_ptr(), piece.as_ptr());
        queue.advance(110_004);
        assert!(queue.is_empty() && queue.capacity() <= IDLE_CAPACITY);
    }
}
