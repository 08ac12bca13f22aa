//! Large parts of responses between the call that gives them to HTTP/2 and the socket, which gets them frame by frame as
//! slices: it finds the part that a slice belongs to by its address, and sends it without a copy.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;

/// Shorter parts are copied, small messages that were joined to one part among them. Units: bytes.
const LEAST: usize = 32 << 10;
/// Shorter slices, as the last of a part may be, are copied: that costs less than one more piece in a system call. Units: bytes.
pub(crate) const LEAST_SLICE: usize = 8 << 10;

/// The large parts that the calls of one connection have given to HTTP/2. A part is forgotten when HTTP/2 has dropped it,
/// sent or not.
#[derive(Debug, Clone, Default)]
pub(crate) struct LargeParts(Arc<Mutex<Vec<Part>>>);

#[derive(Debug)]
struct Part {
    addresses: Range<usize>,
    bytes: Weak<Bytes>,
}

/// What HTTP/2 holds of a part.
struct Held(Arc<Bytes>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl LargeParts {
    /// The same bytes, which [`LargeParts::find`] finds as long as a slice of them is held; as they are if they are short.
    pub(crate) fn add(&self, bytes: Bytes) -> Bytes {
        if bytes.len() < LEAST {
            return bytes;
        }
        let bytes = Arc::new(bytes);
        let mut parts = self.lock();
        parts.retain(|part| part.bytes.strong_count() > 0);
        parts.push(Part { addresses: addresses(&bytes), bytes: Arc::downgrade(&bytes) });
        Bytes::from_owner(Held(bytes))
    }

    /// The slice as a piece of the part that it lies in.
    pub(crate) fn find(&self, slice: &[u8]) -> Option<Bytes> {
        let sought = addresses(slice);
        let parts = self.lock();
        let may_be =
            parts.iter().rev().filter(|part| part.addresses.start <= sought.start && sought.end <= part.addresses.end);
        // one that was dropped may have had the same addresses
        let part = may_be.filter_map(|part| part.bytes.upgrade()).next()?;
        Some(part.slice_ref(slice))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn addresses(bytes: &[u8]) -> Range<usize> {
    let addresses = bytes.as_ptr_range();
    addresses.start.addr()..addresses.end.addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_found_while_their_part_is_held() {
        let parts = LargeParts::default();
        let (first, second) = (parts.add(vec![1; LEAST].into()), parts.add(vec![2; LEAST + 5].into()));
        for (part, range) in [(&first, 0..LEAST), (&second, 5..LEAST + 5), (&first, 7..8), (&second, 3..LEAST)] {
            let slice = &part[range];
            let found = parts.find(slice).unwrap();
            assert_eq!((found.as_ptr(), found.len()), (slice.as_ptr(), slice.len()));
        }
        assert!(parts.find(&[1; LEAST]).is_none());
        drop((first, second));
        let third = parts.add(vec![3; LEAST].into());
        assert_eq!(parts.lock().len(), 1);
        assert!(parts.find(&third).is_some());
    }

    #[test]
    fn short_parts_stay_as_they_are_and_nothing_is_kept_for_long() {
        let parts = LargeParts::default();
        let short = Bytes::from(vec![1; LEAST - 1]);
        assert_eq!(parts.add(short.clone()).as_ptr(), short.as_ptr());
        assert!(parts.find(&short).is_none());
        let long = Bytes::from(vec![1; LEAST]);
        let held = parts.add(long.clone());
        let found = parts.find(&held[5..]).unwrap();
        drop((held, found));
        assert!(long.is_unique());
    }
}
