//! The text form, `config.pbtxt`: reading and writing.

mod read;
mod write;

pub use self::{read::from_text, write::to_text};
