use std::{io::Write, sync::Mutex};

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use futures_util::{Stream, StreamExt, stream};
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use server_shm::{Segment, SegmentPool};
use tokio::sync::mpsc;
use tonic::Code;

use super::*;

impl<S: Stream<Item = Chunk> + Unpin> Source for StreamBody<S> {
    fn poll_data(&mut self, context: &Context<'_>) -> Poll<Option<Result<Bytes, Reset>>> {
        let frame = Pin::new(self).poll_frame(&mut Context::from_waker(context.waker()));
        frame.map(|frame| {
            frame.map(|frame| {
                frame.map_err(|never| match never {}).and_then(|frame| frame.into_data().map_err(|_| Reset))
            })
        })
    }

    fn is_at_end(&self) -> bool {
        self.is_end_stream()
    }
}

type Chunk = Result<Frame<Bytes>, std::convert::Infallible>;

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

fn limits(max_bytes: usize, budget: usize) -> Limits {
    Limits { max_bytes, budget: Arc::new(ByteBudget::new(budget)) }
}

/// The messages of a body that arrives in these pieces, and then ends.
fn messages(
    pieces: Vec<Bytes>,
    encoding: Option<Encoding>,
    limits: &Limits,
) -> Messages<StreamBody<impl Stream<Item = Chunk> + Unpin>> {
    let frames = stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
    Messages::new(StreamBody::new(frames), encoding, limits.clone(), BlockingPool::default())
}

/// The same of a body that does not end.
fn unfinished(pieces: Vec<Bytes>, limits: &Limits) -> Messages<StreamBody<impl Stream<Item = Chunk> + Unpin>> {
    let frames = stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece)))).chain(stream::pending());
    Messages::new(StreamBody::new(frames), None, limits.clone(), BlockingPool::default())
}

async fn next<B: Source>(messages: &mut Messages<B>) -> Option<Result<Bytes, Status>> {
    poll_fn(|context| messages.poll_next(context)).await
}

async fn poll_once<B: Source>(messages: &mut Messages<B>) -> Poll<Option<Result<Bytes, Status>>> {
    poll_fn(|context| Poll::Ready(messages.poll_next(context))).await
}

fn pieces(bytes: &[u8], size: usize) -> Vec<Bytes> {
    bytes.chunks(size).map(Bytes::copy_from_slice).collect()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, message: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
}

#[tokio::test]
async fn messages_arrive_in_order_whatever_the_frames() {
    let sent: Vec<Vec<u8>> = [0usize, 1, 5, 100_000, 3].iter().map(|&length| vec![length as u8; length]).collect();
    let wire: Vec<u8> = sent.iter().flat_map(|message| framed(0, message)).collect();
    for size in [1, 2, 4, 5, 6, 7, 16_384, 99_999, 1_000_000] {
        let limits = limits(100_000, 100_006);
        let mut messages = messages(pieces(&wire, size), None, &limits);
        for message in &sent {
            let received = next(&mut messages).await.unwrap().unwrap();
            assert!(received == message, "pieces of {size}");
            assert_eq!(limits.budget.in_use(), message.len());
        }
        assert!(next(&mut messages).await.is_none());
        assert_eq!(limits.budget.in_use(), 0);
    }
}

#[tokio::test]
async fn a_declared_length_alone_takes_no_memory() {
    let limits = limits(i32::MAX as usize, 4 << 30);
    let mut messages = unfinished(vec![Bytes::from_static(b"\0\x7f\xff\xff\xff"), Bytes::from_static(b"x")], &limits);
    assert!(poll_once(&mut messages).await.is_pending());
    assert_eq!(limits.budget.in_use(), FIRST_CAPACITY);
    let State::Partial(partial) = &messages.state else { panic!("a message has begun") };
    assert!(partial.data.capacity() <= FIRST_CAPACITY);
    drop(messages);
    assert_eq!(limits.budget.in_use(), 0);
}

