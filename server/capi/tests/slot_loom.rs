//! Threads that look at an object, take it, and use its place again, in every order in which they can meet: nobody sees another object
//! than the one that was meant, each goes once, and its place is free once. Run by `e2e/loom`; without `cfg(model_check)` there is nothing
//! here.
#![cfg(model_check)]
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

#[path = "../src/abi/slot.rs"]
mod slot;

use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use slot::Slot;

/// A place, and how often it was said to be free.
struct Place {
    slot: Slot<Arc<u32>>,
    freed: AtomicUsize,
}

impl Place {
    fn with(object: u32) -> (Arc<Self>, u32) {
        let place = Arc::new(Self { slot: Slot::new(), freed: AtomicUsize::new(0) });
        let number = place.put(object);
        (place, number)
    }

    /// Whoever puts an object there has the free place.
    #[allow(unsafe_code)]
    fn put(&self, object: u32) -> u32 {
        // SAFETY: as above.
        unsafe { self.slot.put(Arc::new(object)) }
    }

    /// Looks at an object as calls do.
    #[allow(unsafe_code)]
    fn get(&self, number: u32) -> Option<u32> {
        let is_there = self.slot.look(number);
        // SAFETY: it is there.
        let seen = is_there.then(|| unsafe { **self.slot.object() });
        if self.slot.leave().is_some() {
            self.free();
        }
        seen
    }

    /// Takes the object of that use.
    fn take(&self, number: u32) -> Option<u32> {
        let taken = self.slot.take(number)?;
        if taken.is_free {
            self.free();
        }
        Some(*taken.object)
    }

    fn free(&self) {
        self.freed.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn one_of_two_takes_an_object_that_others_look_at() {
    loom::model(|| {
        let (place, number) = Place::with(7);
        let look = |place: &Arc<Place>| {
            let place = place.clone();
            thread::spawn(move || place.get(number))
        };
        let looker = look(&place);
        let taker = {
            let place = place.clone();
            thread::spawn(move || place.take(number))
        };
        let taken = place.take(number);
        let seen = looker.join().unwrap();
        assert!(matches!((taken, taker.join().unwrap()), (Some(7), None) | (None, Some(7))));
        assert!(matches!(seen, None | Some(7)));
        assert_eq!(place.freed.load(Ordering::SeqCst), 1);
        assert_eq!(place.get(number), None);
    });
}

#[test]
fn a_place_is_used_again_while_others_ask_for_what_was_there() {
    loom::model(|| {
        let (place, number) = Place::with(7);
        let looker = {
            let place = place.clone();
            thread::spawn(move || place.get(number))
        };
        assert_eq!(place.take(number), Some(7));
        if place.freed.load(Ordering::SeqCst) == 1 {
            let next = place.put(8);
            assert_ne!(next, number);
            assert_eq!(place.get(next), Some(8));
            assert_eq!(place.take(number), None);
            assert_eq!(place.take(next), Some(8));
            assert!(matches!(looker.join().unwrap(), None | Some(7)));
            assert_eq!(place.freed.load(Ordering::SeqCst), 2);
        } else {
            assert!(matches!(looker.join().unwrap(), None | Some(7)));
            assert_eq!(place.freed.load(Ordering::SeqCst), 1);
        }
    });
}
