//! What waits to be sent by a socket, in order: small pieces are copied behind each other, large ones between them are not.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// Most pieces given to one system call: about 32 frames.
pub(crate) const MOST_SLICES: usize = 64;
/// Capacity that an empty queue keeps, in bytes.
pub(crate) const IDLE_CAPACITY: usize = 8 << 10;

/// Bytes to be sent.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    copied: Vec<u8>,
    /// Bytes of `copied` that are sent already.
    sent: usize,
    /// Each with the number of bytes of `copied` before it, sent ones included.
    large: VecDeque<(usize, Bytes)>,
    /// Bytes of `large` together.
    large_bytes: usize,
}

impl WriteQueue {
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.copied.len() && self.large.is_empty()
    }

    /// Bytes that were copied, sent ones included.
    pub(crate) fn copied_bytes(&self) -> usize {
        self.copied.len()
    }

    /// Bytes that wait and were not copied.
    pub(crate) fn large_bytes(&self) -> usize {
        self.large_bytes
    }

    /// Copies a piece to the end. Once there are more than an empty queue keeps, there is memory for `capacity` bytes.
    pub(crate) fn copy(&mut self, piece: &[u8], capacity: usize) {
        let length = self.copied.len() + piece.len();
        if length > self.copied.capacity() && length > IDLE_CAPACITY {
            self.copied.reserve_exact(capacity.max(length) - self.copied.len());
        }
        self.copied.extend_from_slice(piece);
    }

    /// Adds a large piece to the end.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.large_bytes += piece.len();
        self.large.push_back((self.copied.len(), piece));
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
    fn drain(queue: &mut WriteQueue, step: usize) -> Vec<u8> {
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
        for step in [1, 2, 3, 7, 100, usize::MAX] {
            let mut queue = WriteQueue::default();
            let mut expected = Vec::new();
            for number in 0..100u8 {
                let piece = vec![number; usize::from(number % 5)];
                expected.extend_from_slice(&piece);
                match number % 3 {
                    0 => queue.copy(&piece, 1000),
                    _ if piece.is_empty() => {}
                    _ => queue.push(piece.into()),
                }
            }
            assert_eq!(drain(&mut queue, step), expected, "{step} at once");
            assert_eq!((queue.large_bytes(), queue.copied_bytes()), (0, 0));
        }
    }

    #[test]
    fn large_pieces_are_not_copied_and_an_empty_queue_keeps_little() {
        let mut queue = WriteQueue::default();
        let piece = Bytes::from(vec![1; 100_000]);
        queue.copy(b"head", 112 << 10);
        queue.push(piece.clone());
        assert!(queue.capacity() <= IDLE_CAPACITY);
        queue.copy(&[0; 10_000], 112 << 10);
        assert_eq!(queue.capacity(), 112 << 10);
        let mut slices = [IoSlice::new(&[]); MOST_SLICES];
        assert_eq!(queue.slices(&mut slices), 3);
        assert_eq!(slices[1].as_ptr(), piece.as_ptr());
        queue.advance(110_004);
        assert!(queue.is_empty() && queue.capacity() <= IDLE_CAPACITY);
    }
}
