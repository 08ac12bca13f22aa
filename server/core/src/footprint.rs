//! Which memory a request touches of the model that it is for. That of a model which nobody has asked for a while is no longer in the
//! caches of the processor, and a request that follows references through it waits at each of them. Collected once, all of it can be
//! asked for together when the model is found, and is there when it is needed.

/// Bytes of a line of the caches.
pub const LINE: usize = 64;

/// Lines of one piece at most: their number lies in the bits of an address that a line leaves free.
const MOST_OF_ONE: usize = LINE - 1;
/// Lines of all pieces at most: more would drive out of the nearest cache what was asked for first.
const MOST: usize = 160;

/// Lines of memory, by address. They are hints: what lies there may be gone meanwhile.
#[derive(Debug, Default)]
pub struct Footprint {
    /// The address of the first line of each piece, and the number of its lines.
    pieces: Vec<usize>,
    lines: usize,
}

impl Footprint {
    /// Adds the lines of a value, without what it refers to.
    pub fn add<T: ?Sized>(&mut self, value: &T) {
        self.add_bytes((&raw const *value).cast::<u8>().addr(), size_of_val(value));
    }

    /// Adds the lines of the first of values that come and go, as of a queue: at the moment there may be none.
    pub fn add_room<T>(&mut self, values: &[T]) {
        self.add_bytes(values.as_ptr().addr(), size_of::<T>());
    }

    fn add_bytes(&mut self, first: usize, count: usize) {
        let end = first + count;
        let first = first - first % LINE;
        let lines = (end - first).div_ceil(LINE).min(MOST_OF_ONE).min(MOST - self.lines);
        if count > 0 && lines > 0 {
            self.pieces.push(first | lines);
            self.lines += lines;
        }
    }

    /// The address of each line.
    pub fn lines(&self) -> impl Iterator<Item = usize> {
        self.pieces.iter().flat_map(|piece| {
            let (first, count) = (piece - piece % LINE, piece % LINE);
            (0..count).map(move |line| first + line * LINE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Aligned([u8; 640]);

    fn lines_of(bytes: &[u8]) -> Vec<usize> {
        let mut footprint = Footprint::default();
        footprint.add(bytes);
        footprint.lines().collect()
    }

    #[test]
    fn every_line_that_a_value_lies_in_is_there_once() {
        let value = Aligned([0; 640]);
        let first = value.0.as_ptr().addr();
        assert_eq!(lines_of(&value.0[..1]), [first]);
        assert_eq!(lines_of(&value.0[..64]), [first]);
        assert_eq!(lines_of(&value.0[63..65]), [first, first + 64]);
        assert_eq!(lines_of(&value.0).len(), 10);
        assert_eq!(lines_of(&value.0[1..1]), [first; 0]);
    }

    #[test]
    fn there_is_a_bound() {
        let value = vec![0_u8; 1 << 20];
        let mut footprint = Footprint::default();
        (0..10).for_each(|_| footprint.add(&*value));
        assert_eq!(footprint.lines().count(), MOST);
    }
}
