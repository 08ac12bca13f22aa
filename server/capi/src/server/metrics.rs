//! `TRITONSERVER_MetricFamily` and `TRITONSERVER_Metric`: metrics that libraries define, on the page with those of other models.
//!
//! The functions name no server, so there is one set of them for the process.

use std::sync::LazyLock;

use parking_lot::Mutex;
use server_core::{
    custom_metrics::{self, CustomMetrics, Labels, MetricKind as Kind},
    error::{Error, Result},
};

use super::{
    delete,
    parameters::{Parameter, Value},
};
use crate::abi::{Array, Handle, Out, Text, export::exports, handle::objects, numbers::MetricKind};

objects! {
    22: MetricFamily => "TRITONSERVER_MetricFamily",
    23: MetricArgs => "TRITONSERVER_MetricArgs",
    24: Metric => "TRITONSERVER_Metric",
}

static METRICS: LazyLock<CustomMetrics> = LazyLock::new(CustomMetrics::default);

/// The metrics that libraries define, for the server that shows them.
pub fn custom_metrics() -> CustomMetrics {
    METRICS.clone()
}

/// Metrics of one name.
pub(crate) struct MetricFamily(custom_metrics::MetricFamily);

/// Settings of a metric that is to be made.
#[derive(Default)]
pub(crate) struct MetricArgs {
    buckets: Mutex<Option<Vec<f64>>>,
}

/// One metric of a family.
pub(crate) struct Metric {
    kind: Kind,
    metric: custom_metrics::Metric,
}

exports! {
    /// The family of that name, which comes to be if there is none.
    fn TRITONSERVER_MetricFamilyNew(
        family: Out<Handle<MetricFamily>>,
        kind: MetricKind,
        name: Text,
        description: Text,
    ) {
        let kind = to_core(kind)?;
        let made = METRICS.family(kind, &name.get()?, &description.get()?)?;
        family.set(Handle::new(MetricFamily(made)))
    }

    /// Lets go of a family; its metrics are to be deleted before.
    fn TRITONSERVER_MetricFamilyDelete(family: Handle<MetricFamily>) {
        delete(family)
    }

    /// What its metrics count.
    fn TRITONSERVER_GetMetricFamilyKind(family: Handle<MetricFamily>, kind: Out<MetricKind>) {
        kind.set(of_core(family.get()?.0.kind()))
    }

    /// Settings for a metric.
    fn TRITONSERVER_MetricArgsNew(arguments: Out<Handle<MetricArgs>>) {
        arguments.set(Handle::new(MetricArgs::default()))
    }

    /// The upper limits of the buckets of a histogram.
    fn TRITONSERVER_MetricArgsSetHistogram(arguments: Handle<MetricArgs>, buckets: Array<f64>, count: u64) {
        *arguments.get()?.buckets.lock() = Some(buckets.get(count)?.to_vec());
        Ok(())
    }

    /// Deletes settings.
    fn TRITONSERVER_MetricArgsDelete(arguments: Handle<MetricArgs>) {
        delete(arguments)
    }

    /// The metric of that family with those labels.
    fn TRITONSERVER_MetricNew(
        metric: Out<Handle<Metric>>,
        family: Handle<MetricFamily>,
        labels: Array<Handle<Parameter>>,
        label_count: u64,
    ) {
        metric.set(Handle::new(made(family, labels.get(label_count)?, None)?))
    }

    /// The metric of that family with those labels and settings.
    fn TRITONSERVER_MetricNewWithArgs(
        metric: Out<Handle<Metric>>,
        family: Handle<MetricFamily>,
        labels: Array<Handle<Parameter>>,
        label_count: u64,
        arguments: Handle<MetricArgs>,
    ) {
        let arguments = if arguments.is_null() { None } else { Some(arguments.get()?) };
        let buckets = arguments.and_then(|arguments| arguments.buckets.lock().clone());
        metric.set(Handle::new(made(family, labels.get(label_count)?, buckets.as_deref())?))
    }

    /// Lets go of a metric.
    fn TRITONSERVER_MetricDelete(metric: Handle<Metric>) {
        delete(metric)
    }

    /// The value of a counter or gauge.
    fn TRITONSERVER_MetricValue(metric: Handle<Metric>, value: Out<f64>) {
        value.set(metric.get()?.metric.value()?)
    }

    /// Adds to a counter or gauge.
    fn TRITONSERVER_MetricIncrement(metric: Handle<Metric>, value: f64) {
        metric.get()?.metric.increment(value)
    }

    /// Sets a gauge.
    fn TRITONSERVER_MetricSet(metric: Handle<Metric>, value: f64) {
        metric.get()?.metric.set(value)
    }

    /// Adds an observation to a histogram.
    fn TRITONSERVER_MetricObserve(metric: Handle<Metric>, value: f64) {
        metric.get()?.metric.observe(value)
    }

    /// What it counts.
    fn TRITONSERVER_GetMetricKind(metric: Handle<Metric>, kind: Out<MetricKind>) {
        kind.set(of_core(metric.get()?.kind))
    }
}

fn made(family: Handle<MetricFamily>, labels: &[Handle<Parameter>], buckets: Option<&[f64]>) -> Result<Metric> {
    let family = family.get()?;
    let labels: Labels = labels.iter().map(|label| label_of(*label)).collect::<Result<_>>()?;
    Ok(Metric { kind: family.0.kind(), metric: family.0.metric(labels, buckets)? })
}

fn label_of(label: Handle<Parameter>) -> Result<(String, String)> {
    let label = label.get()?;
    let name = label.name.to_string_lossy().into_owned();
    match &label.value {
        Value::String(value) => Ok((name, value.to_string_lossy().into_owned())),
        _ => Err(Error::invalid_argument(format!(
            "Parameter [{name}] must have a type of TRITONSERVER_PARAMETER_STRING"
        ))),
    }
}

fn to_core(kind: MetricKind) -> Result<Kind> {
    match kind {
        MetricKind::COUNTER => Ok(Kind::Counter),
        MetricKind::GAUGE => Ok(Kind::Gauge),
        MetricKind::HISTOGRAM => Ok(Kind::Histogram),
        MetricKind(_) => Err(Error::invalid_argument("Unknown kind passed to MetricFamily constructor.")),
    }
}

fn of_core(kind: Kind) -> MetricKind {
    match kind {
        Kind::Counter => MetricKind::COUNTER,
        Kind::Gauge => MetricKind::GAUGE,
        Kind::Histogram => MetricKind::HISTOGRAM,
    }
}
