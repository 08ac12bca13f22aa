//! Frames that have not come yet, when a client sends a large body in frames of one length: where they would lie in what is
//! read next. So one read puts their payloads where they belong and their heads elsewhere. What was read is compared with
//! that afterwards, and what lies elsewhere than expected is taken out again. Pure.

use std::io::IoSliceMut;

use tokio::time::Instant;

use crate::{
    error::ConnectionError,
    frames::HEAD,
    protocol::{Coming, Event, Protocol},
};

/// Frames that are expected in one read, behind the one that has begun.
pub(super) const MOST_FRAMES: usize = 32;
/// Shorter frames are not worth it. Units: bytes.
const LEAST_FRAME: usize = 4 << 10;

/// Heads of frames, as they were read.
pub(super) type Heads = [[u8; HEAD]; MOST_FRAMES];

/// What is expected in the bytes that come next: the rest of a frame of data, then frames as long as that was, of the same call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FramesAhead {
    /// Bytes of the body up to the first head.
    first: usize,
    /// Bytes of the body from head to head.
    frame: usize,
    /// Bytes of the body in all; the last frame is expected up to there.
    body: usize,
}

/// What was read as it was expected.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// Bytes of the body.
    pub(super) body: usize,
    /// Bytes that were read in all, heads included.
    wire: usize,
    /// What the last of them have come to.
    pub(super) event: Option<Event<'static>>,
}

impl FramesAhead {
    /// Behind that; there is room for so many bytes of the body, and no more than `most` are to be read. `None` if no further
    /// frame is to be expected.
    pub(super) fn new(coming: Coming, room: usize, most: usize) -> Option<Self> {
        let Coming { left, frame, is_last, .. } = coming;
        if is_last || frame < LEAST_FRAME || left >= room.min(most) {
            return None;
        }
        let heads = (most - left).div_ceil(HEAD + frame).min(MOST_FRAMES);
        let body = (most.saturating_sub(heads * HEAD)).min(left + heads * frame).min(room);
        (body > left).then_some(Self { first: left, frame, body })
    }

    /// Bytes of the body.
    pub(super) fn body(&self) -> usize {
        self.body
    }

    /// The pieces of the body, as ranges in it: there is a head before each but the first.
    fn pieces(self) -> impl Iterator<Item = (usize, usize)> {
        let mut begin = 0;
        std::iter::from_fn(move || {
            let end = if begin == 0 { self.first } else { begin + self.frame }.min(self.body);
            let piece = (begin, end);
            begin = end;
            (piece.0 < piece.1).then_some(piece)
        })
    }

    /// Where to read to, in this order: `room` is for the body, and as long as that.
    pub(super) fn slices<'a>(&self, mut room: &'a mut [u8], heads: &'a mut Heads) -> Slices<'a> {
        let mut slices = Slices { slices: std::array::from_fn(|_| IoSliceMut::new(&mut [])), count: 0 };
        let mut heads = heads.iter_mut();
        for (begin, end) in self.pieces() {
            if begin > 0 {
                let Some(head) = heads.next() else { break };
                slices.push(head);
            }
            let (piece, rest) = room.split_at_mut(end - begin);
            slices.push(piece);
            room = rest;
        }
        slices
    }

    /// Tells the protocol of `count` bytes that were read, as far as they lie where they were expected: those of the body of
    /// that call are where they belong.
    ///
    /// Errors: the connection has to end.
    pub(super) fn accept(
        &self,
        protocol: &mut Protocol,
        key: usize,
        count: usize,
        heads: &Heads,
        now: Instant,
    ) -> Result<Accepted, ConnectionError> {
        let mut accepted = Accepted::default();
        let mut heads = heads.iter();
        for (begin, end) in self.pieces() {
            if begin > 0 {
                let Some(head) = heads.next() else { break };
                let head = &head[..HEAD.min(count - accepted.wire)];
                let mut unread = head;
                accepted.event = protocol.receive(&mut unread, now)?.map(Event::without_bytes);
                accepted.wire += head.len() - unread.len();
                if accepted.event.is_some() {
                    break;
                }
            }
            let Some(coming) = protocol.direct().filter(|coming| coming.key == key) else { break };
            let here = coming.left.min(end - begin).min(count - accepted.wire);
            if here == 0 {
                break;
            }
            protocol.free(Some(key), here);
            accepted.wire += here;
            accepted.body += here;
            accepted.event = protocol.received(here, now)?;
            if accepted.event.is_some() || here < end - begin || coming.left > end - begin {
                break;
            }
        }
        Ok(accepted)
    }

