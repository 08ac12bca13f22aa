//! A page with something of every kind, for the tests of every form.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use super::*;
use crate::{
    latency::{Exemplar, HistogramReading, NativeReading, SummaryReading},
    trace::TraceId,
};

pub(super) fn page() -> Page {
    let labels = |model: &str| Arc::new(LabelSet::new(vec![("model".into(), model.into())]));
    let one = |kind, name: &'static str, value| Family {
        name: name.into(),
        help: "Says \"it\",\n\\ and more".into(),
        kind,
        series: vec![Series { labels: labels("a \"b\"\n\\"), value }],
    };
    let exemplar = Exemplar {
        trace_id: TraceId([0xab; 16]),
        value: 0.02,
        at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_250),
    };
    let histogram = HistogramReading {
        limits: vec![0.01, 1.0].into(),
        counts: vec![2, 1, 0],
        sum: 0.035,
        exemplars: vec![None, Some(exemplar), None],
        native: Some(NativeReading { schema: 3, zero_count: 0, buckets: vec![(-56, 2), (-45, 1)] }),
    };
    let summary = SummaryReading { quantiles: vec![(0.5, 7.0), (1.0, f64::NAN)], count: 3, sum: 21.0 };
    Page {
        families: vec![
            one(Kind::Counter, "requests", Value::Number(3.0)),
            one(Kind::Counter, "tokens_total", Value::Number(1e20)),
            one(Kind::Gauge, "load", Value::Number(f64::NEG_INFINITY)),
            one(Kind::Histogram, "seconds", Value::Histogram(Box::new(histogram))),
            one(Kind::Summary, "microseconds", Value::Summary(Box::new(summary))),
            Family::new(Kind::Gauge, "nothing", "Has no series"),
            Family::single(Kind::Gauge, "alone", "Has no labels", 0.5),
        ],
    }
}

#[test]
fn every_kind_is_written_as_triton_writes_it() {
    insta::assert_snapshot!(page().text());
}
