//! Which members of an object were seen, and which mistake is reported when there are several.

use server_core::error::{Error, Result};

use crate::json::reader::{Parsed, Reader};

/// Members that are looked for, of the message and of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Member {
    Id,
    Parameters,
    Inputs,
    Outputs,
    Name,
    DataType,
    Shape,
    Data,
}

/// Which members were seen, and what was wrong with them. They are read in the order of the text, but Triton's order
/// decides which mistake is reported.
#[derive(Default)]
pub(super) struct Members {
    seen: u8,
    mistakes: Vec<(Member, Error)>,
}

impl Members {
    /// Reads a member; of several with one name, the first.
    #[inline]
    pub(super) fn read<'a>(
        &mut self,
        member: Member,
        reader: &mut Reader<'a>,
        read: impl FnOnce(&mut Reader<'a>) -> Parsed<()>,
    ) -> Parsed<()> {
        let bit = 1 << member as u8;
        if self.seen & bit != 0 {
            return reader.skip();
        }
        self.seen |= bit;
        reader.attempt(read, |error| self.mistakes.push((member, error)))
    }

    /// Whether the member was there. Errors: it was wrong.
    #[inline]
    pub(super) fn check(&mut self, member: Member) -> Result<bool> {
        if let Some(index) = self.mistakes.iter().position(|(other, _)| *other == member) {
            return Err(self.mistakes.swap_remove(index).1);
        }
        Ok(self.seen & (1 << member as u8) != 0)
    }

    /// Whether the member was seen, right or wrong.
    pub(super) fn has(&self, member: Member) -> bool {
        self.seen & (1 << member as u8) != 0
    }

    /// Whether nothing was wrong so far.
    pub(super) fn are_right(&self) -> bool {
        self.mistakes.is_empty()
    }
}
