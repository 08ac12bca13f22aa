//! Opaque handles. What a library holds is no address but a number with a place, a use count of that place, and the kind of
//! object: so a handle that was deleted, or is of another kind, is found out and refused, whatever the library does with it.
//!
//! An object may have parts ([`Handle::part`]), as a request has inputs: their handles are the object's with a number in it, and
//! end with it.
//!
//! A call of a library looks at an object ([`Held`]) without a lock, and at most for as long as it lasts.

use std::{
    collections::VecDeque,
    ffi::c_void,
    fmt,
    marker::PhantomData,
    ops::Deref,
    ptr,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use server_core::error::{Error, Result};

use super::{
    Out, misuse,
    slot::{Slot, Taken, USE_BITS},
};

/// A kind of object that libraries hold handles of.
pub(crate) trait Object: Send + Sync + Sized + 'static {
    /// Its name in the headers.
    const NAME: &'static str;

    /// Where all of its kind are.
    fn table() -> &'static Table<Self>;
}

/// Makes types objects, each with the table of its kind: `objects! { 1: Request => "TRITONBACKEND_Request" }`. The number
/// differs from those of all other kinds.
macro_rules! objects {
    ($($kind:literal: $type:ty => $name:literal),+ $(,)?) => {$(
        impl $crate::abi::Object for $type {
            const NAME: &'static str = $name;

            fn table() -> &'static $crate::abi::Table<Self> {
                static TABLE: $crate::abi::Table<$type> = $crate::abi::Table::new($kind);
                &TABLE
            }
        }
    )+};
}
pub(crate) use objects;

const PLACE_BITS: u32 = 22;
const PART_BITS: u32 = 14;

/// Places of the first chunk; each further one has twice as many, so that a table of few objects is small.
const CHUNK: usize = 1 << 10;
const CHUNKS: usize = 12;
/// Places of all chunks.
const PLACES: usize = CHUNK * ((1 << CHUNKS) - 1);

/// Places are used again only when so many others were given up after them.
const MOST_REST: usize = 64;

/// The number of the kind that libraries leave behind: NVIDIA's Python backend does with the error of each execution that fails.
const LEFT_BEHIND: u8 = 1;

/// So many of them are kept; then the oldest goes for each that comes.
const MOST_LEFT: usize = 1 << 16;

/// Most parts of one object.
pub(crate) const MOST_PARTS: usize = (1 << PART_BITS) - 1;

/// A handle as C has it: of the size of a pointer, null if there is no object. `T` is the object itself; for a part, the object
/// that it is a part of, with the part's name as `P`.
#[repr(transparent)]
pub(crate) struct Handle<T, P = ()>(*mut c_void, PhantomData<fn() -> (T, P)>);

impl<T, P> Clone for Handle<T, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, P> Copy for Handle<T, P> {}

// SAFETY: it is a number.
#[allow(unsafe_code)]
unsafe impl<T, P> Send for Handle<T, P> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T, P> Sync for Handle<T, P> {}

impl<T, P> fmt::Debug for Handle<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.bits())
    }
}

impl<T, P> Handle<T, P> {
    /// The handle of nothing.
    pub(crate) const NULL: Self = Self(ptr::null_mut(), PhantomData);

    /// Whether it is the handle of nothing.
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    fn bits(self) -> u64 {
        self.0.addr() as u64
    }

    fn of_bits(bits: u64) -> Self {
        Self(ptr::without_provenance_mut(bits as usize), PhantomData)
    }
}

impl<T: Object> Handle<T> {
    /// A handle of an object, which lives until [`Handle::take`].
    pub(crate) fn new(object: T) -> Self {
        Self::of(Arc::new(object))
    }

    /// A handle of an object that others have as well.
    pub(crate) fn of(object: Arc<T>) -> Self {
        T::table().insert(object)
    }

    /// The object.
    ///
    /// Errors: `InvalidArgument` if the handle is null, was deleted, or is of something else.
    pub(crate) fn get(self) -> Result<Held<T>> {
        if self.part_number() != 0 {
            return Err(invalid(self, T::NAME));
        }
        T::table().get(self)
    }

    /// The object, whose handle ends here.
    ///
    /// Errors: as those of [`Handle::get`].
    pub(crate) fn take(self) -> Result<Arc<T>> {
        T::table().remove(self)
    }

