//! The one place where the server's errors become gRPC statuses.

use server_core::error::{Code, Error};
use tonic::Status;

/// Longest message of a status, as it travels: percent-encoded, in a header. Clients take 8 KiB of headers by default and
/// answer more with an error of their own, which says nothing of ours.
const LONGEST: usize = 6 << 10;
const CUT: &str = " ... (cut short)";

/// The status a client receives: the error's sentence, word for word, under the code gRPC has for its class. The end of
/// a sentence that no client would take is cut off.
pub(crate) fn status(error: Error) -> Status {
    let message = match taken(&error.message) {
        Some(length) => format!("{}{CUT}", &error.message[..length]).into(),
        None => error.message,
    };
    Status::new(code(error.code), message)
}

/// How much of a message that is too long is told. Units: bytes.
fn taken(message: &str) -> Option<usize> {
    // What is not plain travels as %XX, three bytes for each.
    let cost = |letter: char| if letter.is_ascii_alphanumeric() { 1 } else { 3 * letter.len_utf8() };
    if message.len() * 3 <= LONGEST {
        return None;
    }
    let mut total = 0;
    let too_long = message.char_indices().find(|(_, letter)| {
        total += cost(*letter);
        total > LONGEST
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
    fn a_sentence_that_no_client_would_take_is_cut_short() {
        let told = |message: String| status(Error::internal(message)).message().to_owned();
        let short = "x".repeat(LONGEST);
        assert_eq!(told(short.clone()), short);
        assert_eq!(told(format!("{short}y")), format!("{short}{CUT}"));
        assert_eq!(told("é".repeat(LONGEST)), format!("{}{CUT}", "é".repeat(LONGEST / 6)));
    }

    #[test]
    fn every_class_has_its_code_and_keeps_its_sentence() {
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
