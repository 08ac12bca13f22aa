//! Entry points for fuzzing: each takes any bytes, reads them as the server does, and checks what must hold whatever they are.
//! `server/fuzz` runs them; a test runs them over its corpus. Only with the feature `fuzzing`.

use std::{collections::BTreeMap, io::IoSlice, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

pub use crate::hpack::fuzzing::hpack;
use crate::{
    error::Code,
    frames::{self, Head},
    pings::PingPolicy,
    protocol::{Event, Limits, Protocol},
    send_queue::MOST_SLICES,
};

/// The smallest windows that there are, which no input is long enough to use up, so that none is opened again: when that happens depends on
/// how the bytes of the client are cut.
const LIMITS: Limits = Limits {
    stream_window: frames::DEFAULT_WINDOW,
    connection_window: frames::DEFAULT_WINDOW,
    max_frame: 1 << 20,
    max_calls: 4,
    max_header_list: 2000,
    pings: PingPolicy { min_interval: Duration::from_secs(300), max_strikes: 2, permits_without_calls: false },
};
/// Bytes of the body of each response.
const RESPONSE: usize = 100;

/// Reads what a client sends after its handshake. The first byte says into pieces of which length it is cut.
///
/// What comes of it, calls, their bodies, faults and all that is sent, is the same however it is cut; there are no more calls than permitted,
/// and what is sent consists of frames.
pub fn connection(data: &[u8]) {
    let Some((step, said)) = data.split_first() else { return };
    let cut = Outcome::of(said, usize::from(*step) + 1);
    assert_eq!(cut, Outcome::of(said, usize::MAX));
    assert_eq!(cut, Outcome::of(said, 1));
}

/// What came of the bytes of a client.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// All events, in words; data that follows data of the same call is put together.
    events: Vec<String>,
    /// The body of the call that had the last event.
    body: (usize, Vec<u8>),
    error: Option<Code>,
    sent: Vec<u8>,
}

impl Outcome {
    fn of(said: &[u8], step: usize) -> Self {
        let (mut outcome, mut protocol, now) = (Self::default(), Protocol::new(LIMITS), Instant::now());
        // Calls that are being answered, and how much of their responses is left.
        let mut answers = BTreeMap::new();
        let mut handshake = frames::PREFACE.to_vec();
        frames::put(&mut handshake, frames::SETTINGS, 0, 0, &[]);
        for mut input in [&handshake[..]].into_iter().chain(said.chunks(step)) {
            loop {
                let event = match protocol.receive(&mut input, now) {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(error) => {
                        outcome.error = Some(error.code);
                        protocol.fail(error);
                        outcome.send(&mut protocol);
                        outcome.finish();
                        return outcome;
                    }
                };
                protocol.begin_batch();
                outcome.take(event, &mut protocol, &mut answers);
                answer(&mut protocol, &mut answers);
                assert!(protocol.calls() <= LIMITS.max_calls as usize);
                outcome.send(&mut protocol);
            }
            assert!(input.is_empty(), "bytes are left that nobody has read");
        }
        outcome.finish();
        outcome
    }

    fn take(&mut self, event: Event<'_>, protocol: &mut Protocol, answers: &mut BTreeMap<usize, usize>) {
        let text = match event {
            Event::Data { key, bytes, has_ended } => {
                protocol.free(Some(key), bytes.len());
                if self.body.0 != key {
                    self.finish();
                    self.body.0 = key;
                }
                self.body.1.extend_from_slice(bytes);
                if !has_ended {
                    return;
                }
                protocol.respond(key, 200, &HeaderMap::new(), false);
                answers.insert(key, RESPONSE);
                format!("the end of {key}")
            }
            Event::Called { key, request, has_ended } => {
                if has_ended {
                    protocol.respond(key, 200, &HeaderMap::new(), true);
                }
                format!("call {key} {} {} {has_ended}", request.method(), request.path())
            }
            Event::TooLarge { key } => {
                protocol.respond(key, 431, &HeaderMap::new(), true);
                format!("call {key} with too large headers")
            }
            Event::Reset { key } => {
                answers.remove(&key);
                if self.body.0 == key {
                    self.body.1.clear(); // the part that came before the fault, which may be all of a frame or nothing
                }
                format!("the reset of {key}")
            }
            Event::WindowsOpened => "windows".into(),
        };
        self.finish();
        self.events.push(text);
    }

    /// Puts the body that came so far behind the events.
    fn finish(&mut self) {
        let (key, body) = std::mem::take(&mut self.body);
        if !body.is_empty() {
            self.events.push(format!("data of {key}: {body:?}"));
        }
    }

    /// Takes what is to be sent, whole frames.
    fn send(&mut self, protocol: &mut Protocol) {
        let begin = self.sent.len();
        while !protocol.queue().is_empty() {
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let count = protocol.queue().slices(&mut slices);
            let before = self.sent.len();
            slices[..count].iter().for_each(|slice| self.sent.extend_from_slice(slice));
            protocol.queue().advance(self.sent.len() - before);
        }
        let mut rest = &self.sent[begin..];
        while let Some((head, behind)) = rest.split_first_chunk() {
            rest = &behind[Head::from_bytes(*head).length as usize..];
        }
        assert!(rest.is_empty(), "a part of a frame is sent");
    }
}

/// Sends of each response as much as may be sent.
fn answer(protocol: &mut Protocol, answers: &mut BTreeMap<usize, usize>) {
    answers.retain(|key, left| {
        let part = protocol.sendable(*key).min(*left);
        if part > 0 {
            protocol.send_data(*key, part, false, |queue| queue.add(Bytes::from(vec![0; part])));
            *left -= part;
        }
        if *left == 0 {
            protocol.end(*key, &HeaderMap::new());
        }
        *left > 0
    });
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        sync::LazyLock,
    };

    use proptest::{collection::vec, prelude::*, sample::Index};
    use server_core::fuzzing::replay;

    use super::*;

    fn corpus(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
    }

    /// What clients say, without the byte that says how it is cut.
    static CONNECTIONS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let files = fs::read_dir(corpus("http2_connection")).unwrap();
        files.map(|file| fs::read(file.unwrap().path()).unwrap().split_off(1)).collect()
    });

    #[test]
    fn every_input_of_the_corpus_is_read() {
        replay(&corpus("hpack"), hpack);
        replay(&corpus("http2_connection"), connection);
    }

    proptest! {
        #[test]
        fn some_of_the_corpus_with_wrong_bytes_keeps_the_rules(
            parts in vec(any::<Index>(), 1..4),
            wrong in vec((any::<Index>(), any::<u8>()), 0..6),
            step in any::<u8>(),
        ) {
            let mut data = vec![step];
            for part in parts {
                data.extend_from_slice(&CONNECTIONS[part.index(CONNECTIONS.len())]);
            }
            for (at, byte) in wrong {
                *at.get_mut(&mut data) = byte;
            }
            connection(&data);
        }
    }
}
