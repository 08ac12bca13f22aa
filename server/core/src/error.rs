//! The one error of the server: a code every front end translates, and a sentence for the user.

use std::borrow::Cow;

/// What went wrong, in Triton's own classes. Front ends map these to statuses, each in its `error.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// No other class fits.
    Unknown,
    /// The server or a backend failed.
    Internal,
    /// The thing named does not exist.
    NotFound,
    /// The caller's words are wrong.
    InvalidArgument,
    /// Right words, wrong time: not ready, queue full, stopping.
    Unavailable,
    /// Known, and not offered here.
    Unsupported,
    /// The name is taken.
    AlreadyExists,
    /// The caller left.
    Cancelled,
}

impl Code {
    /// The class as Triton writes it in logs and in the reason of a failed load, e.g. `Invalid argument`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Internal => "Internal",
            Self::NotFound => "Not found",
            Self::InvalidArgument => "Invalid argument",
            Self::Unavailable => "Unavailable",
            Self::Unsupported => "Unsupported",
            Self::AlreadyExists => "Already exists",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// A code and a sentence. The sentence is what the client reads, word for word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The class.
    pub code: Code,
    /// The sentence.
    pub message: Cow<'static, str>,
}

/// What nearly every function of the server returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident),* $(,)?) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                Self::new(Code::$code, message)
            })*
        }
    };
}

constructors! {
    /// An error of class [`Code::Unknown`].
    unknown => Unknown,
    /// An error of class [`Code::Internal`].
    internal => Internal,
    /// An error of class [`Code::NotFound`].
    not_found => NotFound,
    /// An error of class [`Code::InvalidArgument`].
    invalid_argument => InvalidArgument,
    /// An error of class [`Code::Unavailable`].
    unavailable => Unavailable,
    /// An error of class [`Code::Unsupported`].
    unsupported => Unsupported,
    /// An error of class [`Code::AlreadyExists`].
    already_exists => AlreadyExists,
    /// An error of class [`Code::Cancelled`].
    cancelled => Cancelled,
}

impl Error {
    /// An error of the given class.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// The same error with `[request id: ID] ` in front, as Triton marks errors found while checking or scheduling.
    #[must_use]
    pub fn with_request_id(mut self, id: &str) -> Self {
        let id = if id.is_empty() { "<id_unknown>" } else { id };
        self.message = format!("[request id: {id}] {}", self.message).into();
        self
    }
}
