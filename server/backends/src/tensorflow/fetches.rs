//! Which outputs a session has been asked for together. TensorFlow keeps an executor for each such list as long as the session lives, and
//! clients choose among all subsets: so only the first lists are passed on as they are.

use parking_lot::Mutex;
use smallvec::SmallVec;

/// Lists that a session is asked for as they are, besides that of all outputs.
const MOST: usize = 16;

/// The lists of one session, which several instances may run.
#[derive(Debug, Default)]
pub(super) struct Fetches(Mutex<Vec<SmallVec<[usize; 8]>>>);

impl Fetches {
    /// Whether the session is to compute just these outputs; else all of them. `wanted`: ascending numbers.
    pub(super) fn admit(&self, wanted: &[usize]) -> bool {
        let mut lists = self.0.lock();
        if lists.iter().any(|list| list.as_slice() == wanted) {
            return true;
        }
        let has_room = lists.len() < MOST;
        if has_room {
            lists.push(wanted.into());
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lists_are_admitted_again_and_again_and_no_others() {
        let fetches = Fetches::default();
        for _ in 0..2 {
            assert!((0..MOST).all(|number| fetches.admit(&[number, number + 1])));
            assert!(!fetches.admit(&[0]));
            assert!(!fetches.admit(&[0, 1, 2]));
        }
    }
}
