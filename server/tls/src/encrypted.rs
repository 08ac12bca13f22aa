//! An encrypted connection.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::transport::{Progress, Transport};

/// An encrypted connection.
#[derive(Debug)]
pub struct Encrypted(pub(crate) TlsStream<Transport>);

impl Encrypted {
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            outcome => outcome,
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.0.get_ref().0.progress()
    }
}
