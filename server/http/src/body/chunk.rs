//! A piece of a response: a written text as it is, or shared bytes. A text made into [`Bytes`] would cost an allocation.

use bytes::{Buf, Bytes};

/// Bytes that are sent once.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// A text, and how much of it was sent.
    Text(Vec<u8>, usize),
    /// Bytes of a tensor.
    Shared(Bytes),
}

impl From<Vec<u8>> for Chunk {
    fn from(text: Vec<u8>) -> Self {
        Self::Text(text, 0)
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Text(text, sent) => &text[*sent..],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.as_ref().len()
    }

    fn chunk(&self) -> &[u8] {
        self.as_ref()
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Text(text, sent) => {
                assert!(count <= text.len() - *sent, "advanced beyond the end");
                *sent += count;
            }
            Self::Shared(bytes) => bytes.advance(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_sent_piece_by_piece() {
        for mut chunk in [Chunk::from(b"abcdef".to_vec()), Chunk::from(Bytes::from_static(b"abcdef"))] {
            chunk.advance(2);
            assert_eq!((chunk.remaining(), chunk.chunk()), (4, &b"cdef"[..]));
            chunk.advance(4);
            assert!(!chunk.has_remaining());
        }
    }
}