#[tokio::test]
async fn messages_that_come_at_once_do_not_refuse_each_other_half_way() {
    let limits = limits(1_000_000, 3_500_000);
    let wire = Bytes::from(framed(0, &vec![7; 1_000_000]));
    // Ten messages, a frame of each in turn: three have a place and come whole, the others are refused by their first frame.
    let mut calls: Vec<_> = (0..10)
        .map(|_| {
            let (frames, body) = mpsc::unbounded_channel::<Bytes>();
            let body = stream::unfold(body, async |mut body| Some((Chunk::Ok(Frame::data(body.recv().await?)), body)));
            let body = StreamBody::new(Box::pin(body));
            (frames, Messages::new(body, None, limits.clone(), BlockingPool::default()))
        })
        .collect();
    let (mut received, mut refused) = (Vec::new(), 0);
    for position in (0..wire.len()).step_by(16 << 10) {
        let frame = wire.slice(position..wire.len().min(position + (16 << 10)));
        let mut rest = Vec::new();
        for (frames, mut messages) in calls {
            frames.send(frame.clone()).unwrap();
            match poll_once(&mut messages).await {
                Poll::Ready(Some(Ok(message))) => received.push(message),
                Poll::Ready(end) => {
                    assert_eq!((position, end.unwrap().unwrap_err().code()), (0, Code::Unavailable));
                    refused += 1;
                }
                Poll::Pending => rest.push((frames, messages)),
            }
        }
        calls = rest;
        tokio::task::yield_now().await; // the channels of one task give so much without a pause, and no more
    }
    assert_eq!((received.len(), refused), (3, 7));
}

#[tokio::test]
async fn a_long_message_is_received_where_its_beginning_says() {
    let pool = SegmentPool::new(server_shm::Limits { idle: 0, ..Default::default() });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let find: FindPlacement = {
        let (pool, asked) = (pool.clone(), asked.clone());
        Arc::new(move |beginning: &[u8]| {
            asked.lock().unwrap().push(beginning.len());
            (beginning[0] == b'y').then(|| InputPlacement { memory: pool.clone(), tensors_at: 3 })
        })
    };
    let long = |first: u8| [&[first][..], &[7; 199_999]].concat();
    let wire = [framed(0, &long(b'y')), framed(0, &long(b'n')), framed(0, &[b'y'; 60_000])].concat();
    let limits = limits(i32::MAX as usize, 1 << 30);
    let mut messages = messages(pieces(&wire, 1000), None, &limits).placed_by(find.clone());
    for (expected, is_placed) in [(long(b'y'), true), (long(b'n'), false), (vec![b'y'; 60_000], false)] {
        let received = next(&mut messages).await.unwrap().unwrap();
        assert!(received == expected);
        assert_eq!((limits.budget.in_use(), pool.bytes() > 0), (expected.len(), is_placed));
        let found = Segment::of(&received.slice(3..).into());
        assert_eq!(found.map(|(_, offset)| offset), is_placed.then_some(64));
    }
    // once for each that is long, when a 64th of it was there
    assert_eq!(*asked.lock().unwrap(), [3995, 3990]);
    assert!(next(&mut messages).await.is_none());
    assert_eq!((limits.budget.in_use(), pool.bytes()), (0, 0));

    // what is inflated goes elsewhere, and what came in one piece stays where it is
    let wire = framed(1, &gzip(&(0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()));
    let mut messages =
        super::tests::messages(pieces(&wire, 1000), Some(Encoding::Gzip), &limits).placed_by(find.clone());
    assert_eq!(next(&mut messages).await.unwrap().unwrap().len(), 800_000);
    let mut messages = super::tests::messages(vec![framed(0, &long(b'y')).into()], None, &limits).placed_by(find);
    assert_eq!(next(&mut messages).await.unwrap().unwrap().len(), 200_000);
    assert_eq!((asked.lock().unwrap().len(), pool.made()), (2, 1));
}

#[tokio::test]
async fn a_long_message_that_has_no_place_in_the_budget_or_the_pool_takes_none() {
    let pool = SegmentPool::new(server_shm::Limits { total: 100_000, ..Default::default() });
    let find: FindPlacement = {
        let pool = pool.clone();
        Arc::new(move |_: &[u8]| Some(InputPlacement { memory: pool.clone(), tensors_at: 0 }))
    };
    let wire = framed(0, &[7; 200_000]);
    let roomy = limits(i32::MAX as usize, 1 << 30);
    let mut messages = messages(pieces(&wire, 1000), None, &roomy).placed_by(find.clone());
    let received = next(&mut messages).await.unwrap().unwrap();
    assert!(received == [7; 200_000][..] && Segment::of(&received.into()).is_none());
    let narrow = limits(i32::MAX as usize, 250_000);
    let _held = narrow.budget.reserve(100_000).unwrap();
    let mut messages = super::tests::messages(pieces(&wire, 1000), None, &narrow).placed_by(find);
    assert_eq!(next(&mut messages).await.unwrap().unwrap_err().code(), Code::Unavailable);
    drop(messages);
    assert_eq!((narrow.budget.in_use(), pool.made()), (100_000, 0));
}

#[test]
fn memory_follows_what_has_arrived() {
    assert_eq!(capacity(1, 10), 10);
    assert_eq!(capacity(1, i32::MAX as usize), FIRST_CAPACITY);
    assert_eq!(capacity(16 << 10, 600_000), 600_000);
    assert_eq!(capacity(16 << 10, i32::MAX as usize), 1 << 20);
    assert_eq!(capacity(usize::MAX, usize::MAX), usize::MAX);
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
    let limits = limits(1000, 0);
    let mut messages = unfinished(vec![Bytes::from_static(b"\0\0\0\x03\xe9")], &limits);
    let result = next(&mut messages).await.unwrap();
    refused(result, Code::ResourceExhausted, "Received message larger than max (1001 vs. 1000)");
    // So is a message that is longer than the whole budget.
    let limits = self::limits(1000, 999);
    let mut messages = unfinished(vec![Bytes::from_static(b"\0\0\0\x03\xe8")], &limits);
    let status = next(&mut messages).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "it would never be received");
    assert!(status.message().starts_with("a request of 1000 bytes is larger than all requests"), "{status:?}");
}

