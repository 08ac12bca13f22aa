//! The dynamic table: entries that were sent before, the newest first, as many as fit.
//! Source: RFC 7541, sections 2.3.2 and 4.

use std::collections::VecDeque;

/// Bytes that an entry counts for besides its name and its value.
const OVERHEAD: usize = 32;

/// What a field counts for, in a table and in a list of fields.
pub(super) fn size_of(name: usize, value: usize) -> usize {
    name + value + OVERHEAD
}

/// A dynamic table.
#[derive(Debug)]
pub(super) struct Table<E> {
    /// Each with its size, the newest at the front.
    entries: VecDeque<(E, usize)>,
    /// Sum of the sizes, at most `max_size`.
    size: usize,
    max_size: usize,
}

impl<E> Table<E> {
    pub(super) fn new(max_size: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, max_size }
    }

    /// The entry at this place, 0 for the newest.
    pub(super) fn get(&self, place: usize) -> Option<&E> {
        self.entries.get(place).map(|(entry, _)| entry)
    }

    /// All entries, the newest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &E> {
        self.entries.iter().map(|(entry, _)| entry)
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    /// Removes the oldest entries that do not fit any more.
    pub(super) fn set_max_size(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.shrink_to(max_size);
    }

    /// Adds an entry in place of the oldest ones. One that is larger than the table leaves it empty, which is no error.
    pub(super) fn insert(&mut self, entry: E, size: usize) {
        let Some(rest) = self.max_size.checked_sub(size) else {
            self.shrink_to(0);
            return;
        };
        self.shrink_to(rest);
        self.entries.push_front((entry, size));
        self.size += size;
    }

    fn shrink_to(&mut self, size: usize) {
        while self.size > size
            && let Some((_, removed)) = self.entries.pop_back()
        {
            self.size -= removed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(table: &Table<char>, expect: &str) {
        assert_eq!(table.iter().collect::<String>(), expect);
        assert_eq!(table.get(0).copied(), expect.chars().next());
        assert_eq!(table.get(expect.len()), None);
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let mut table = Table::new(100);
        table.insert('a', 40);
        table.insert('b', 60);
        check(&table, "ba");
        table.insert('c', 1);
        check(&table, "cb");
        table.insert('d', 100);
        check(&table, "d");
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Table::new(100);
        table.insert('a', 40);
        table.insert('b', 101);
        check(&table, "");
        table.insert('c', 100);
        check(&table, "c");
    }

    #[test]
    fn a_smaller_table_holds_the_newest() {
        let mut table = Table::new(100);
        for one in ['a', 'b', 'c'] {
            table.insert(one, 33);
        }
        table.set_max_size(66);
        check(&table, "cb");
        table.set_max_size(0);
        check(&table, "");
        table.set_max_size(50);
        table.insert('d', 33);
        check(&table, "d");
    }
}
