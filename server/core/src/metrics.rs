//! The metrics page: Triton's families with Triton's names, labels and help texts, from snapshots. Nothing is kept
//! between two pages, so nothing is paid for a page nobody asks for.
//!
//! A [`Page`] is a list of families; how it is written is another matter, see [`Format`].
//!
//! Source: Triton metrics document.

mod cache;
#[cfg(test)]
mod exposition_tests;
mod extra_label;
mod family;
mod labels;
mod latencies;
mod machine;
mod memory;
mod models;
mod negotiation;
mod openmetrics;
mod protobuf;
mod shadow;
mod text;

pub use cache::CacheSnapshot;
pub use family::{Family, Kind, Page, Series, Value};
pub use labels::{Label, LabelSet};
pub use machine::{GpuProbe, GpuSnapshot, MachineSnapshot};
pub use negotiation::Format;
pub use shadow::ShadowSnapshot;

/// Beginning of the names of families that only this server has.
pub(crate) const OWN_PREFIX: &str = "tritonserver_";

/// The kind of a family of the server's own that Triton has too.
pub(crate) fn own_kind(name: &str) -> Option<Kind> {
    let of_cache = || cache::has(name).then_some(Kind::Gauge);
    models::kind(name).or_else(|| latencies::kind(name)).or_else(|| machine::kind(name)).or_else(of_cache)
}
