//! A step that went wrong: one word for programs, one sentence for people. Every module of the agent that can fail returns it.

use std::fmt;

pub use operator_core::Reason;

/// A step that went wrong, before anybody counted how often.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Fault {
    /// One word for programs.
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
}

impl Fault {
    /// A fault with its sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The local disk would not take it.
    pub(crate) fn store(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Reason::StoreFailed, format!("{what}: {error}"))
    }
}
