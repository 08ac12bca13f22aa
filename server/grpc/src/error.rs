//! The one place where the server's errors become gRPC statuses.

use server_core::error::{Code, Error};
use tonic::Status;

/// Longest message of a status, percent-encoded, in bytes. It travels in a header, and clients accept 8 KiB of headers by
/// default; more fails with an error of theirs that hides ours.
const MAX_MESSAGE_BYTES: usize = 6 << 10;
const TRUNCATED: &str = " ... (cut short)";

/// The status a client receives: the error's message unchanged, under the code gRPC has for its class. A message too long
/// for the headers clients accept is truncated.
pub(crate) fn status(error: Error) -> Status {
    let message = match kept_length(&error.message) {
        Some(length) => format!("{}{TRUNCATED}", &error.message[..length]).into(),
        None => error.message,
    };
    Status::new(code(error.code), message)
}

/// How much of a message that is too long is kept; `None` if all of it. Units: bytes.
fn kept_length(message: &str) -> Option<usize> {
    // Other bytes than letters and digits count as percent-encoded, three bytes each.
    let cost = |letter: char| if letter.is_ascii_alphanumeric() { 1 } else { 3 * letter.len_utf8() };
    if message.len() * 3 <= MAX_MESSAGE_BYTES {
        return None;
    }
    let mut total = 0;
    let too_long = message.char_indices().find(|(_, letter)| {
        total += cost(*letter);
        total > MAX_MESSAGE_BYTES
    });
    too_long.map(|(length, _)| length)
}

const fn code(code: Code) -> tonic::Code {
    match code {
        Code::Unknown => tonic::Code::Unknown,
        Code::Internal => tonic::Code::Internal,
        Code::NotFound => tonic::Code::NotFound,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::Unsupported => tonic::Code::Unimplemented,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::Cancelled => tonic::Code::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_too_long_for_headers_is_truncated() {
        let sent = |message: String| status(Error::internal(message)).message().to_owned();
        let short = "x".repeat(MAX_MESSAGE_BYTES);
        assert_eq!(sent(short.clone()), short);
        assert_eq!(sent(format!("{short}y")), format!("{short}{TRUNCATED}"));
        assert_eq!(sent("é".repeat(MAX_MESSAGE_BYTES)), format!("{}{TRUNCATED}", "é".repeat(MAX_MESSAGE_BYTES / 6)));
    }

    #[test]
    fn every_class_has_its_code_and_keeps_its_message() {
        for (class, expected) in [
            (Code::Unknown, tonic::Code::Unknown),
            (Code::Internal, tonic::Code::Internal),
            (Code::NotFound, tonic::Code::NotFound),
            (Code::InvalidArgument, tonic::Code::InvalidArgument),
            (Code::Unavailable, tonic::Code::Unavailable),
            (Code::Unsupported, tonic::Code::Unimplemented),
            (Code::AlreadyExists, tonic::Code::AlreadyExists),
            (Code::Cancelled, tonic::Code::Cancelled),
        ] {
            let status = status(Error::new(class, "what 'went' wrong, é and all"));
            assert_eq!((status.code(), status.message()), (expected, "what 'went' wrong, é and all"));
        }
    }
}
