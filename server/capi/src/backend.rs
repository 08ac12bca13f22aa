//! Backend libraries: `libtriton_NAME.so` as a [`server_core::backend::Backend`] ([`adapter`]), and the functions `TRITONBACKEND_*`
//! that it calls, one file for each kind of object.

pub(crate) mod adapter;
mod answering;
pub(crate) mod attributes;
mod clock;
mod executions;
pub(crate) mod instance;
mod library;
pub(crate) mod memory;
pub(crate) mod model;
mod new_state;
pub(crate) mod object;
mod readiness;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod state;
pub(crate) mod statistics;
mod strategy;
