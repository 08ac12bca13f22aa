//! The numbers of one series.

use parking_lot::Mutex;

use super::kind::MetricKind;
use crate::{
    error::{Error, Result},
    latency::{Histogram, HistogramReading},
};

/// The numbers of one series.
pub(super) enum Series {
    Counter(Mutex<f64>),
    Gauge(Mutex<f64>),
    Histogram(Mutex<Histogram>),
}

/// What a series holds now, for the page.
pub(super) enum Reading {
    Number(f64),
    Histogram(HistogramReading),
}

impl Series {
    /// Errors: `buckets` are missing, not ascending, or given for a kind that has none.
    pub(super) fn new(kind: MetricKind, buckets: Option<&[f64]>) -> Result<Self> {
        match (kind, buckets) {
            (MetricKind::Counter, None) => Ok(Self::Counter(Mutex::new(0.0))),
            (MetricKind::Gauge, None) => Ok(Self::Gauge(Mutex::new(0.0))),
            (MetricKind::Histogram, Some(buckets)) => Ok(Self::Histogram(Mutex::new(histogram(buckets)?))),
            (MetricKind::Histogram, None) => {
                Err(Error::invalid_argument("Bucket boundaries not found in Metric args."))
            }
            (kind, Some(_)) => {
                Err(Error::invalid_argument(format!("Unexpected args found in {} Metric constructor.", kind.text())))
            }
        }
    }

    pub(super) fn increment(&self, value: f64) -> Result<()> {
        match self {
            Self::Counter(_) if value.is_nan() || value < 0.0 => Err(Error::invalid_argument(
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values.",
            )),
            Self::Counter(number) | Self::Gauge(number) => {
                *number.lock() += value;
                Ok(())
            }
            Self::Histogram(_) => Err(self.unsupported("Increment")),
        }
    }

    pub(super) fn set(&self, value: f64) -> Result<()> {
        match self {
            Self::Gauge(number) => {
                *number.lock() = value;
                Ok(())
            }
            Self::Counter(_) | Self::Histogram(_) => Err(self.unsupported("Set")),
        }
    }

    pub(super) fn observe(&self, value: f64) -> Result<()> {
        match self {
            Self::Histogram(histogram) => {
                histogram.lock().observe(value);
                Ok(())
            }
            Self::Counter(_) | Self::Gauge(_) => Err(self.unsupported("Observe")),
        }
    }

    pub(super) fn value(&self) -> Result<f64> {
        match self {
            Self::Counter(number) | Self::Gauge(number) => Ok(*number.lock()),
            Self::Histogram(_) => Err(self.unsupported("Value")),
        }
    }

    pub(super) fn read(&self) -> Reading {
        match self {
            Self::Counter(number) | Self::Gauge(number) => Reading::Number(*number.lock()),
            Self::Histogram(histogram) => Reading::Histogram(histogram.lock().read()),
        }
    }

    fn unsupported(&self, what: &str) -> Error {
        let kind = match self {
            Self::Counter(_) => "COUNTER",
            Self::Gauge(_) => "GAUGE",
            Self::Histogram(_) => "HISTOGRAM",
        };
        Error::unsupported(format!("TRITONSERVER_METRIC_KIND_{kind} does not support {what}"))
    }
}

/// Errors: `buckets` do not ascend.
fn histogram(buckets: &[f64]) -> Result<Histogram> {
    let is_ascending = buckets.windows(2).all(|pair| pair[0] < pair[1]);
    if !is_ascending || buckets.iter().any(|limit| limit.is_nan() || *limit == f64::NEG_INFINITY) {
        return Err(Error::invalid_argument("Bucket Boundaries must be strictly sorted"));
    }
    Ok(Histogram::new(buckets))
}
