//! Backend libraries: `libtriton_NAME.so` as a [`server_core::backend::Backend`], and the functions `TRITONBACKEND_*` that it calls.

pub(crate) mod attributes;
pub(crate) mod memory;
pub(crate) mod object;