    /// The handle of its part of that number, from 0.
    ///
    /// Errors: there is no room for the number.
    pub(crate) fn part<P>(self, number: usize) -> Result<Handle<T, P>> {
        if number >= MOST_PARTS {
            return Err(Error::unsupported(format!("{} can have {MOST_PARTS} parts at most", T::NAME)));
        }
        Ok(Handle::of_bits(self.bits() | (number as u64 + 1)))
    }

    fn part_number(self) -> u64 {
        self.bits() & ((1 << PART_BITS) - 1)
    }
}

impl<T: Object> Out<Handle<T>> {
    /// Writes the handle of an object that the library deletes.
    ///
    /// Errors: the address is null, and there is no handle.
    pub(crate) fn give(self, object: T) -> Result<()> {
        self.set(Handle::NULL)?;
        self.set(Handle::new(object))
    }
}

/// A part of an object, in the words of the headers.
pub(crate) trait Part {
    /// Its name.
    const NAME: &'static str;
}

impl<T: Object, P: Part> Handle<T, P> {
    /// The object, and which part of it is meant.
    ///
    /// Errors: as those of [`Handle::get`].
    pub(crate) fn part_of(self) -> Result<(Held<T>, usize)> {
        let number = self.bits() & ((1 << PART_BITS) - 1);
        let object = T::table().get(Handle::of_bits(self.bits() - number));
        match (number.checked_sub(1), object) {
            (Some(number), Ok(object)) => Ok((object, number as usize)),
            _ => Err(invalid(self, P::NAME)),
        }
    }
}

fn invalid<T, P>(handle: Handle<T, P>, name: &str) -> Error {
    misuse::note();
    if handle.is_null() {
        return Error::invalid_argument(format!("{name} is null"));
    }
    Error::invalid_argument(format!(
        "{handle:?} is no {name}: it was released or deleted before, or is a handle of something else"
    ))
}

/// An object that a call looks at. Its handle may end meanwhile; the object stays.
pub(crate) struct Held<T: Object> {
    table: &'static Table<T>,
    slot: &'static Slot<Arc<T>>,
    place: u32,
}

impl<T: Object> Held<T> {
    /// The object, for longer.
    pub(crate) fn share(&self) -> Arc<T> {
        self.object().clone()
    }

    #[allow(unsafe_code)]
    fn object(&self) -> &Arc<T> {
        // SAFETY: this is made where the slot says that the object is there, and leaves it when it is dropped.
        unsafe { self.slot.object() }
    }
}

impl<T: Object> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }
}

impl<T: Object> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.object()
    }
}

impl<T: Object> Drop for Held<T> {
    fn drop(&mut self) {
        if let Some(object) = self.slot.leave() {
            self.table.give_up(self.place);
            drop(object);
        }
    }
}

type Chunk<T> = OnceLock<Box<[Slot<Arc<T>>]>>;

/// All objects of one kind. Memory for handles is never given back, and used again.
pub(crate) struct Table<T: 'static> {
    kind: u8,
    chunks: [Chunk<T>; CHUNKS],
    places: Mutex<Places>,
}

struct Places {
    /// Places that were used before, the one given up first in front.
    free: VecDeque<u32>,
    /// The first that was never used.
    next: u32,
    /// The place whose object goes next, of those that are left behind.
    oldest: u32,
}

impl<T: Object> Table<T> {
    /// An empty table for the kind of that number, up to 63.
    pub(crate) const fn new(kind: u8) -> Self {
        assert!(kind > 0 && kind < 64, "six bits");
        let places = Mutex::new(Places { free: VecDeque::new(), next: 0, oldest: 0 });
        Self { kind, chunks: [const { OnceLock::new() }; CHUNKS], places }
    }

    fn insert(&self, object: Arc<T>) -> Handle<T> {
        let mut _gone = None; // dropped without a lock
        let place = {
            let mut places = self.places.lock();
            let never_used = places.next;
            let most = if self.kind == LEFT_BEHIND { MOST_LEFT } else { PLACES };
            let is_full = never_used as usize >= most;
            match places.free.pop_front() {
                Some(place) if places.free.len() >= MOST_REST || is_full => place,
                None if is_full && self.kind == LEFT_BEHIND => {
                    let (place, object) = self.take_oldest(&mut places);
                    _gone = Some(object);
                    place
                }
                other => {
                    places.free.extend(other);
                    assert!(!is_full, "four million objects at a time: {} are not deleted", T::NAME);
                    places.next += 1;
                    never_used
                }
            }
        };
        // SAFETY: the place is in no list any more, so it is free and nobody else's.
        #[allow(unsafe_code)]
        let number = unsafe { self.slot(place).put(object) };
        let bits = u64::from(self.kind) << (PLACE_BITS + USE_BITS + PART_BITS)
            | u64::from(number) << (PLACE_BITS + PART_BITS)
            | u64::from(place) << PART_BITS;
        Handle::of_bits(bits)
    }

