//! Memory that a model reads its inputs from without a copy, and how a front end fills it while a request arrives.

use std::{collections::TryReserveError, ops::Range, sync::Arc};

use bytes::Bytes;

/// Shorter requests are not worth it. Units: bytes.
const LEAST: usize = 64 << 10;
/// A declared length is believed when so large a part of it has arrived: memory is taken by what came, not by what was said.
const BELIEVED: usize = 64;
/// Tensors begin at a multiple of this where one can choose. Units: bytes.
const ALIGNMENT: usize = 64;

/// Memory that a model wants its inputs in, e.g. because another process has it mapped.
pub trait InputMemory: Send + Sync {
    /// So many bytes of it, to be written; `None` if there are none now: the request is received elsewhere then.
    fn take(&self, len: usize) -> Option<Box<dyn InputBuffer>>;
}

/// Bytes of an [`InputMemory`], to be written.
pub trait InputBuffer: Send + Sync {
    /// How many there are.
    fn size(&self) -> usize;

    /// All of them; what they hold before they are written is not defined.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Those of that range, to be read by whoever holds them. The memory is free again when the last slice is dropped.
    fn freeze(self: Box<Self>, range: Range<usize>) -> Bytes;
}

/// Where a request is to be received.
#[derive(Clone)]
pub struct InputPlacement {
    /// Of the model that the request is for.
    pub memory: Arc<dyn InputMemory>,
    /// The byte of the request that its tensors begin with: it is put where numbers of any type may begin.
    pub tensors_at: usize,
}

impl InputPlacement {
    /// Whether it is worth to look for one, for a request of `length` bytes of which `received` are there.
    pub fn is_due(received: usize, length: usize) -> bool {
        Self::due(length).is_some_and(|due| received >= due)
    }

    /// With how many bytes that is so; `None` if it never is.
    pub fn due(length: usize) -> Option<usize> {
        (length >= LEAST).then_some(length / BELIEVED)
    }
}

/// Room for bytes that come next.
pub enum Unfilled<'a> {
    /// Behind these, as far as they have capacity.
    Heap(&'a mut Vec<u8>),
    /// Here; [`ReceiveBuffer::filled`] is to be told how many.
    Placed(&'a mut [u8]),
}

/// A request as it arrives: on the heap, or in the memory of its model from the moment it was moved there.
pub struct ReceiveBuffer(Storage);

enum Storage {
    Heap(Vec<u8>),
    Placed { buffer: Box<dyn InputBuffer>, start: usize, end: usize },
}

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self(Storage::Heap(Vec::new()))
    }
}

impl ReceiveBuffer {
    /// Bytes that are there.
    pub fn len(&self) -> usize {
        match &self.0 {
            Storage::Heap(bytes) => bytes.len(),
            Storage::Placed { start, end, .. } => end - start,
        }
    }

