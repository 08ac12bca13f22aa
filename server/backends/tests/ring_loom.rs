//! The two ends of a ring in every order in which they can meet: each message comes once and in its turn, and nobody sleeps for ever. Run by
//! `e2e/loom`; without `cfg(model_check)` there is nothing here.
#![cfg(model_check)]
#![allow(clippy::unwrap_used, dead_code)]

#[path = "../src/python/ring.rs"]
mod ring;

use std::collections::VecDeque;

use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};
use ring::{Next, Put, Reader, Ring, Writer};

/// The ring, with room for two small messages, and the socket beside it: a doorbell has no number.
struct Channel {
    ring: Ring<4>,
    socket: Mutex<VecDeque<Option<u8>>>,
    arrived: Condvar,
}

impl Channel {
    fn new() -> Arc<Self> {
        Arc::new(Self { ring: Ring::new(), socket: Mutex::new(VecDeque::new()), arrived: Condvar::new() })
    }

    fn send(&self, message: Option<u8>) {
        self.socket.lock().unwrap().push_back(message);
        self.arrived.notify_one();
    }

    /// Sleeps until something comes on the socket.
    fn receive(&self) -> Option<u8> {
        let mut socket = self.socket.lock().unwrap();
        loop {
            match socket.pop_front() {
                Some(message) => return message,
                None => socket = self.arrived.wait(socket).unwrap(),
            }
        }
    }

    /// Puts messages in; one that has no room, or is odd if `odd_are_elsewhere`, goes through the socket.
    fn write(&self, messages: u8, odd_are_elsewhere: bool) {
        let mut writer = Writer::default();
        for number in 0..messages {
            let put = if odd_are_elsewhere && number % 2 == 1 {
                Put::Full
            } else {
                writer.put(&self.ring, &[number]).unwrap()
            };
            match put {
                Put::Done => {}
                Put::DoneAndWake => self.send(None),
                Put::Full => {
                    while writer.put_elsewhere(&self.ring).unwrap() == Put::Full {
                        thread::yield_now();
                    }
                    self.send(Some(number));
                }
            }
        }
    }

    /// Takes messages out, as they come; where there is none it waits for so many of those that are to come.
    fn read(&self, messages: u8, patience: u8) {
        let mut reader = Reader::default();
        let mut early = None;
        for number in 0..messages {
            loop {
                match reader.next(&self.ring).unwrap() {
                    Some(Next::Here(length)) => {
                        let mut message = vec![0; length];
                        reader.take(&self.ring, &mut message);
                        assert_eq!(message, [number]);
                        break;
                    }
                    Some(Next::Elsewhere) if early.is_some() => {
                        reader.take(&self.ring, &mut []);
                        assert_eq!(early.take(), Some(number));
                        break;
                    }
                    None if !reader.may_sleep(&self.ring, patience.min(messages - number).into()) => continue,
                    _ => {}
                }
                let received = self.receive();
                reader.wake(&self.ring);
                assert!(received.is_none() || early.is_none(), "a message of the socket has its turn in the ring");
                early = received.or(early);
            }
        }
    }
}

fn check(messages: u8, odd_are_elsewhere: bool, patience: u8) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let channel = Channel::new();
        let writing = channel.clone();
        let writer = thread::spawn(move || writing.write(messages, odd_are_elsewhere));
        channel.read(messages, patience);
        writer.join().unwrap();
    });
}

#[test]
fn messages_come_in_their_turn_and_the_reader_is_woken() {
    check(3, false, 1);
}

#[test]
fn messages_of_the_socket_come_in_their_turn() {
    check(3, true, 1);
}

#[test]
fn a_reader_that_waits_for_several_messages_is_woken_when_they_are_there() {
    check(3, false, 2);
}