#[tokio::test]
async fn bytes_count_until_their_last_slice_is_dropped() {
    let limits = limits(1000, 1000);
    let wire = [framed(0, &[1; 600]), framed(0, &[2; 500])].concat();
    for size in [10, 10_000] {
        let mut messages = messages(pieces(&wire, size), None, &limits);
        let first = next(&mut messages).await.unwrap().unwrap();
        let slice = first.slice(10..20);
        drop(first);
        assert_eq!(limits.budget.in_use(), 600);
        let status = next(&mut messages).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("--max-inflight-request-bytes"), "{status:?}");
        drop((slice, messages));
        assert_eq!(limits.budget.in_use(), 0);
    }
}

#[tokio::test]
async fn a_message_of_one_frame_is_not_copied() {
    let limits = limits(1000, 0);
    let wire = Bytes::from(framed(0, &[7; 1000]));
    let message = messages(vec![wire.clone()], None, &limits).only().await.unwrap();
    assert_eq!(message.as_ptr(), wire[PREFIX..].as_ptr());
}

#[tokio::test]
async fn compressed_messages_are_inflated_within_limit_and_budget() {
    let limits = limits(1 << 20, 2 << 20);
    for length in [0, 1, STEP_AND_ONE, MAX_INLINE, MAX_INLINE + 1, 1 << 20] {
        let data: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        for (encoding, compressed) in [(Encoding::Gzip, gzip(&data)), (Encoding::Deflate, zlib(&data))] {
            let wire = framed(1, &compressed);
            let message = messages(pieces(&wire, 1000), Some(encoding), &limits).only().await.unwrap();
            assert!(message == data, "{length} bytes with {encoding:?}");
            assert_eq!(limits.budget.in_use(), length);
            drop(message);
            assert_eq!(limits.budget.in_use(), 0);
        }
    }
    // Not every message of a call with an encoding is compressed.
    let plain = messages(vec![framed(0, b"plain").into()], Some(Encoding::Gzip), &limits).only().await.unwrap();
    assert_eq!(plain, "plain");
}

const STEP_AND_ONE: usize = (64 << 10) + 1;

