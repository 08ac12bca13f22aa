//! Where the tensors of a run lie.

#![allow(unsafe_code)]

use server_core::error::{Error, Result};

use super::{buffers, description::Io, raw::Context};
use crate::cuda::DeviceMemory;

/// Memory of one tensor, long enough for its largest shape. It stays where it is.
pub(super) enum Place {
    /// On the GPU.
    Device(DeviceMemory),
    /// A shape tensor, on the host; as many words as make it long enough.
    Host(Box<[u64]>),
    /// An output whose size depends on data: the context asks for its memory.
    Asked,
}

impl Place {
    /// On the host, for so many bytes.
    pub(super) fn on_host(bytes: usize) -> Self {
        Self::Host(vec![0; bytes.div_ceil(8).max(1)].into_boxed_slice())
    }

    /// Says to a context where a tensor lies. Whether it takes that.
    pub(super) fn give(&self, context: &mut Context, io: &Io) -> bool {
        let address = match self {
            Self::Device(memory) => memory.address(),
            Self::Host(words) => words.as_ptr().expose_provenance() as u64,
            Self::Asked => return true,
        };
        // SAFETY: it is long enough, and stays there: an instance waits for its runs before its places go, and has no other run use
        // them meanwhile.
        unsafe { context.set_address(&io.name, address) }
    }

    /// Writes a shape tensor.
    ///
    /// Errors: `InvalidArgument` if it cannot hold the values.
    pub(super) fn put(&mut self, io: &Io, values: &[i64]) -> Result<()> {
        let refused = || {
            let text =
                format!("invalid shape values encountered for shape inputs: '{}' cannot hold {values:?}", io.text);
            Error::invalid_argument(text)
        };
        let Self::Host(words) = self else { return Err(refused()) };
        let bytes = buffers::encode(io, values).filter(|bytes| bytes.len() <= 8 * words.len()).ok_or_else(refused)?;
        for (word, part) in words.iter_mut().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..part.len()].copy_from_slice(part);
            *word = u64::from_ne_bytes(padded);
        }
        Ok(())
    }

    /// The elements of a shape tensor; `None` if it is none.
    pub(super) fn elements(&self, io: &Io) -> Option<Vec<u8>> {
        let Self::Host(words) = self else { return None };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Some(bytes.get(..buffers::bytes(io, &io.shape)?)?.to_vec())
    }
}