    /// The bytes behind those that were accepted, of `count` that were read.
    pub(super) fn others(&self, accepted: &Accepted, count: usize, room: &[u8], heads: &Heads) -> Vec<u8> {
        let mut others = Vec::with_capacity(count - accepted.wire);
        let mut at = 0;
        let mut add = |bytes: &[u8]| {
            let end = bytes.len().min(count.saturating_sub(at));
            others.extend_from_slice(&bytes[accepted.wire.saturating_sub(at).min(end)..end]);
            at += bytes.len();
        };
        let mut heads = heads.iter();
        for (begin, end) in self.pieces() {
            if begin > 0 {
                let Some(head) = heads.next() else { break };
                add(head);
            }
            add(&room[begin..end]);
        }
        others
    }
}

/// Where one read puts what it reads.
pub(super) struct Slices<'a> {
    slices: [IoSliceMut<'a>; 2 * MOST_FRAMES + 1],
    count: usize,
}

impl<'a> Slices<'a> {
    fn push(&mut self, slice: &'a mut [u8]) {
        self.slices[self.count] = IoSliceMut::new(slice);
        self.count += 1;
    }

    pub(super) fn as_mut(&mut self) -> &mut [IoSliceMut<'a>] {
        &mut self.slices[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*, prop_oneof, sample::Index};

    use super::*;
    use crate::{
        frames::{self, Head},
        pings::PingPolicy,
        protocol::Limits,
    };

    const LIMITS: Limits = Limits {
        stream_window: 1 << 20,
        connection_window: 1 << 20,
        max_frame: 1 << 20,
        max_calls: 10,
        max_header_list: 2000,
        pings: PingPolicy { min_interval: Duration::from_secs(300), max_strikes: 2, permits_without_calls: false },
    };

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let head = Head { length: payload.len() as u32, kind, flags, stream };
        [&head.to_bytes(), payload].concat()
    }

    fn call(stream: u32) -> Vec<u8> {
        let block = b"\x83\x86\x04\x02/a";
        frame(frames::HEADERS, frames::END_HEADERS, stream, block)
    }

    /// Two connections of whose calls the first and the second are open.
    fn begin() -> Protocol {
        let mut protocol = Protocol::new(LIMITS);
        let mut bytes = frames::PREFACE.to_vec();
        bytes.extend([frame(frames::SETTINGS, 0, 0, &[]), call(1), call(3)].concat());
        let mut input = &bytes[..];
        while protocol.receive(&mut input, Instant::now()).unwrap().is_some() {}
        protocol
    }

