//! The server's side of HTTP/2, as far as gRPC needs it: calls and their messages, no pushes, no priorities, no upgrade from HTTP/1.1.
//!
//! A [`Connection`] is polled by one task, which reads, polls the calls of the connection when they were woken, and sends what
//! one poll produced with one system call. Modules from the wire upwards: `frames` and `hpack` (bytes become heads and fields, and back),
//! `flow`, `streams`, `limits`, `pings`, `watch` (decisions, with time as an argument), `protocol` (the rules of the protocol: bytes become events, commands
//! become bytes; no I/O), `body`, `unread` and `wakes` (between the connection and its calls), `connection` (the only one that reads and writes; its `calls` are polled there).
//!
//! Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), gRPC's "gRPC over HTTP2" and guide to keepalive. Units: bytes, unless a name says else.
//! Errors: what a client does wrong ends its call with RST_STREAM, or the connection with GOAWAY, as RFC 9113 says for each
//! fault; a call that panics ends with INTERNAL_ERROR and no other does.

#![forbid(unsafe_code)]

mod body;
mod connection;
mod error;
mod flow;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hpack;
mod limits;
mod pings;
mod protocol;
mod request;
mod send_queue;
mod streams;
mod unread;
mod wakes;
mod watch;

use std::sync::Arc;

use http::Response;
use tokio::time::Instant;

pub use self::{
    body::{Body, Destination, Reset},
    connection::{Connection, End},
    pings::PingPolicy,
    request::Request,
    unread::UnreadBudget,
    watch::KeepAlive,
};

/// How a connection is served.
#[derive(Debug, Clone)]
pub struct Config {
    /// What a client may send for a call that does not read it. Units: bytes.
    pub stream_window: u32,
    /// The same for all calls together.
    pub connection_window: u32,
    /// For what calls do not read beyond that, where they hold much of the connection's window. Shared by all connections.
    pub unread: Arc<UnreadBudget>,
    /// Largest payload of a frame that is received. Units: bytes.
    pub max_frame: u32,
    /// Calls that may be open; further ones are refused.
    pub max_calls: u32,
    /// Largest list of headers of a call, as HTTP/2 counts it. Units: bytes.
    pub max_header_list: u32,
    /// The answer to a call with more.
    pub too_large: Arc<Response<()>>,
    /// What clients may ping.
    pub pings: PingPolicy,
    /// When clients are pinged.
    pub keep_alive: KeepAlive,
    /// Until when the client has to have sent the preface and the head of its first frame.
    pub handshake_end: Instant,
}

impl Config {
    fn limits(&self) -> protocol::Limits {
        protocol::Limits {
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            max_frame: self.max_frame,
            max_calls: self.max_calls,
            max_header_list: self.max_header_list,
            pings: self.pings,
        }
    }
}
