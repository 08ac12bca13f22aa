//! The kinds of families.

/// What a family counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A sum that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// How many observations lie at or below each of some limits.
    Histogram,
}

impl MetricKind {
    /// The word of the page.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}
