//! What users are told, for what was seen: conditions as kstatus reads them, counts, failures, times.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod autoscaling;
mod case;
mod models;
mod refusals;
mod rollouts;
mod server;
