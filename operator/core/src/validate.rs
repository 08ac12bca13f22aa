//! What the fields of a resource mean together, beyond what its definition can say field by field. The rules the API server
//! checks with CEL are here too, word for word in meaning: on one machine there is no API server to ask.

mod ending;
mod findings;
mod forms;
mod hub;
mod model;
mod objects;
mod server;
mod sources;

pub(crate) use self::sources::kind_of;
pub use self::{
    model::{INLINE_MAX, model},
    server::server,
};
