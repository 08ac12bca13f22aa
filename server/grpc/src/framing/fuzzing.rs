//! Entry point for fuzzing of the framing: the messages of a call are the same, however its bytes are cut into frames.

use std::{
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
    vec,
};

use bytes::Bytes;
use server_core::byte_budget::ByteBudget;
use server_engine::BlockingPool;
use server_http2::Reset;
use tonic::Code;

use super::{
    compression::Encoding,
    receive::{Limits, Messages, Source},
};

/// Longest message, bytes: below what is inflated on other threads.
const MAX_BYTES: usize = 1 << 16;

/// Frames that are all there.
struct Frames(vec::IntoIter<Bytes>);

impl Source for Frames {
    fn poll_data(&mut self, _: &Context<'_>) -> Poll<Option<Result<Bytes, Reset>>> {
        Poll::Ready(self.0.next().map(Ok))
    }

    fn is_at_end(&self) -> bool {
        self.0.len() == 0
    }
}

/// The body of a call: a byte that says how its messages may be compressed, one that says how long its frames are, then its bytes.
pub fn framing(data: &[u8]) {
    let [encoding, step, body @ ..] = data else { return };
    let encoding = match encoding % 3 {
        0 => None,
        1 => Some(Encoding::Gzip),
        _ => Some(Encoding::Deflate),
    };
    let whole = messages(vec![Bytes::copy_from_slice(body)], encoding);
    let cut = match usize::from(*step) {
        // frames without bytes are frames too
        0 => body.iter().flat_map(|byte| [Bytes::new(), Bytes::copy_from_slice(&[*byte])]).collect(),
        step => body.chunks(step).map(Bytes::copy_from_slice).collect(),
    };
    assert_eq!(messages(cut, encoding), whole);
    let read: usize = whole.iter().flatten().map(Vec::len).sum();
    assert!(encoding.is_some() || read <= body.len(), "{read} of {} bytes", body.len());
}

/// The messages, and the error that ends them if there is one.
fn messages(frames: Vec<Bytes>, encoding: Option<Encoding>) -> Vec<Result<Vec<u8>, (Code, String)>> {
    static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);
    let budget = Arc::new(ByteBudget::new(1 << 20));
    let limits = Limits { max_bytes: MAX_BYTES, budget: budget.clone() };
    let mut messages = Messages::new(Frames(frames.into_iter()), encoding, limits, POOL.clone());
    let mut read = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match messages.poll_next(&mut context) {
            Poll::Ready(Some(Ok(message))) => {
                assert!(message.len() <= MAX_BYTES, "{} bytes", message.len());
                read.push(Ok(message.to_vec()));
            }
            Poll::Ready(Some(Err(status))) => {
                read.push(Err((status.code(), status.message().to_owned())));
                break;
            }
            Poll::Ready(None) => break,
            Poll::Pending => panic!("everything is there"),
        }
    }
    drop(messages);
    assert_eq!(budget.in_use(), 0, "bytes of a call that is gone are still counted");
    read
}
