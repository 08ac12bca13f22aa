//! Prometheus' protobuf format, which has native histograms besides all that the text formats have: each family is one message
//! behind its length.
//!
//! Source: Prometheus client model, `io.prometheus.client` (metrics.proto): names and numbers of fields.

use std::time::UNIX_EPOCH;

use prost::Message;

use super::{
    family::{Family, Kind, Page, Value},
    labels::LabelSet,
};
use crate::latency::{self, HistogramReading, NativeReading, SummaryReading};

/// Below this a native histogram counts observations as nothing.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39; // 2 to the power of -128, as Prometheus' own libraries have it

impl Page {
    /// The page, length-delimited messages.
    pub fn protobuf(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for family in &self.families {
            let message = wire::MetricFamily::of(family);
            message.encode_length_delimited(&mut bytes).expect("a vector grows");
        }
        bytes
    }
}

/// The messages.
#[allow(unreachable_pub, reason = "the derive writes accessors as visible as their fields")]
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricFamily {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub help: Option<String>,
        #[prost(enumeration = "MetricType", optional, tag = "3")]
        pub r#type: Option<i32>,
        #[prost(message, repeated, tag = "4")]
        pub metric: Vec<Metric>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    pub enum MetricType {
        Counter = 0,
        Gauge = 1,
        Summary = 2,
        Histogram = 4,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metric {
        #[prost(message, repeated, tag = "1")]
        pub label: Vec<LabelPair>,
        #[prost(message, optional, tag = "2")]
        pub gauge: Option<Number>,
        #[prost(message, optional, tag = "3")]
        pub counter: Option<Number>,
        #[prost(message, optional, tag = "4")]
        pub summary: Option<Summary>,
        #[prost(message, optional, tag = "7")]
        pub histogram: Option<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct LabelPair {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub value: Option<String>,
    }

    /// A gauge or a counter.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Number {
        #[prost(double, optional, tag = "1")]
        pub value: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Summary {
        #[prost(uint64, optional, tag = "1")]
        pub sample_count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub sample_sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        pub quantile: Vec<Quantile>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Quantile {
        #[prost(double, optional, tag = "1")]
        pub quantile: Option<f64>,
        #[prost(double, optional, tag = "2")]
        pub value: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Histogram {
        #[prost(uint64, optional, tag = "1")]
        pub sample_count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub sample_sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        pub bucket: Vec<Bucket>,
        #[prost(sint32, optional, tag = "5")]
        pub schema: Option<i32>,
        #[prost(double, optional, tag = "6")]
        pub zero_threshold: Option<f64>,
        #[prost(uint64, optional, tag = "7")]
        pub zero_count: Option<u64>,
        #[prost(message, repeated, tag = "12")]
        pub positive_span: Vec<BucketSpan>,
        #[prost(sint64, repeated, packed = "false", tag = "13")]
        pub positive_delta: Vec<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Bucket {
        #[prost(uint64, optional, tag = "1")]
        pub cumulative_count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub upper_bound: Option<f64>,
        #[prost(message, optional, tag = "3")]
        pub exemplar: Option<Exemplar>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct BucketSpan {
        #[prost(sint32, optional, tag = "1")]
        pub offset: Option<i32>,
        #[prost(uint32, optional, tag = "2")]
        pub length: Option<u32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Exemplar {
        #[prost(message, repeated, tag = "1")]
        pub label: Vec<LabelPair>,
        #[prost(double, optional, tag = "2")]
        pub value: Option<f64>,
        #[prost(message, optional, tag = "3")]
        pub timestamp: Option<Timestamp>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Timestamp {
        #[prost(int64, tag = "1")]
        pub seconds: i64,
        #[prost(int32, tag = "2")]
        pub nanos: i32,
    }
}

impl wire::MetricFamily {
    fn of(family: &Family) -> Self {
        let metric = family.series.iter().map(|series| {
            let metric = wire::Metric { label: labels(&series.labels), ..wire::Metric::default() };
            match &series.value {
                Value::Number(value) => {
                    let number = Some(wire::Number { value: Some(*value) });
                    match family.kind {
                        Kind::Counter => wire::Metric { counter: number, ..metric },
                        _ => wire::Metric { gauge: number, ..metric },
                    }
                }
                Value::Histogram(reading) => wire::Metric { histogram: Some(histogram(reading)), ..metric },
                Value::Summary(reading) => wire::Metric { summary: Some(summary(reading)), ..metric },
            }
        });
        let kind = match family.kind {
            Kind::Counter => wire::MetricType::Counter,
            Kind::Gauge => wire::MetricType::Gauge,
            Kind::Histogram => wire::MetricType::Histogram,
            Kind::Summary => wire::MetricType::Summary,
        };
        Self {
            name: Some(family.name.to_string()),
            help: Some(family.help.to_string()),
            r#type: Some(kind.into()),
            metric: metric.collect(),
        }
    }
}

fn labels(labels: &LabelSet) -> Vec<wire::LabelPair> {
    labels.pairs().iter().map(|(name, value)| pair(name, value.clone())).collect()
}

fn pair(name: &str, value: String) -> wire::LabelPair {
    wire::LabelPair { name: Some(name.to_owned()), value: Some(value) }
}

fn summary(reading: &SummaryReading) -> wire::Summary {
    let quantile = reading
        .quantiles
        .iter()
        .map(|&(quantile, value)| wire::Quantile { quantile: Some(quantile), value: Some(value) });
    wire::Summary { sample_count: Some(reading.count), sample_sum: Some(reading.sum), quantile: quantile.collect() }
}

fn histogram(reading: &HistogramReading) -> wire::Histogram {
    let mut count = 0;
    let limits = reading.limits.iter().copied().chain([f64::INFINITY]);
    let bucket = limits.zip(&reading.counts).enumerate().map(|(index, (limit, own))| {
        count += own;
        wire::Bucket {
            cumulative_count: Some(count),
            upper_bound: Some(limit),
            exemplar: reading.exemplars.get(index).and_then(Option::as_ref).map(exemplar),
        }
    });
    let classic = wire::Histogram {
        bucket: bucket.collect(),
        sample_count: Some(reading.count()),
        sample_sum: Some(reading.sum),
        ..wire::Histogram::default()
    };
    match &reading.native {
        None => classic,
        Some(native) => with_native(classic, native),
    }
}

/// Spans of buckets that follow each other, and the change of the count from each bucket to the next.
fn with_native(classic: wire::Histogram, native: &NativeReading) -> wire::Histogram {
    let mut spans: Vec<wire::BucketSpan> = Vec::new();
    let mut deltas = Vec::with_capacity(native.buckets.len());
    let (mut next, mut last) = (0, 0);
    for &(index, count) in &native.buckets {
        match spans.last_mut() {
            Some(span) if index == next => span.length = span.length.map(|length| length + 1),
            _ => spans.push(wire::BucketSpan { offset: Some(index - next), length: Some(1) }),
        }
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        deltas.push(count - last);
        (next, last) = (index + 1, count);
    }
    if spans.is_empty() {
        // a span without buckets says that the histogram is a native one, which nothing else would
        spans.push(wire::BucketSpan { offset: Some(0), length: Some(0) });
    }
    wire::Histogram {
        schema: Some(native.schema),
        zero_threshold: Some(ZERO_THRESHOLD),
        zero_count: Some(native.zero_count),
        positive_span: spans,
        positive_delta: deltas,
        ..classic
    }
}

fn exemplar(exemplar: &latency::Exemplar) -> wire::Exemplar {
    let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = wire::Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
        nanos: at.subsec_nanos().cast_signed(),
    };
    wire::Exemplar {
        label: vec![pair("trace_id", exemplar.trace_id.to_string())],
        value: Some(exemplar.value),
        timestamp: Some(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::exposition_tests::page, *};

    fn decode(mut bytes: &[u8]) -> Vec<wire::MetricFamily> {
        std::iter::from_fn(|| {
            (!bytes.is_empty()).then(|| wire::MetricFamily::decode_length_delimited(&mut bytes).unwrap())
        })
        .collect()
    }

    #[test]
    fn every_family_is_a_message_behind_its_length() {
        let page = page();
        let families = decode(&page.protobuf());
        let names: Vec<_> = families.iter().map(|family| family.name()).collect();
        assert_eq!(names, page.families.iter().map(|family| &*family.name).collect::<Vec<_>>());
        for (sent, family) in families.iter().zip(&page.families) {
            assert_eq!(sent.metric.len(), family.series.len());
            for (sent, series) in sent.metric.iter().zip(&family.series) {
                let labels: Vec<_> = sent.label.iter().map(|pair| (pair.name().into(), pair.value().into())).collect();
                assert_eq!(labels, series.labels.pairs());
                let number = sent.counter.as_ref().or(sent.gauge.as_ref()).map(|number| number.value());
                match &series.value {
                    Value::Number(value) => assert_eq!(number.map(f64::to_bits), Some(value.to_bits())),
                    Value::Histogram(reading) => {
                        assert_eq!(sent.histogram.as_ref().map(wire::Histogram::sample_count), Some(reading.count()));
                    }
                    Value::Summary(reading) => {
                        assert_eq!(sent.summary.as_ref().map(wire::Summary::sample_count), Some(reading.count));
                    }
                }
            }
        }
    }

    #[test]
    fn native_buckets_are_spans_and_differences() {
        let native = |buckets: &[(i32, u64)]| {
            let native = NativeReading { schema: 3, zero_count: 2, buckets: buckets.to_vec() };
            let sent = histogram(&HistogramReading { native: Some(native), ..HistogramReading::default() });
            let spans: Vec<_> = sent.positive_span.iter().map(|span| (span.offset(), span.length())).collect();
            (spans, sent.positive_delta)
        };
        assert_eq!(native(&[(-80, 3), (-79, 1), (-60, 5)]), (vec![(-80, 2), (18, 1)], vec![3, -2, 4]));
        assert_eq!(native(&[(7, 1)]), (vec![(7, 1)], vec![1]));
        assert_eq!(native(&[]), (vec![(0, 0)], vec![]));
    }
}
