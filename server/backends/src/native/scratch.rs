//! Memory that the inputs of a batch are gathered in.

#![allow(unsafe_code)]

use std::slice;

/// Memory that one input of a batch is gathered in.
pub(crate) trait GatherBuffer {
    /// Whether everything is gathered there: the runtime reads nothing where a request left it.
    const HOLDS_ALL: bool;

    /// The first `length` bytes. What they hold is left over from earlier.
    fn bytes(&mut self, length: usize) -> &mut [u8];
}

/// Bytes that are aligned for every type and for vector instructions, grown when needed, used again and again.
#[derive(Default)]
pub(crate) struct Scratch {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Scratch {
    /// The first `length` bytes, aligned to 64. What they hold is left over from earlier.
    pub(crate) fn bytes(&mut self, length: usize) -> &mut [u8] {
        let lines = length.div_ceil(size_of::<Line>());
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; 64]));
        }
        // SAFETY: a line is 64 initialised bytes without padding, and there are at least enough of them for the length.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), length) }
    }
}

impl GatherBuffer for Scratch {
    const HOLDS_ALL: bool = false;

    fn bytes(&mut self, length: usize) -> &mut [u8] {
        Self::bytes(self, length)
    }
}
