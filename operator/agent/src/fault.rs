//! A step that went wrong: one word for programs, one sentence for people. Every module of the agent that can fail returns it.

use std::{fmt, io::ErrorKind};

pub use operator_core::Reason;

/// Longest sentence, in bytes: statuses show half of it, and a report holds one for each model.
const MESSAGE_MAX: usize = 1024;

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
    /// A fault with its sentence, which is cut if it is very long.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_MAX));
            message.push('…');
        }
        Self { reason, message }
    }

    /// The local disk would not take it.
    pub(crate) fn store(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Reason::StoreFull,
            _ => Reason::StoreFailed,
        };
        Self::new(reason, format!("{what}: {error}"))
    }
}
