//! Metrics that models define: families of counters, gauges and histograms, beside those that the server has of itself.
//!
//! Models, instances and versions that define the same share it: a family is known by its name, a series by its labels. Each
//! goes when the last that holds it lets go, so that nothing stays of a model that is gone.
//!
//! Source: Triton "Custom Metrics" and its in-process API (`TRITONSERVER_Metric`), for the texts of its errors too.

mod families;
mod kind;
mod page;
mod series;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

pub use self::{families::Labels, kind::MetricKind};
use self::{
    families::{Families, FamilyState, SeriesState},
    series::Series,
};
use crate::{
    error::{Error, Result},
    metrics::{self, OWN_PREFIX, Page},
};

/// Families of all models that may be there at once.
const MAX_FAMILIES: usize = 16_384;
/// Series of all families that may be there at once: a page has a line for each, or several.
const MAX_SERIES: usize = 65_536;
/// Bytes of all labels of one series.
const MAX_LABELS: usize = 16 << 10;

/// Every family that a model has defined. Clones share them.
#[derive(Clone, Default)]
pub struct CustomMetrics(Arc<Mutex<Families>>, SeriesCount, Senders);

/// Series of all families.
type SeriesCount = Arc<AtomicUsize>;

/// Those whose changes come some time after they were made.
type Senders = Arc<Mutex<Vec<Weak<dyn Sender>>>>;

/// Somebody who changes metrics and does not wait until it is done, such as another process.
pub trait Sender: Send + Sync {
    /// Whether all changes are made that were sent before this was asked.
    fn is_settled(&self) -> bool;
}

/// Holds a family; clones hold it as well.
pub struct MetricFamily {
    metrics: CustomMetrics,
    name: Arc<str>,
    kind: MetricKind,
}

/// Holds one series of a family, and the family.
pub struct Metric {
    family: MetricFamily,
    labels: Labels,
    series: Arc<Series>,
}

impl CustomMetrics {
    /// The family of that name, which comes to be if nobody holds it; its description is that of whoever came first.
    ///
    /// It may be a family that Triton itself has: its series stand with the server's then.
    ///
    /// Errors: `InvalidArgument` if Prometheus has no such names, if only this server has a family of that name, or if there is
    /// one of another kind.
    pub fn family(&self, kind: MetricKind, name: &str, description: &str) -> Result<MetricFamily> {
        if !is_name(name, true) {
            return Err(Error::invalid_argument(format!(
                "Invalid metric name '{name}': it must consist of letters, digits, '_' and ':', and must begin with neither a \
                 digit nor '__'"
            )));
        }
        if name.starts_with(OWN_PREFIX) {
            return Err(Error::invalid_argument(format!(
                "Invalid metric name '{name}': names that begin with '{OWN_PREFIX}' are the server's own"
            )));
        }
        if metrics::own_kind(name).is_some_and(|own| own != kind.into()) {
            return Err(other_kind());
        }
        let name: Arc<str> = name.into();
        let mut families = self.0.lock();
        if families.len() >= MAX_FAMILIES && !families.contains_key(&name) {
            return Err(Error::unavailable(format!(
                "metric '{name}' cannot be added: models have {MAX_FAMILIES} metric families together, and no more are possible; drop \
                 those that are not needed"
            )));
        }
        let family = families.entry(name.clone()).or_insert_with(|| FamilyState {
            kind,
            help: description.to_owned(),
            holders: 0,
            series: BTreeMap::new(),
        });
        if family.kind != kind {
            return Err(other_kind());
        }
        family.holders += 1;
        Ok(MetricFamily { metrics: self.clone(), name, kind })
    }

    /// From here on that sender is asked as well whether all is settled, as long as there is one.
    pub fn await_changes_of(&self, sender: Weak<dyn Sender>) {
        let mut senders = self.2.lock();
        senders.retain(|sender| sender.strong_count() > 0);
        senders.push(sender);
    }

    /// Whether all changes are made that were sent before this was asked.
    pub fn are_settled(&self) -> bool {
        self.2.lock().iter().filter_map(Weak::upgrade).all(|sender| sender.is_settled())
    }

    /// Adds all of them to a page with the server's own. A family without series is not shown.
    pub fn add_to(&self, page: &mut Page) {
        page::add_to(page, &self.0.lock());
    }
}

impl MetricFamily {
    /// What it counts.
    pub fn kind(&self) -> MetricKind {
        self.kind
    }

