//! A place for one object at a time, at which threads look without a lock. One word says which use of the place it is, whether there is
//! an object, and how many threads look at it: to look is to be counted there, and an object that is taken meanwhile stays until the
//! last of them is done. The tests of all orders in which threads can meet here are in `tests/slot_loom.rs`.

#[cfg(not(model_check))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(model_check)]
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU64, Ordering},
};

/// Bits of the number of a use.
pub(super) const USE_BITS: u32 = 22;

/// One thread that looks; the lower half of the word is their number.
const LOOK: u64 = 1;
const LOOKS: u64 = (1 << 32) - 1;
/// There is an object, and whoever knows the number of this use may look at it.
const LIVE: u64 = 1 << 32;
/// It was taken while others looked at it: the last of them lets go of it.
const TAKEN: u64 = 1 << 33;
const USE_SHIFT: u32 = 34;

/// The place. `T` is a reference to the object, which is cheap to clone.
pub(super) struct Slot<T> {
    word: AtomicU64,
    object: UnsafeCell<Option<T>>,
}

// SAFETY: the object is written by whoever has the free place, or has it as the last; in between it is only read, see each access.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

/// What an object leaves behind that was taken.
pub(super) struct Taken<T> {
    /// The object.
    pub(super) object: T,
    /// The place is free, and its next use may begin; else that is said by [`Slot::leave`] to the last who looks.
    pub(super) is_free: bool,
}

fn use_of(word: u64) -> u32 {
    (word >> USE_SHIFT) as u32
}

/// The word of the next use, before it begins.
fn next_use(word: u64) -> u64 {
    ((u64::from(use_of(word)) + 1) % (1 << USE_BITS)) << USE_SHIFT
}

impl<T: Clone> Slot<T> {
    /// A place that was never used.
    pub(super) fn new() -> Self {
        Self { word: AtomicU64::new(0), object: UnsafeCell::new(None) }
    }

    /// Puts an object there; returns the number of this use.
    ///
    /// # Safety
    ///
    /// The place is free, and nobody else puts one there.
    #[allow(unsafe_code)]
    pub(super) unsafe fn put(&self, object: T) -> u32 {
        // SAFETY: nobody looks at a place that is not live, and it is the caller's.
        self.object.with_mut(|at| unsafe { *at = Some(object) });
        use_of(self.word.fetch_add(LIVE, Ordering::Release))
    }

    /// Looks at the object of that use: it stays until [`Slot::leave`], which is to follow. Whether it is there.
    #[must_use]
    pub(super) fn look(&self, number: u32) -> bool {
        let word = self.word.fetch_add(LOOK, Ordering::Acquire);
        word & LIVE != 0 && use_of(word) == number
    }

    /// The object.
    ///
    /// # Safety
    ///
    /// The caller looks, and [`Slot::look`] has said that it is there.
    #[allow(unsafe_code)]
    pub(super) unsafe fn object(&self) -> &T {
        // SAFETY: nobody writes while the caller looks.
        let object = self.object.with(|at| unsafe { &*at }).as_ref();
        // SAFETY: it is there.
        unsafe { object.unwrap_unchecked() }
    }

    /// The end of a look, whether there was an object or not. Returns the object if it was taken and this was the last look: the
    /// place is free then.
    #[must_use]
    pub(super) fn leave(&self) -> Option<T> {
        let word = self.word.fetch_sub(LOOK, Ordering::Release);
        (word & TAKEN != 0 && word & LOOKS == LOOK).then(|| self.clear()).flatten()
    }

    /// Takes the object of that use; `None` if it is not there any more.
    pub(super) fn take(&self, number: u32) -> Option<Taken<T>> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & LIVE == 0 || use_of(word) != number {
                return None;
            }
            let is_last = word & LOOKS == 0;
            let next = if is_last { next_use(word) } else { (word & !LIVE | TAKEN) + LOOK };
            match self.word.compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) if is_last => return self.take_out().map(|object| Taken { object, is_free: true }),
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        // SAFETY: this thread looks, and it was live.
        #[allow(unsafe_code)]
        let object = unsafe { self.object() }.clone();
        let is_free = self.leave().is_some();
        Some(Taken { object, is_free })
    }

    /// Takes whatever object is there.
    pub(super) fn take_any(&self) -> Option<Taken<T>> {
        self.take(use_of(self.word.load(Ordering::Relaxed)))
    }

    /// Lets go of an object that was taken, unless somebody came to look: then that is theirs to do.
    fn clear(&self) -> Option<T> {
        let word = self.word.load(Ordering::Relaxed);
        if word & TAKEN == 0 || word & LOOKS != 0 {
            return None;
        }
        let cleared = self.word.compare_exchange(word, next_use(word), Ordering::Acquire, Ordering::Relaxed);
        cleared.ok().and_then(|_| self.take_out())
    }

    #[allow(unsafe_code)]
    fn take_out(&self) -> Option<T> {
        // SAFETY: this thread has ended the use, as the only one; nobody looks, nor puts anything there before the place is said to be
        // free.
        self.object.with_mut(|at| unsafe { (*at).take() })
    }
}

/// The model checker's cell has these words.
#[cfg(not(model_check))]
struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(model_check))]
impl<T> UnsafeCell<T> {
    fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}
