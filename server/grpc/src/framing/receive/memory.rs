//! The memory of a message while the connection receives into it.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::BufMut;
use server_core::input_memory::{ReceiveBuffer, Unfilled};
use server_http2::Destination;
use server_tls::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// The memory of a message.
pub(crate) struct Memory(pub(super) ReceiveBuffer);

impl Destination for Memory {
    fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn poll_read(&mut self, stream: &mut Stream, context: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        match self.0.unfilled() {
            Unfilled::Heap(bytes) => pin!(stream.read_buf(&mut bytes.limit(limit))).poll(context),
            Unfilled::Placed(room) => {
                let limit = limit.min(room.len());
                let mut unfilled = ReadBuf::new(&mut room[..limit]);
                let read = Pin::new(stream).poll_read(context, &mut unfilled);
                let count = unfilled.filled().len();
                self.0.filled(count);
                read.map_ok(|()| count)
            }
        }
    }

    fn is_initialized(&self) -> bool {
        self.0.is_placed()
    }

    fn extend_with(&mut self, room: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        match self.0.unfilled() {
            Unfilled::Heap(bytes) => {
                let begin = bytes.len();
                bytes.resize(begin + room, 0);
                let count = write(&mut bytes[begin..]);
                bytes.truncate(begin + count);
            }
            Unfilled::Placed(unfilled) => {
                let room = room.min(unfilled.len());
                let count = write(&mut unfilled[..room]);
                self.0.filled(count);
            }
        }
    }
}
