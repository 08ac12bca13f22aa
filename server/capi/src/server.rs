//! What libraries may ask of the server: the functions `TRITONSERVER_*`. Those by which a program starts a server in its own process, or
//! ends it, refuse ([`embedding`]).

pub(crate) mod allocator;
pub(crate) mod asking;
pub(crate) mod buffer_attributes;
mod callback_threads;
pub(crate) mod descriptions;
pub(crate) mod embedding;
pub(crate) mod errors;
pub(crate) mod infer;
pub(crate) mod log;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod names;
pub(crate) mod parameters;
pub(crate) mod request;
pub(crate) mod response;
#[cfg(test)]
mod tests;
pub(crate) mod trace;

use std::sync::{Arc, Weak};

use server_core::{
    backend::Host,
    error::{Error, Result},
};

pub use self::metrics::custom_metrics;
#[allow(unused_imports)] // for those who have a request
pub(crate) use self::trace::InferenceTrace;
use crate::abi::{Handle, Object, Out, export::exports, handle::objects};

objects! { 20: Server => "TRITONSERVER_Server" }

/// `TRITONSERVER_Server`: this server, as one model's library sees it.
pub(crate) struct Server {
    host: Weak<dyn Host>,
    /// The model whose library asks.
    asked_by: String,
}

impl Server {
    /// The server, for the library of that model.
    pub(crate) fn new(host: Weak<dyn Host>, asked_by: &str) -> Self {
        Self { host, asked_by: asked_by.to_owned() }
    }

    /// The way in. Errors: the server is ending.
    pub(crate) fn host(&self) -> Result<Arc<dyn Host>> {
        self.host.upgrade().ok_or_else(|| Error::unavailable("Server not ready"))
    }
}

/// Deletes an object of a library. Null is nothing, as for `delete` of C++.
///
/// Errors: the handle is of no such object.
fn delete<T: Object>(handle: Handle<T>) -> Result<()> {
    if handle.is_null() { Ok(()) } else { handle.take().map(drop) }
}

/// Version of `tritonserver.h` that is followed.
const API_VERSION: (u32, u32) = (1, 34);

exports! {
    /// The version of the interface.
    fn TRITONSERVER_ApiVersion(major: Out<u32>, minor: Out<u32>) {
        major.set(API_VERSION.0)?;
        minor.set(API_VERSION.1)
    }
}
