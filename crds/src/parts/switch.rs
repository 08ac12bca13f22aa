//! Whether an object of a kind is made that a cluster may not have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// Whether an object of an optional kind is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum Switch {
    /// If the cluster knows the kind.
    #[default]
    Auto,
    /// Always; where the kind is missing, the server says so.
    Always,
    /// Never.
    Never,
}
