//! Keeps the models of one server as its manifest wants them: fetches, verifies, stages, has the server load the new before
//! it drops the old, and publishes where everything stands. It knows a folder, an HTTP port and a manifest, and nothing of
//! Kubernetes: `triton-operator up` runs it on one machine, the program `triton-agent` beside a server in its pod.

#![forbid(unsafe_code)]

pub mod adopt;
pub mod attempts;
pub mod disk;
pub mod fault;
mod files;
pub mod layout;
pub mod lease;
pub mod load;
pub mod manifest;
pub mod plan;
pub mod source;
mod stage;
pub mod startup;
pub mod state;
pub mod store;
pub mod supervise;
pub mod sync;
pub mod traces;
pub mod verify;

pub use state::State;
pub use sync::{Agent, Settings};
