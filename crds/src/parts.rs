//! Pieces of the two kinds, one idea per file. Every optional field is left out when absent (never `null`), so that an
//! object read and written again is the object the user wrote.

pub mod access;
pub mod autoscaling;
pub mod bytes;
pub mod condition;
pub mod config;
pub mod control;
pub mod duration;
pub mod gpu;
pub mod image;
pub mod load;
pub mod monitoring;
pub mod opaque;
pub mod pod;
pub mod probes;
pub mod reference;
pub mod rollout;
pub mod routes;
pub(crate) mod schema;
pub mod server;
pub mod service;
pub mod source;
pub mod switch;
pub mod tls;
pub mod versions;

pub use bytes::ByteCount;
pub use condition::{Condition, ConditionStatus};
pub use duration::Duration;
pub use opaque::Opaque;
pub use reference::NameRef;
pub use schema::QUANTITY as QUANTITY_PATTERN;
pub use switch::Switch;
