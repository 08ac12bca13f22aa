//! The gRPC front end: Triton's inference service and the health service of gRPC over one engine.
//!
//! Modules in the order a call passes them: `connection` (sockets, ages, shutdown), `dispatch` (deadlines), `service`
//! (restrictions, control calls, the methods), `framing` (messages on the wire), then one module per group of methods. No model logic lives here, and `error` alone maps the
//! server's errors to gRPC statuses.

#![forbid(unsafe_code)]

mod admin;
mod admission;
mod connection;
mod control;
mod dispatch;
mod error;
mod forwarding;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod health;
mod infer;
mod options;
mod restrict;
mod service;
mod stream;
mod tracing;

use std::{future::Future, io, sync::Arc};

use server_engine::Engine;
use tokio::net::TcpListener;

pub use self::options::{Compression, Options};
use self::{admission::Admission, dispatch::Dispatch, service::Service};
pub use server_http2::PingPolicy;

/// Serves until `shutdown` completes, then refuses new inference calls, waits for those in flight, closes every connection
/// and returns. While the engine is leaving, connections are asked to end after their calls, and new ones are served.
/// Dropping the future ends everything at once: the caller limits the wait that way.
///
/// Errors: the listener accepts no connections any more.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let admission = Arc::new(Admission::default());
    let for_leaving = engine.clone();
    let service = Arc::new(Service::new(engine, admission.clone(), &options));
    let dispatch = Dispatch::new(service, options.access_log.clone());
    connection::serve(listener, dispatch, &admission, &options, move || for_leaving.leaving(), shutdown).await
}
