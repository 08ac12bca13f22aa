//! What libraries may ask of the server: the functions `TRITONSERVER_*`.

use std::sync::Weak;

use server_core::backend::Host;

use crate::abi::{Out, export::exports, handle::objects};

objects! { 20: Server => "TRITONSERVER_Server" }

/// `TRITONSERVER_Server`: this server, as its libraries see it.
pub(crate) struct Server {
    /// The way in.
    #[allow(dead_code)]
    pub(crate) host: Weak<dyn Host>,
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
