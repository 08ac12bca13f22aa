//! What goes wrong on a connection, in the words of the protocol.

use std::fmt;

/// Codes of errors. Source: RFC 9113, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    NoError = 0,
    ProtocolError = 1,
    InternalError = 2,
    FlowControlError = 3,
    StreamClosed = 5,
    FrameSizeError = 6,
    RefusedStream = 7,
    CompressionError = 9,
    EnhanceYourCalm = 0xb,
}

/// The connection ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionError {
    pub(crate) code: Code,
    /// What the client has done. It is sent to it, too.
    pub(crate) text: &'static str,
}

impl ConnectionError {
    pub(crate) const fn new(code: Code, text: &'static str) -> Self {
        Self { code, text }
    }

    pub(crate) const fn protocol(text: &'static str) -> Self {
        Self::new(Code::ProtocolError, text)
    }

    /// The client asks for more than it may.
    pub(crate) const fn calm(text: &'static str) -> Self {
        Self::new(Code::EnhanceYourCalm, text)
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.text, self.code)
    }
}
