//! `TRITONSERVER_Error`: made and read by libraries.

use crate::abi::{
    Handle, Text,
    export::exports,
    numbers::ErrorCode,
    objects::{Error, text},
};

exports! {
    /// An error, for the library to return or to delete.
    fn TRITONSERVER_ErrorNew(code: ErrorCode, message: Text) -> Handle<Error> {
        Handle::new(Error { code, message: text(&message.get().unwrap_or_default()) })
    }

    /// Deletes an error that the library was given.
    fn TRITONSERVER_ErrorDelete(error: Handle<Error>) -> () {
        let _ = error.take(); // nobody could be told that it is none
    }

    /// Its class; of a handle that is no error, that it is unknown.
    fn TRITONSERVER_ErrorCode(error: Handle<Error>) -> ErrorCode {
        error.get().map_or(ErrorCode::UNKNOWN, |error| error.code)
    }

    /// Its class as text, for as long as the process is there.
    fn TRITONSERVER_ErrorCodeString(error: Handle<Error>) -> Text {
        let code = error.get().map_or(ErrorCode::UNKNOWN, |error| error.code);
        Text::of(code.text().unwrap_or(c"<invalid code>"))
    }

    /// Its sentence, for as long as the error is there.
    fn TRITONSERVER_ErrorMessage(error: Handle<Error>) -> Text {
        error.get().map_or(Text::of(c"<no error>"), |error| Text::of(&error.message))
    }
}
