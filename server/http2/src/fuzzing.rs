//! Entry points for fuzzing: each takes any bytes, reads them as the server does, and checks what must hold whatever they are.
//! `server/fuzz` runs them; a test runs them over its corpus. Only with the feature `fuzzing`.

pub use crate::hpack::fuzzing::hpack;
