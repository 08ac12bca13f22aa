//! Which addresses of this process belong to which segment.
//!
//! Bytes in a segment travel as plain `Bytes`, cut into slices by code that knows nothing of segments. Their address says
//! where they lie, without a word for it in every buffer: who holds bytes of a segment keeps it mapped, and no two mappings
//! overlap.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::RwLock;

use crate::segment::Segment;

/// By the address of the first byte.
static MAPPED: RwLock<BTreeMap<usize, Weak<Segment>>> = RwLock::new(BTreeMap::new());

/// Enters a segment that was just mapped.
pub(crate) fn insert(segment: &Arc<Segment>) {
    MAPPED.write().insert(segment.address(), Arc::downgrade(segment));
}

/// Takes a segment out: to be called before it is unmapped, for its addresses may be somebody else's right after.
pub(crate) fn remove(address: usize) {
    MAPPED.write().remove(&address);
}

/// The segment that these bytes lie in, and where in it; `None` for bytes elsewhere, and for no bytes.
pub(crate) fn find(bytes: &[u8]) -> Option<(Arc<Segment>, usize)> {
    if bytes.is_empty() {
        return None;
    }
    let address = bytes.as_ptr() as usize;
    let segment = MAPPED.read().range(..=address).next_back()?.1.upgrade()?;
    let offset = address - segment.address();
    let is_inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= segment.len());
    is_inside.then_some((segment, offset))
}
