//! The resources of `triton-operator.dev/v1alpha1` as typed kinds: one kind per file, shared pieces in [`parts`], and the
//! definitions a cluster installs in [`definition`]. Types only: what a field means for the running server is decided in
//! `operator-core`, never here.

#![forbid(unsafe_code)]

pub mod definition;
pub mod model;
pub mod parts;
pub mod server;

pub use model::{TritonModel, TritonModelSpec, TritonModelStatus};
pub use server::{TritonServer, TritonServerSpec, TritonServerStatus};

/// API group of both kinds.
pub const GROUP: &str = "triton-operator.dev";
/// The one version served.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` as it stands in a document.
pub const API_VERSION: &str = "triton-operator.dev/v1alpha1";
