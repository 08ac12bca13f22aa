//! How many bytes of input a model was given: a cell for each instance, which alone writes it, so that nothing is contended.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// What one instance was given.
#[derive(Default)]
pub(super) struct Cell {
    shared: Arc<AtomicU64>,
    total: u64,
}

impl Cell {
    pub(super) fn add(&mut self, bytes: usize) {
        self.total = self.total.wrapping_add(bytes as u64);
        self.shared.store(self.total, Ordering::Relaxed);
    }
}

/// What all instances were given.
#[derive(Default)]
pub(super) struct InputBytes(Mutex<State>);

#[derive(Default)]
struct State {
    cells: Vec<Arc<AtomicU64>>,
    /// Of instances that are gone.
    gone: u64,
}

impl InputBytes {
    /// A cell for one more instance.
    pub(super) fn cell(&self) -> Cell {
        let mut state = self.0.lock();
        let State { cells, gone } = &mut *state;
        cells.retain(|cell| {
            let is_used = Arc::strong_count(cell) > 1;
            if !is_used {
                *gone = gone.wrapping_add(cell.load(Ordering::Relaxed));
            }
            is_used
        });
        let cell = Cell::default();
        cells.push(cell.shared.clone());
        cell
    }

    /// All together.
    pub(super) fn total(&self) -> u64 {
        let state = self.0.lock();
        state.cells.iter().fold(state.gone, |sum, cell| sum.wrapping_add(cell.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_that_are_gone_still_count() {
        let all = InputBytes::default();
        let (mut one, mut other) = (all.cell(), all.cell());
        one.add(5);
        other.add(7);
        one.add(1);
        assert_eq!(all.total(), 13);
        drop(one);
        let _next = all.cell();
        assert_eq!((all.total(), all.0.lock().cells.len()), (13, 2));
    }
}
