//! The families that models have defined, and who holds them.

use std::{collections::BTreeMap, sync::Arc};

use super::{kind::MetricKind, series::Series};

/// Labels of a series, by name.
pub type Labels = BTreeMap<String, String>;

/// By name.
pub(super) type Families = BTreeMap<Arc<str>, FamilyState>;

/// A family, as long as anybody holds it.
pub(super) struct FamilyState {
    pub(super) kind: MetricKind,
    pub(super) help: String,
    pub(super) holders: usize,
    pub(super) series: BTreeMap<Labels, SeriesState>,
}

/// A series, as long as anybody holds it.
pub(super) struct SeriesState {
    pub(super) holders: usize,
    pub(super) series: Arc<Series>,
}
