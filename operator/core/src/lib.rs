//! Every decision of the operator and nothing else: no client, no clock, no files. Resources go in; what the pods are told,
//! what the cluster shall hold and what the user is told come out.

#![forbid(unsafe_code)]

mod canonical;
pub mod documents;
pub mod manifest;
pub mod names;
mod path;
pub mod problem;

pub use manifest::{Manifest, ManifestModel};
pub use problem::{ObjectRef, Problem, Reason};
