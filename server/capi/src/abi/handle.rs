//! Opaque handles. What a library holds is no address but a number with a place, a use count of that place, and the kind of
//! object: so a handle that was deleted, or is of another kind, is found out and refused, whatever the library does with it.
//!
//! An object may have parts ([`Handle::part`]), as a request has inputs: their handles are the object's with a number in it, and
//! end with it.

use std::{
    collections::VecDeque,
    ffi::c_void,
    fmt,
    marker::PhantomData,
    ptr,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use server_core::error::{Error, Result};

use super::{Out, misuse};

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
const USE_BITS: u32 = 22;
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
    pub(crate) fn get(self) -> Result<Arc<T>> {
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
    pub(crate) fn part_of(self) -> Result<(Arc<T>, usize)> {
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

struct Slot<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    uses: u32,
    object: Option<Arc<T>>,
}

type Chunk<T> = OnceLock<Box<[Slot<T>]>>;

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
        let mut state = self.slot(place).state.lock();
        state.object = Some(object);
        let bits = u64::from(self.kind) << (PLACE_BITS + USE_BITS + PART_BITS)
            | u64::from(state.uses) << (PLACE_BITS + PART_BITS)
            | u64::from(place) << PART_BITS;
        Handle::of_bits(bits)
    }

    /// Takes an object that nobody has deleted for as long as any; the place is free, and in no list.
    fn take_oldest(&self, places: &mut Places) -> (u32, Arc<T>) {
        loop {
            let place = places.oldest;
            places.oldest = (place + 1) % places.next;
            let mut state = self.slot(place).state.lock();
            if let Some(object) = state.object.take() {
                state.uses = (state.uses + 1) % (1 << USE_BITS);
                return (place, object);
            } // else somebody is about to give it up, or to use it
        }
    }

    fn get(&self, handle: Handle<T>) -> Result<Arc<T>> {
        let slot = self.slot_of(handle).ok_or_else(|| invalid(handle, T::NAME))?;
        let state = slot.state.lock();
        let object = state.object.as_ref().filter(|_| state.uses == uses(handle)).cloned();
        object.ok_or_else(|| invalid(handle, T::NAME))
    }

    fn remove(&self, handle: Handle<T>) -> Result<Arc<T>> {
        let slot = self.slot_of(handle).ok_or_else(|| invalid(handle, T::NAME))?;
        let object = {
            let mut state = slot.state.lock();
            if state.uses != uses(handle) || handle.part_number() != 0 {
                return Err(invalid(handle, T::NAME));
            }
            let object = state.object.take().ok_or_else(|| invalid(handle, T::NAME))?;
            state.uses = (state.uses + 1) % (1 << USE_BITS);
            object
        };
        self.places.lock().free.push_back(place(handle));
        Ok(object)
    }

    fn slot(&self, place: u32) -> &Slot<T> {
        let (chunk, within) = chunk_of(place);
        let empty = || Slot { state: Mutex::new(State { uses: 0, object: None }) };
        &self.chunks[chunk].get_or_init(|| (0..CHUNK << chunk).map(|_| empty()).collect())[within]
    }

    /// The place that a handle names, if it can be one of this table.
    fn slot_of(&self, handle: Handle<T>) -> Option<&Slot<T>> {
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
