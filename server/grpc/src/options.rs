//! How the front end behaves: filled by the command line, Triton's defaults otherwise.

use std::{sync::Arc, time::Duration};

use server_core::{
    byte_budget::ByteBudget, control::PrivateControl, header_forwarding::HeaderPattern, restriction::Restriction,
};
use server_engine::{AccessLog, BlockingPool};
use server_tls::Acceptor;

use crate::PingPolicy;

/// How to serve gRPC.
#[derive(Debug, Clone)]
pub struct Options {
    /// A client that is silent for so long during a call is sent a keepalive ping: `--grpc-keepalive-time`.
    pub keepalive_time: Duration,
    /// How long the acknowledgement of the ping may take: `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// What clients may ping. Where it permits pings without calls, the server sends such too.
    pub pings: PingPolicy,
    /// Encrypts all connections: `--grpc-use-ssl`.
    pub tls: Option<Acceptor>,
    /// Where calls are logged: `--access-log`.
    pub access_log: Option<Arc<AccessLog>>,
    /// How long a new connection may take until its client has sent the preface of HTTP/2 and the first frame.
    pub handshake_timeout: Duration,
    /// Age at which a connection is asked to end: `--grpc-max-connection-age`.
    pub max_connection_age: Option<Duration>,
    /// How long calls may go on after that: `--grpc-max-connection-age-grace`; `None` is without limit.
    pub max_connection_age_grace: Option<Duration>,
    /// Whether responses are compressed, for clients that accept it: `--grpc-infer-response-compression-level`.
    pub response_compression: Compression,
    /// Largest message received, in bytes.
    pub max_receive_bytes: usize,
    /// Largest message sent, in bytes.
    pub max_send_bytes: usize,
    /// Requests of one stream that may be in flight, an eighth of them to decoupled models; further ones wait in the connection.
    pub max_stream_requests: usize,
    /// Responses of one request to a decoupled model that may wait to be read, besides the limit on their bytes:
    /// `--grpc-max-response-pool-size`.
    pub max_unread_responses: usize,
    /// Groups of methods that need a header: `--grpc-restricted-protocol`.
    pub restrictions: Vec<Restriction>,
    /// Where control calls are taken; they are refused here then.
    pub private_control: Option<PrivateControl>,
    /// Metadata that becomes parameters of requests: `--grpc-header-forward-pattern`.
    pub forwarded_headers: Option<HeaderPattern>,
    /// Memory for requests in flight, shared by all front ends: `--max-inflight-request-bytes`.
    pub byte_budget: Arc<ByteBudget>,
    /// Threads for what takes long, shared by all front ends: typed contents, compression, classification.
    pub blocking_pool: BlockingPool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keepalive_time: Duration::from_secs(7200),
            keepalive_timeout: Duration::from_secs(20),
            pings: PingPolicy::default(),
            tls: None,
            access_log: None,
            handshake_timeout: Duration::from_secs(20),
            max_connection_age: None,
            max_connection_age_grace: None,
            response_compression: Compression::None,
            max_receive_bytes: i32::MAX as usize,
            max_send_bytes: i32::MAX as usize,
            max_stream_requests: 8192,
            max_unread_responses: usize::MAX,
            restrictions: Vec::new(),
            private_control: None,
            forwarded_headers: None,
            byte_budget: Arc::new(ByteBudget::new(0)),
            blocking_pool: BlockingPool::default(),
        }
    }
}

/// Whether responses are compressed. The levels of the command line above `none` all mean gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip, if the client accepts it.
    Gzip,
}