    /// Bytes that there is room for.
    pub fn capacity(&self) -> usize {
        match &self.0 {
            Storage::Heap(bytes) => bytes.capacity(),
            Storage::Placed { buffer, start, .. } => buffer.size() - start,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the bytes lie in the memory of a model.
    pub fn is_placed(&self) -> bool {
        matches!(self.0, Storage::Placed { .. })
    }

    /// What is on the heap; nothing once the bytes were moved.
    pub fn on_heap(&self) -> &[u8] {
        match &self.0 {
            Storage::Heap(bytes) => bytes,
            Storage::Placed { .. } => &[],
        }
    }

    /// Moves the bytes to the memory of a model, where `length` of them have room. They stay where they are if it has none.
    pub fn place(&mut self, placement: &InputPlacement, length: usize) {
        let Storage::Heap(bytes) = &self.0 else { return };
        let start = (ALIGNMENT - placement.tensors_at % ALIGNMENT) % ALIGNMENT;
        let Some(whole) = length.max(bytes.len()).checked_add(start) else { return };
        let Some(mut buffer) = placement.memory.take(whole) else { return };
        let end = start + bytes.len();
        buffer.bytes_mut()[start..end].copy_from_slice(bytes);
        self.0 = Storage::Placed { buffer, start, end };
    }

    /// Makes room for so many more bytes, and no others.
    ///
    /// Errors: the heap has none.
    pub fn try_reserve_exact(&mut self, more: usize) -> Result<(), TryReserveError> {
        match &mut self.0 {
            Storage::Heap(bytes) => bytes.try_reserve_exact(more),
            Storage::Placed { .. } => Ok(()),
        }
    }

    /// Where the bytes that come next belong.
    pub fn unfilled(&mut self) -> Unfilled<'_> {
        match &mut self.0 {
            Storage::Heap(bytes) => Unfilled::Heap(bytes),
            Storage::Placed { buffer, end, .. } => {
                Unfilled::Placed(buffer.bytes_mut().get_mut(*end..).unwrap_or_default())
            }
        }
    }

    /// So many bytes were written to [`Unfilled::Placed`].
    pub fn filled(&mut self, count: usize) {
        if let Storage::Placed { buffer, end, .. } = &mut self.0 {
            *end = buffer.size().min(*end + count);
        }
    }

    /// Takes bytes that have arrived.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        if let Storage::Placed { buffer, start, end } = &mut self.0 {
            let bytes = buffer.bytes_mut();
            if let Some(room) = bytes.get_mut(*end..*end + more.len()) {
                room.copy_from_slice(more);
                *end += more.len();
                return;
            }
            self.0 = Storage::Heap(bytes[*start..*end].to_vec()); // more than was declared
        }
        if let Storage::Heap(bytes) = &mut self.0 {
            bytes.extend_from_slice(more);
        }
    }

    /// The bytes, to be cut into tensors.
    pub fn freeze(self) -> Bytes {
        match self.0 {
            Storage::Heap(bytes) => bytes.into(),
            Storage::Placed { buffer, start, end } => buffer.freeze(start..end),
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Has `left` bytes to give; tells what was given.
    struct Memory {
        left: usize,
        taken: Mutex<Vec<usize>>,
    }

    struct Block(Vec<u8>);

    impl InputMemory for Memory {
        fn take(&self, len: usize) -> Option<Box<dyn InputBuffer>> {
            self.taken.lock().push(len);
            (len <= self.left).then(|| Box::new(Block(vec![0xaa; len])) as _)
        }
    }

    impl InputBuffer for Block {
        fn size(&self) -> usize {
            self.0.len()
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }

        fn freeze(self: Box<Self>, range: Range<usize>) -> Bytes {
            Bytes::from(self.0).slice(range)
        }
    }

    fn memory(left: usize) -> Arc<Memory> {
        Arc::new(Memory { left, taken: Mutex::default() })
    }

    /// Receives `pieces`, and moves them after the first.
    #[track_caller]
    fn check(memory: &Arc<Memory>, tensors_at: usize, pieces: &[&[u8]], length: usize, is_placed: bool) {
        let mut buffer = ReceiveBuffer::default();
        buffer.extend_from_slice(pieces[0]);
        buffer.place(&InputPlacement { memory: memory.clone(), tensors_at }, length);
        for piece in &pieces[1..] {
            buffer.try_reserve_exact(piece.len()).unwrap();
            buffer.extend_from_slice(piece);
        }
        let expected = pieces.concat();
        assert_eq!((buffer.len(), buffer.is_placed(), buffer.is_empty()), (expected.len(), is_placed, false));
        assert_eq!(buffer.on_heap(), if is_placed { &[] } else { &expected[..] });
        assert_eq!(buffer.freeze(), expected);
    }

    #[test]
    fn bytes_are_moved_and_the_tensors_begin_where_they_may() {
        let memory = memory(1000);
        check(&memory, 0, &[b"head", b"tensor"], 10, true);
        check(&memory, 4, &[b"head", b"tensor"], 10, true);
        check(&memory, 64, &[b"head", b"tensor"], 10, true);
        check(&memory, 65, &[b"head", b"tensor"], 10, true);
        assert_eq!(*memory.taken.lock(), [10, 70, 10, 73]);
    }

    #[test]
    fn bytes_stay_on_the_heap_where_there_is_no_memory_or_more_come_than_was_declared() {
        check(&memory(9), 0, &[b"head", b"tensor"], 10, false);
        check(&memory(1000), 0, &[b"head", b"ten", b"sor"], 8, false);
        check(&memory(1000), 0, &[b"head", b"tensor"], usize::MAX, false);
        check(&memory(1000), 1, &[b"head", b"tensor"], usize::MAX, false);
        check(&memory(1000), 0, &[b"head"], 0, true);
    }

    #[test]
    fn a_length_is_believed_when_a_part_of_it_is_there() {
        for (received, length, is_due) in [
            (65535, 65535, false),
            (65536, 65536, true),
            (1024, 65536, true),
            (1023, 65536, false),
            (0, usize::MAX, false),
        ] {
            assert_eq!(InputPlacement::is_due(received, length), is_due, "{received} of {length}");
        }
    }
}