    /// What came of bytes: the bodies of both calls, other events, and how the connection ended.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Outcome {
        bodies: [Vec<u8>; 2],
        events: Vec<String>,
        error: Option<String>,
    }

    impl Outcome {
        fn handle(&mut self, protocol: &mut Protocol, event: &Event<'_>) {
            if let Event::Data { key, bytes, has_ended } = event {
                self.bodies[*key].extend_from_slice(bytes);
                protocol.free(Some(*key), bytes.len());
                if !has_ended {
                    return;
                }
            }
            self.events.push(match event {
                Event::Data { key, .. } => format!("end {key}"),
                event => format!("{event:?}"),
            });
        }

        fn receive(&mut self, protocol: &mut Protocol, mut input: &[u8]) {
            while self.error.is_none() {
                match protocol.receive(&mut input, Instant::now()) {
                    Ok(Some(event)) => self.handle(protocol, &event),
                    Ok(None) => return,
                    Err(error) => self.error = Some(error.to_string()),
                }
            }
        }

        /// Reads so many bytes as the frames that are expected; what is left of them.
        fn read<'a>(&mut self, protocol: &mut Protocol, input: &'a [u8], room: usize, most: usize) -> &'a [u8] {
            let coming = protocol.direct();
            let Some((coming, ahead)) = coming.and_then(|coming| Some((coming, FramesAhead::new(coming, room, most)?)))
            else {
                let (now, later) = input.split_at(input.len().min(1000));
                self.receive(protocol, now);
                return later;
            };
            assert!(ahead.body() <= room && ahead.body() > coming.left);
            let (mut room, mut heads) = (vec![0xee; ahead.body()], [[0; HEAD]; MOST_FRAMES]);
            let mut rest = input;
            let mut slices = ahead.slices(&mut room, &mut heads);
            let slices = slices.as_mut();
            assert!(slices.iter().map(|slice| slice.len()).sum::<usize>() <= most);
            for slice in slices {
                let (now, later) = rest.split_at(rest.len().min(slice.len()));
                slice[..now.len()].copy_from_slice(now);
                rest = later;
            }
            let count = input.len() - rest.len();
            match ahead.accept(protocol, coming.key, count, &heads, Instant::now()) {
                Ok(accepted) => {
                    let others = ahead.others(&accepted, count, &room, &heads);
                    self.bodies[coming.key].extend_from_slice(&room[..accepted.body]);
                    if let Some(event) = &accepted.event {
                        self.handle(protocol, event);
                    }
                    self.receive(protocol, &others);
                }
                Err(error) => self.error = Some(error.to_string()),
            }
            rest
        }
    }

    /// Frames of the length that is expected, and all that may come between.
    fn said() -> impl Strategy<Value = Vec<u8>> {
        let data = |flags: u8, stream: u32, payload: Vec<u8>| frame(frames::DATA, flags, stream, &payload);
        let one = prop_oneof![
            12 => any::<u8>().prop_map(move |seed| data(0, 1, (0..4096_u32).map(|at| (at % 251) as u8 ^ seed).collect())),
            2 => (0..9000_usize, any::<u8>()).prop_map(move |(length, byte)| data(0, 1, vec![byte; length])),
            1 => (1..5000_usize, 0..5000_usize).prop_map(move |(length, padding)| {
                let mut payload = vec![7; length];
                payload[0] = padding as u8;
                data(frames::PADDED, 1, payload)
            }),
            1 => (0..5000_usize).prop_map(move |length| data(0, 3, vec![3; length])),
            1 => Just(frame(frames::WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0])),
            1 => Just(frame(frames::SETTINGS, 0, 0, &[])),
            1 => Just(frame(0xfa, 0, 0, &[1; 20])),
            1 => Just(call(5)),
            1 => any::<u8>().prop_map(move |byte| data(frames::END_STREAM, 1, vec![byte; 4096])),
            1 => Just(frame(frames::RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ];
        vec(one, 1..40).prop_map(|frames| frames.concat())
    }

    proptest! {
        #[test]
        fn what_is_read_as_expected_comes_to_the_same(
            said in said(),
            ends in vec(any::<Index>(), 0..4),
            room in 5000..60_000_usize,
            most in 5000..60_000_usize,
        ) {
            let said = [frame(frames::DATA, 0, 1, &[1; 4096]), said].concat();
            let mut plain = Outcome::default();
            plain.receive(&mut begin(), &said);
            // however much is there at a time
            let mut ends: Vec<usize> = ends.iter().map(|end| end.index(said.len())).collect();
            ends.extend([0, said.len()]);
            ends.sort_unstable();
            let (mut outcome, mut protocol) = (Outcome::default(), begin());
            for part in ends.windows(2) {
                let mut input = &said[part[0]..part[1]];
                while !input.is_empty() && outcome.error.is_none() {
                    input = outcome.read(&mut protocol, input, room, most);
                }
            }
            prop_assert_eq!(outcome, plain);
        }
    }

    #[test]
    fn frames_of_one_length_are_all_where_they_are_expected() {
        let mut protocol = begin();
        let body: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let said: Vec<u8> = body.chunks(16_384).flat_map(|part| frame(frames::DATA, 0, 1, part)).collect();
        let (mut outcome, mut input) = (Outcome::default(), &said[10_000..]);
        outcome.receive(&mut protocol, &said[..10_000]);
        let mut reads = 0;
        while !input.is_empty() {
            let ahead = protocol.direct().and_then(|coming| FramesAhead::new(coming, 400_000, 100_000));
            assert!(ahead.is_some_and(|ahead| ahead.body() > 99_000), "{ahead:?}");
            input = outcome.read(&mut protocol, input, 400_000, 100_000);
            reads += 1;
        }
        assert_eq!((reads, outcome.bodies[0] == body, outcome.error), (3, true, None));
    }
}
