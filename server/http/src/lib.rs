//! The HTTP front end: the inference protocol on one port, the metrics page on another, and the protocol again on a Unix
//! socket for whoever controls the server. Clouds have front ends of their own to it: SageMaker and Vertex AI.
//!
//! Decodes requests for the engine and encodes its responses; it decides nothing else. Calls go one way: `serve`
//! (sockets) to `dispatch` (routes) to one module per resource, of which `infer` is the hot path.

#![forbid(unsafe_code)]

mod access;
mod application;
mod binary;
mod body;
mod cloud;
mod compression;
mod connection;
mod control;
mod dispatch;
mod drive;
mod error;
mod forwarding;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod generate;
mod head;
mod health;
mod held;
mod infer;
mod json;
mod limits;
mod metadata;
mod metrics;
mod model_config;
mod options;
mod own_wakes;
mod reply;
mod repository;
mod restriction;
mod router;
mod sagemaker;
mod serve;
mod server;
mod settings;
mod shared_memory;
mod to_json;
mod tracing;
mod transport;
mod vertex_ai;

pub use options::Options;
pub use sagemaker::{InferenceType, PingMode, SageMakerOptions};
pub use serve::{serve, serve_local, serve_metrics, serve_sagemaker, serve_vertex_ai};
pub use vertex_ai::VertexAiRoutes;