    /// Takes an object that nobody has deleted for as long as any; the place is free, and in no list.
    fn take_oldest(&self, places: &mut Places) -> (u32, Arc<T>) {
        loop {
            let place = places.oldest;
            places.oldest = (place + 1) % places.next;
            match self.slot(place).take_any() {
                Some(Taken { object, is_free: true }) => return (place, object),
                Some(_) => {} // whoever looks at it gives the place up
                None => {}    // somebody is about to give it up, or to use it
            }
        }
    }

    fn get(&'static self, handle: Handle<T>) -> Result<Held<T>> {
        let slot = self.slot_of(handle).ok_or_else(|| invalid(handle, T::NAME))?;
        let place = place(handle);
        if slot.look(uses(handle)) {
            return Ok(Held { table: self, slot, place });
        }
        if let Some(object) = slot.leave() {
            self.give_up(place);
            drop(object);
        }
        Err(invalid(handle, T::NAME))
    }

    fn remove(&self, handle: Handle<T>) -> Result<Arc<T>> {
        let slot = self.slot_of(handle).filter(|_| handle.part_number() == 0);
        let taken = slot.and_then(|slot| slot.take(uses(handle))).ok_or_else(|| invalid(handle, T::NAME))?;
        if taken.is_free {
            self.give_up(place(handle));
        }
        Ok(taken.object)
    }

    /// The place is free.
    fn give_up(&self, place: u32) {
        self.places.lock().free.push_back(place);
    }

    fn slot(&self, place: u32) -> &Slot<Arc<T>> {
        let (chunk, within) = chunk_of(place);
        &self.chunks[chunk].get_or_init(|| (0..CHUNK << chunk).map(|_| Slot::new()).collect())[within]
    }

    /// The place that a handle names, if it can be one of this table.
    fn slot_of(&self, handle: Handle<T>) -> Option<&Slot<Arc<T>>> {
        let kind = handle.bits() >> (PLACE_BITS + USE_BITS + PART_BITS);
        let (chunk, within) = chunk_of(place(handle));
        let chunk = self.chunks.get(chunk)?.get().filter(|_| kind == u64::from(self.kind))?;
        chunk.get(within)
    }
}

/// The chunk of a place, and where it lies in that.
fn chunk_of(place: u32) -> (usize, usize) {
    let place = place as usize;
    let chunk = (place / CHUNK + 1).ilog2() as usize;
    (chunk, place - CHUNK * ((1 << chunk) - 1))
}

fn place<T>(handle: Handle<T>) -> u32 {
    ((handle.bits() >> PART_BITS) & ((1 << PLACE_BITS) - 1)) as u32
}

