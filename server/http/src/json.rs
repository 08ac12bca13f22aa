//! JSON in and out: the inference messages read and written by hand in one pass, everything else as small trees.

pub(crate) mod elements;
pub(crate) mod number;
pub(crate) mod reader;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod value;
pub(crate) mod writer;
