//! Every decision of the operator and nothing else: no client, no clock, no files. Resources go in; the manifest for the pods,
//! the objects of the cluster and the statuses come out.

#![forbid(unsafe_code)]

pub mod access;
pub mod activator;
pub mod adopt_words;
pub mod autoscaling;
pub mod build;
mod canonical;
pub mod compile;
pub mod decide;
pub mod defaults;
pub mod documents;
pub mod drift;
pub mod election;
pub mod events;
pub mod image;
pub mod kind;
pub mod labels;
pub mod load;
pub mod manifest;
pub mod metrics_api;
pub mod missing_runtime;
pub mod model_file;
pub mod mounts;
pub mod names;
pub mod observed;
pub mod optional;
mod overrides;
mod path;
pub mod pinned;
pub mod pod;
pub mod problem;
pub mod reference;
pub mod render;
pub mod replica;
pub mod replicas;
pub mod rollout;
pub mod route_status;
pub mod rules;
pub mod scale_to_zero;
pub mod selector;
pub mod server_flags;
pub mod source_rules;
pub mod status;
mod strategic;
pub mod surge;
pub mod termination_message;
pub mod text;
mod tls;
mod typed;
pub mod validate;
pub mod validated;
pub mod versions;

pub use compile::{Compiled, compile};
pub use manifest::{Manifest, ManifestModel};
pub use observed::Observed;
pub use problem::{ObjectRef, Problem, Reason};
