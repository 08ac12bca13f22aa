//! Elements of a BYTES tensor: each is a little-endian `u32` length followed by that many bytes, row-major, no padding.
//!
//! Source: Triton binary tensor data extension, "BYTES".

/// Where a BYTES buffer stops making sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncated {
    /// Fewer than four bytes remain where a length should stand.
    Length {
        /// Bytes that remain.
        remaining: usize,
    },
    /// A length promises more bytes than remain.
    Element {
        /// The promised length in bytes.
        expected: usize,
        /// Bytes that remain.
        remaining: usize,
    },
}

/// The elements of a buffer, in order. Ends after the first error.
pub fn elements(buffer: &[u8]) -> Elements<'_> {
    Elements { rest: buffer }
}

/// Iterator of [`elements`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((length, rest)) = self.rest.split_first_chunk::<4>() else {
            let remaining = std::mem::take(&mut self.rest).len();
            return Some(Err(Truncated::Length { remaining }));
        };
        let expected = u32::from_le_bytes(*length) as usize;
        let Some((element, rest)) = rest.split_at_checked(expected) else {
            let remaining = rest.len();
            self.rest = &[];
            return Some(Err(Truncated::Element { expected, remaining }));
        };
        self.rest = rest;
        Some(Ok(element))
    }
}

/// Appends one element.
///
/// Panics if the element is longer than `u32::MAX` bytes, which no limit of the server lets through.
pub fn push(buffer: &mut Vec<u8>, element: &[u8]) {
    let length = u32::try_from(element.len()).expect("tensor elements are bounded by the request size limits");
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(element);
}

/// A buffer of the given elements.
pub fn join<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut buffer = Vec::new();
    for part in parts {
        push(&mut buffer, part);
    }
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_joined_comes_apart_again() {
        let parts: [&[u8]; 3] = [b"", b"two", "dr\u{e4}i".as_bytes()];
        let buffer = join(parts);
        let back: Vec<_> = elements(&buffer).collect::<Result<_, _>>().unwrap();
        assert_eq!(back, parts);
    }

    #[test]
    fn a_cut_buffer_says_where() {
        let buffer = join([b"four".as_slice()]);
        assert_eq!(elements(&buffer[..2]).next(), Some(Err(Truncated::Length { remaining: 2 })));
        let mut cut = elements(&buffer[..6]);
        assert_eq!(cut.next(), Some(Err(Truncated::Element { expected: 4, remaining: 2 })));
        assert_eq!(cut.next(), None);
    }
}
