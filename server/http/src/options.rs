//! How to serve.

use std::sync::Arc;

use server_core::{
    byte_budget::ByteBudget, control::PrivateControl, header_forwarding::HeaderPattern, restriction::Restriction,
};
use server_engine::{AccessLog, BlockingPool};
use server_tls::Acceptor;

/// How to serve. Filled by the command line; the defaults are Triton's.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--http-max-input-size`: limit of JSON, of tensors given as JSON, of raw and of decompressed bodies. Units: bytes.
    pub max_input_size: usize,
    /// `--http-restricted-api`, one entry per flag.
    pub restrictions: Vec<Restriction>,
    /// Where control calls are taken; they are refused here then.
    pub private_control: Option<PrivateControl>,
    /// Whoever calls may drain the server: it is the one who runs it.
    pub takes_drains: bool,
    /// `--http-header-forward-pattern`: headers that become parameters of the request.
    pub forwarded_headers: Option<HeaderPattern>,
    /// Memory for requests in flight, shared by all front ends: `--max-inflight-request-bytes`.
    pub byte_budget: Arc<ByteBudget>,
    /// Threads for what takes long, shared by all front ends: large JSON, compression, classification.
    pub blocking_pool: BlockingPool,
    /// Encrypts all connections: `--http-use-ssl`.
    pub tls: Option<Acceptor>,
    /// Where requests are logged: `--access-log`.
    pub access_log: Option<Arc<AccessLog>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_input_size: 64 << 20,
            restrictions: Vec::new(),
            private_control: None,
            takes_drains: false,
            forwarded_headers: None,
            byte_budget: Arc::new(ByteBudget::new(0)),
            blocking_pool: BlockingPool::default(),
            tls: None,
            access_log: None,
        }
    }
}