#[tokio::test]
async fn a_message_that_inflates_too_far_is_refused() {
    let bomb = framed(1, &gzip(&vec![0; 64 << 20]));
    let small = limits(1 << 20, 0);
    let result = messages(vec![bomb.clone().into()], Some(Encoding::Gzip), &small).only().await;
    refused(result, Code::ResourceExhausted, "Received message larger than max (1048577 vs. 1048576)");
    let limits = limits(i32::MAX as usize, 1 << 20);
    let result = messages(vec![bomb.into()], Some(Encoding::Gzip), &limits).only().await;
    // it never has a place, whatever else is in flight
    let error = result.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("is larger than all requests in flight may be together"), "{error}");
    assert_eq!((small.budget.in_use(), limits.budget.in_use()), (0, 0));
}

#[tokio::test]
async fn malformed_messages_are_refused() {
    let limits = limits(1000, 0);
    for (wire, encoding, text) in [
        (framed(1, b"x"), None, "a message is marked as compressed, but the call has no grpc-encoding"),
        (framed(7, b"x"), None, "a message has the flag 7, expected 0 or 1"),
        (framed(1, b"this is no gzip"), Some(Encoding::Gzip), "cannot decompress a message: invalid gzip header"),
        (vec![0, 0], None, "the request ends within a message"),
        (framed(0, b"cut short")[..8].to_vec(), None, "the request ends within a message"),
    ] {
        let mut messages = messages(vec![wire.into()], encoding, &limits);
        refused(next(&mut messages).await.unwrap(), Code::Internal, text);
    }
}

#[tokio::test]
async fn a_unary_call_has_one_message() {
    let limits = limits(1000, 1000);
    let one = framed(0, b"one");
    let two = [one.clone(), one.clone()].concat();
    assert_eq!(messages(pieces(&one, 3), None, &limits).only().await.unwrap(), "one");
    for (wire, size, text) in [
        (&[][..], 1, "a unary call has one request message, but none came"),
        (&two, 100, "a unary call has one request message, but more bytes follow it"),
        (&two, 8, "a unary call has one request message, but more bytes follow it"),
    ] {
        refused(messages(pieces(wire, size), None, &limits).only().await, Code::Unimplemented, text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stops_coming_ends_its_call() {
    let limits = limits(1000, 1000);
    let text = "the request message stopped coming for 60 seconds";
    for pieces in [vec![b"\0".as_slice()], vec![b"\0\0\0\0\x03", b"x"], vec![b"\0\0\0\0\x01x"]] {
        let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from_static).collect();
        refused(unfinished(pieces, &limits).only().await, Code::DeadlineExceeded, text);
    }
    // A stream may pause between messages, and bytes that keep coming reset the clock.
    let mut idle = unfinished(vec![framed(0, b"one").into()], &limits);
    next(&mut idle).await.unwrap().unwrap();
    assert!(tokio::time::timeout(STALL_TIMEOUT * 10, next(&mut idle)).await.is_err());
    let slow = stream::unfold(framed(0, &[7; 100]).into_iter(), async |mut rest| {
        let byte = rest.next()?;
        sleep(STALL_TIMEOUT / 2).await;
        Some((Chunk::Ok(Frame::data(Bytes::from(vec![byte]))), rest))
    });
    let mut slow = Messages::new(StreamBody::new(Box::pin(slow)), None, limits.clone(), BlockingPool::default());
    assert_eq!(slow.only().await.unwrap(), [7; 100].as_slice());
}

#[tokio::test(start_paused = true)]
async fn a_large_message_must_arrive_at_a_least_rate() {
    let limits = limits(8 << 20, 8 << 20);
    let wire = Bytes::from(framed(0, &vec![7; 8 << 20]));
    for (piece, is_received) in [(LARGE / 8, true), (1, false)] {
        let mut rest = wire.clone();
        let first = rest.split_to(4 << 20);
        let slow = stream::unfold((Some(first), rest), move |(first, mut rest)| async move {
            if let Some(first) = first {
                return Some((Chunk::Ok(Frame::data(first)), (None, rest)));
            }
            if rest.is_empty() {
                return None;
            }
            sleep(STALL_TIMEOUT / 6).await;
            let piece = rest.split_to(piece.min(rest.len()));
            Some((Chunk::Ok(Frame::data(piece)), (None, rest)))
        });
        let mut slow = Messages::new(StreamBody::new(Box::pin(slow)), None, limits.clone(), BlockingPool::default());
        assert_eq!(slow.only().await.is_ok(), is_received);
    }
}