fn uses<T>(handle: Handle<T>) -> u32 {
    ((handle.bits() >> (PLACE_BITS + PART_BITS)) & ((1 << USE_BITS) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Thing(u32);
    #[derive(Debug)]
    struct Other;
    struct Piece;

    objects! { 62: Thing => "TEST_Thing", 63: Other => "TEST_Other" }

    impl Part for Piece {
        const NAME: &'static str = "TEST_Piece";
    }

    #[track_caller]
    fn refused<T: fmt::Debug>(result: Result<T>, what: &str) {
        let text = result.expect_err("is refused").message;
        assert!(text.ends_with(what), "{text}");
    }

    #[test]
    fn a_handle_leads_to_its_object_until_it_is_taken() {
        let handle = Handle::new(Thing(7));
        assert_eq!(handle.get().unwrap().0, 7);
        assert_eq!(handle.take().unwrap().0, 7);
        for _ in 0..2 * MOST_REST {
            Handle::new(Thing(8)).take().unwrap();
        }
        let again: Vec<_> = (0..2 * MOST_REST as u32).map(|number| Handle::new(Thing(number))).collect();
        let text = "is no TEST_Thing: it was released or deleted before, or is a handle of something else";
        refused(handle.get(), text);
        refused(handle.take(), text);
        assert!(again.iter().enumerate().all(|(number, handle)| handle.get().unwrap().0 == number as u32));
        again.into_iter().for_each(|handle| drop(handle.take().unwrap()));
    }

    #[test]
    fn every_place_has_one_of_its_own() {
        let mut expect = (0, 0);
        for place in 0..PLACES as u32 {
            assert_eq!(chunk_of(place), expect, "{place}");
            expect.1 += 1;
            if expect.1 == CHUNK << expect.0 {
                expect = (expect.0 + 1, 0);
            }
        }
        assert_eq!(expect, (CHUNKS, 0), "and what lies behind the last is in no chunk");
    }

    #[test]
    fn what_is_no_handle_of_that_kind_is_refused() {
        refused(Handle::<Thing>::NULL.get(), "TEST_Thing is null");
        let thing = Handle::new(Thing(1));
        let as_other: Handle<Other> = Handle::of_bits(thing.bits());
        refused(as_other.get(), "is a handle of something else");
        refused(as_other.take(), "is a handle of something else");
        for bits in [1, u64::MAX, 0xdead_beef, u64::from(u32::MAX) << 20] {
            refused(Handle::<Thing>::of_bits(bits).get(), "is a handle of something else");
            refused(Handle::<Thing>::of_bits(bits).take(), "is a handle of something else");
        }
    }

    #[test]
    fn a_part_ends_with_its_object_and_is_no_object() {
        let thing = Handle::new(Thing(1));
        let part: Handle<Thing, Piece> = thing.part(3).unwrap();
        let (object, number) = part.part_of().unwrap();
        assert_eq!((object.0, number), (1, 3));
        refused(Handle::<Thing>::of_bits(part.bits()).get(), "is a handle of something else");
        refused(Handle::<Thing>::of_bits(part.bits()).take(), "is a handle of something else");
        refused(Handle::<Thing, Piece>::of_bits(thing.bits()).part_of(), "is a handle of something else");
        refused(thing.part::<Piece>(MOST_PARTS), "16383 parts at most");
        thing.take().unwrap();
        let text = "is no TEST_Piece: it was released or deleted before, or is a handle of something else";
        refused(part.part_of().map(|_| ()), text);
    }

    #[test]
    fn what_libraries_leave_behind_goes_when_there_is_too_much_of_it() {
        static TABLE: Table<Thing> = Table::new(LEFT_BEHIND);
        let first = TABLE.insert(Arc::new(Thing(0)));
        let mut last = first;
        for number in 1..3 * MOST_LEFT as u32 {
            last = TABLE.insert(Arc::new(Thing(number)));
        }
        assert_eq!(TABLE.get(last).unwrap().0, 3 * MOST_LEFT as u32 - 1);
        refused(TABLE.get(first), "or is a handle of something else");
        refused(TABLE.remove(first), "or is a handle of something else");
        assert_eq!(TABLE.remove(last).unwrap().0, 3 * MOST_LEFT as u32 - 1);
        assert_eq!(TABLE.places.lock().next as usize, MOST_LEFT);
    }

    #[test]
    fn an_object_stays_for_whoever_looks_at_it_and_its_place_is_used_again_after_that() {
        static TABLE: Table<Thing> = Table::new(61);
        let object = Arc::new(Thing(5));
        let handle = TABLE.insert(object.clone());
        let (one, other) = (TABLE.get(handle).unwrap(), TABLE.get(handle).unwrap());
        assert_eq!(TABLE.remove(handle).unwrap().0, 5);
        refused(TABLE.get(handle).map(|_| ()), "or is a handle of something else");
        refused(TABLE.remove(handle), "or is a handle of something else");
        drop(one);
        assert_eq!((other.0, Arc::strong_count(&object)), (5, 2));
        assert!(TABLE.places.lock().free.is_empty());
        drop(other);
        assert_eq!((Arc::strong_count(&object), &TABLE.places.lock().free), (1, &VecDeque::from([0])));
    }

    #[test]
    fn threads_that_delete_the_same_object_get_it_once() {
        for _ in 0..200 {
            let handle = Handle::new(Thing(1));
            let taken = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..4).map(|_| scope.spawn(move || handle.take().is_ok())).collect();
                takers.into_iter().map(|taker| usize::from(taker.join().unwrap())).sum::<usize>()
            });
            assert_eq!(taken, 1);
        }
    }
}
