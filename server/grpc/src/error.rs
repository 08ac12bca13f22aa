//! The one place where the server's errors become gRPC statuses.

use server_core::error::{Code, Error};
use tonic::Status;

/// The status a client receives: the error's sentence, word for word, under the code gRPC has for its class.
pub(crate) fn status(error: Error) -> Status {
    Status::new(code(error.code), error.message)
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
