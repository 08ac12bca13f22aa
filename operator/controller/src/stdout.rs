//! What a command has to say, on standard output.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Prints a text. Nobody reading any more is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `triton-operator crds | head`
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
