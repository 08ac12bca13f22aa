//! The gRPC front end: Triton's inference service and the health service of gRPC over one engine.
//!
//! Rooms in the order a call meets them: `connection` (sockets, ages, the end), `dispatch` (who may call, until when),
//! `service` (the methods), then one room per kind of answer. No model logic lives here, and `error` alone knows how
//! the server's errors look on this wire.

#![forbid(unsafe_code)]

mod admin;
mod connection;
mod dispatch;
mod error;
mod gate;
mod health;
mod infer;
mod options;
mod restrict;
mod service;
mod socket;
mod stream;

use std::{future::Future, io, sync::Arc};

use server_engine::Engine;
use tokio::net::TcpListener;

use self::{dispatch::Dispatch, gate::Gate};
pub use self::{
    options::{Compression, Options},
    restrict::{Protocol, Restriction},
};

/// Serves until `shutdown` ends, then refuses new inference, waits for what is inside, says goodbye to every connection
/// and returns. While the engine is leaving, connections are asked to end after their calls, and new ones are served. Dropping the future ends everything at once: whoever limits the wait does that.
///
/// Errors: the socket takes no connections any more.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let gate = Arc::new(Gate::default());
    let leaving = engine.leaving();
    let dispatch = Dispatch::new(engine, gate.clone(), &options);
    connection::serve(listener, dispatch, &gate, &options, leaving, shutdown).await
}