    /// The series with those labels, which comes to be if nobody holds it. A histogram has `buckets`, the upper limits of its
    /// buckets, ascending; of a series that is there already they stay what they are.
    ///
    /// Errors: `InvalidArgument` if Prometheus has no such labels, or `buckets` are missing, not ascending, or given for
    /// another kind.
    pub fn metric(&self, labels: Labels, buckets: Option<&[f64]>) -> Result<Metric> {
        if let Some(bad) = labels.keys().find(|name| !is_label(name, self.kind)) {
            return Err(Error::invalid_argument(format!(
                "Invalid label name '{bad}' of metric '{}': it must consist of letters, digits and '_', must begin with \
                 neither a digit nor '__', and must not be 'le' in a histogram",
                self.name
            )));
        }
        let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_LABELS {
            return Err(Error::invalid_argument(format!(
                "labels of metric '{}' have {bytes} bytes, and at most {MAX_LABELS} are possible",
                self.name
            )));
        }
        let new = Series::new(self.kind, buckets)?;
        let mut families = self.metrics.0.lock();
        let family =
            families.get_mut(&self.name).ok_or_else(|| Error::internal("a metric family went before its holders"))?;
        if !family.series.contains_key(&labels) && self.metrics.1.fetch_add(1, Ordering::Relaxed) >= MAX_SERIES {
            self.metrics.1.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::unavailable(format!(
                "metric '{}' cannot have one more series: metrics of models have {MAX_SERIES} together, and no more are possible; use \
                 labels with fewer values",
                self.name
            )));
        }
        let state =
            family.series.entry(labels.clone()).or_insert_with(|| SeriesState { holders: 0, series: Arc::new(new) });
        state.holders += 1;
        let series = state.series.clone();
        drop(families);
        Ok(Metric { family: self.clone(), labels, series })
    }
}

impl Clone for MetricFamily {
    fn clone(&self) -> Self {
        if let Some(family) = self.metrics.0.lock().get_mut(&self.name) {
            family.holders += 1;
        }
        Self { metrics: self.metrics.clone(), name: self.name.clone(), kind: self.kind }
    }
}

impl Drop for MetricFamily {
    fn drop(&mut self) {
        let mut families = self.metrics.0.lock();
        let Some(family) = families.get_mut(&self.name) else { return };
        family.holders -= 1;
        if family.holders == 0 {
            families.remove(&self.name);
        }
    }
}

impl Metric {
    /// Adds to a counter or gauge.
    ///
    /// Errors: `Unsupported` for a histogram; `InvalidArgument` for a counter and a value that is negative or no number.
    pub fn increment(&self, value: f64) -> Result<()> {
        self.series.increment(value)
    }

    /// Sets a gauge. Errors: `Unsupported` for any other kind.
    pub fn set(&self, value: f64) -> Result<()> {
        self.series.set(value)
    }

    /// Adds an observation to a histogram. Errors: `Unsupported` for any other kind.
    pub fn observe(&self, value: f64) -> Result<()> {
        self.series.observe(value)
    }

    /// The value of a counter or gauge. Errors: `Unsupported` for a histogram.
    pub fn value(&self) -> Result<f64> {
        self.series.value()
    }
}

impl Drop for Metric {
    fn drop(&mut self) {
        let mut families = self.family.metrics.0.lock();
        let Some(family) = families.get_mut(&self.family.name) else { return };
        let Some(state) = family.series.get_mut(&self.labels) else { return };
        state.holders -= 1;
        if state.holders == 0 {
            family.series.remove(&self.labels);
            self.family.metrics.1.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for CustomMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.lock().keys()).finish()
    }
}

impl fmt::Debug for MetricFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.text(), self.name)
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.family, self.labels)
    }
}

fn other_kind() -> Error {
    Error::invalid_argument("Family name already exists with different type")
}

/// Whether Prometheus has such names; colons are for names of families alone.
fn is_name(name: &str, with_colons: bool) -> bool {
    let may_begin =
        |character: char| character.is_ascii_alphabetic() || character == '_' || (with_colons && character == ':');
    name.starts_with(may_begin)
        && !name.starts_with("__")
        && name.chars().all(|character| may_begin(character) || character.is_ascii_digit())
}

fn is_label(name: &str, kind: MetricKind) -> bool {
    is_name(name, false) && !(kind == MetricKind::Histogram && name == "le")
}

#[cfg(test)]
mod tests;
