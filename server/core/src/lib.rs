//! Every decision of the server, and nothing else: no files, no clock, no threads, no runtime. Callers pass the time in.

#![forbid(unsafe_code)]

pub mod backend;
pub mod batch;
pub mod batching;
pub mod buffer;
pub mod byte_budget;
pub mod caller;
pub mod check;
pub mod classification;
pub mod completion;
pub mod config;
pub mod control;
pub mod custom_counter;
pub mod custom_metrics;
pub mod ensemble;
pub mod error;
pub mod footprint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod grpc_timeout;
pub mod header_forwarding;
pub mod health;
pub mod host_policy;
pub mod input_memory;
pub mod interface;
pub mod latency;
pub mod load;
pub mod log_limit;
pub mod log_settings;
pub mod metrics;
pub mod parameters;
pub mod rate_limit;
pub mod record;
pub mod repository;
pub mod request;
pub mod responder;
pub mod response;
pub mod response_cache;
pub mod restriction;
pub mod secret;
pub mod sequence;
pub mod stats;
pub mod tensor;
pub mod trace;
pub mod version_routing;
pub mod warm_up;
