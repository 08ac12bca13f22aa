//! Who may control the models of a server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// Who may load and unload models of the servers in the pods, change their log and trace settings, and register shared
/// memory with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum Control {
    /// Only the pod itself, over a socket in it: the ports of the Service refuse these calls.
    #[default]
    Private,
    /// Whoever reaches the ports of the Service.
    Public,
}
