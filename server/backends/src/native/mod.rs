//! What the backends of native graph runtimes have in common. Each of them reads a model file, compares it with a configuration,
//! packs the requests of a batch into one tensor per input, runs, and gives every request its rows; only the library below differs.
//!
//! ```text
//! load   a runtime reads its file into a [`Signature`] -> [`complete`], [`verify`] -> [`Tensors`]: what an instance feeds and takes
//! batch  [`BatchInstance`]: requests -> [`input`], [`computed`] -> one [`Fed`] per input -> [`Runner::run`]
//!                           -> one [`Value`] per output -> [`output`] -> replies
//! ```
//!
//! A runtime implements [`Runner`] and [`Value`]; one that runs by itself once it was started implements [`Overlapping`] instead, and is given
//! the next batch meanwhile by [`OverlappedInstance`]. Nothing here is unsafe but [`scratch`], and nothing knows a runtime by name.

pub(crate) mod complete;
mod computed;
mod input;
mod instance;
pub(crate) mod loading;
pub(crate) mod operations;
mod output;
mod overlap;
pub(crate) mod runner;
pub(crate) mod scratch;
pub(crate) mod sequence;
pub(crate) mod settings;
mod signature;
mod tensors;
mod verify;

pub(crate) use input::Fed;
pub(crate) use instance::BatchInstance;
pub(crate) use overlap::{LANES, OverlappedInstance, Overlapping, Staged};
pub(crate) use runner::{Runner, Value, Values, lies_in};
pub(crate) use scratch::GatherBuffer;
pub(crate) use signature::{Kind, Offered, Signature};
pub(crate) use tensors::Tensors;
pub(crate) use verify::verify;
