//! Prometheus' protobuf format, which has native histograms besides all that the text formats have: each family is one message
//! behind its length. A page has tens of thousands of series, so they are written as bytes at once, and no message is built.
//!
//! Source: Prometheus client model, `io.prometheus.client` (metrics.proto): names and numbers of fields.

pub(super) mod wire;

use std::time::UNIX_EPOCH;

use self::wire::{double, message, signed, text, unsigned, with_length};
use super::{
    family::{Family, Kind, Page, Series, Value},
    labels::write_pair,
};
use crate::latency::{Exemplar, HistogramReading, NativeReading, SummaryReading};

/// Below this a native histogram counts observations as nothing.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39; // 2 to the power of -128, as Prometheus' own libraries have it
/// Bytes of most series of a number, or of what one line of a text says of the others, so that a page of many models is written
/// without growing much.
const TYPICAL_LINE: usize = 80;

impl Page {
    /// The page, length-delimited messages.
    pub fn protobuf(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.lines() * TYPICAL_LINE);
        for family in &self.families {
            with_length(&mut bytes, |bytes| write_family(bytes, family));
        }
        bytes
    }
}

/// `MetricFamily`.
fn write_family(bytes: &mut Vec<u8>, family: &Family) {
    text(bytes, 1, &family.name);
    text(bytes, 2, &family.help);
    let (kind, number_field) = match family.kind {
        Kind::Counter => (0, 3),
        Kind::Gauge => (1, 2),
        Kind::Summary => (2, 2),
        Kind::Histogram => (4, 2),
    };
    unsigned(bytes, 3, kind);
    for series in &family.series {
        message(bytes, 4, |bytes| write_series(bytes, series, number_field));
    }
}

/// `Metric`.
fn write_series(bytes: &mut Vec<u8>, series: &Series, number_field: u32) {
    bytes.extend_from_slice(series.labels.messages());
    match &series.value {
        Value::Number(value) => message(bytes, number_field, |bytes| double(bytes, 1, *value)),
        Value::Summary(reading) => message(bytes, 4, |bytes| write_summary(bytes, reading)),
        Value::Histogram(reading) => message(bytes, 7, |bytes| write_histogram(bytes, reading)),
    }
}

/// `Summary`.
fn write_summary(bytes: &mut Vec<u8>, reading: &SummaryReading) {
    unsigned(bytes, 1, reading.count);
    double(bytes, 2, reading.sum);
    for (quantile, value) in &reading.quantiles {
        message(bytes, 3, |bytes| {
            double(bytes, 1, *quantile);
            double(bytes, 2, *value);
        });
    }
}

/// `Histogram`.
fn write_histogram(bytes: &mut Vec<u8>, reading: &HistogramReading) {
    unsigned(bytes, 1, reading.count());
    double(bytes, 2, reading.sum);
    let mut count = 0;
    let limits = reading.limits.iter().copied().chain([f64::INFINITY]);
    for (index, (limit, own)) in limits.zip(&reading.counts).enumerate() {
        count += own;
        message(bytes, 3, |bytes| {
            unsigned(bytes, 1, count);
            double(bytes, 2, limit);
            if let Some(exemplar) = reading.exemplars.get(index).and_then(Option::as_ref) {
                message(bytes, 3, |bytes| write_exemplar(bytes, exemplar));
            }
        });
    }
    reading.native.iter().for_each(|native| write_native(bytes, native));
}

/// The native part of a `Histogram`: spans of buckets that follow each other, and the change of the count from each bucket to the
/// next.
fn write_native(bytes: &mut Vec<u8>, native: &NativeReading) {
    signed(bytes, 5, native.schema.into());
    double(bytes, 6, ZERO_THRESHOLD);
    unsigned(bytes, 7, native.zero_count);
    let (mut next, mut rest) = (0, native.buckets.as_slice());
    while let Some(&(first, _)) = rest.first() {
        let length = (first..).zip(rest).take_while(|(index, bucket)| *index == bucket.0).count();
        write_span(bytes, first - next, length as u64);
        next = rest[length - 1].0 + 1;
        rest = &rest[length..];
    }
    if native.buckets.is_empty() {
        // a span without buckets says that the histogram is a native one, which nothing else would
        write_span(bytes, 0, 0);
    }
    let mut last = 0;
    for (_, count) in &native.buckets {
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        signed(bytes, 13, count - last);
        last = count;
    }
}

/// `BucketSpan`.
fn write_span(bytes: &mut Vec<u8>, offset: i32, length: u64) {
    message(bytes, 12, |bytes| {
        signed(bytes, 1, offset.into());
        unsigned(bytes, 2, length);
    });
}

/// `Exemplar`.
fn write_exemplar(bytes: &mut Vec<u8>, exemplar: &Exemplar) {
    write_pair(bytes, "trace_id", &exemplar.trace_id.to_string());
    double(bytes, 2, exemplar.value);
    let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    message(bytes, 3, |bytes| {
        unsigned(bytes, 1, at.as_secs());
        unsigned(bytes, 2, at.subsec_nanos().into());
    });
}

// === fields ===

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{super::exposition_tests::page, *};

    /// The messages as another writer would build them.
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

    fn decode(mut bytes: &[u8]) -> Vec<wire::MetricFamily> {
        std::iter::from_fn(|| {
            (!bytes.is_empty()).then(|| wire::MetricFamily::decode_length_delimited(&mut bytes).unwrap())
        })
        .collect()
    }

    #[test]
    fn every_family_is_a_message_behind_its_length() {
        let page = page();
        let bytes = page.protobuf();
        let families = decode(&bytes);
        let again: Vec<u8> = families.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
        assert_eq!(again, bytes, "as another writer writes it");
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
            let mut bytes = Vec::new();
            write_histogram(&mut bytes, &HistogramReading { native: Some(native), ..HistogramReading::default() });
            let sent = wire::Histogram::decode(&*bytes).unwrap();
            assert_eq!(sent.encode_to_vec(), bytes, "fields in the order of their numbers");
            let spans: Vec<_> = sent.positive_span.iter().map(|span| (span.offset(), span.length())).collect();
            (spans, sent.positive_delta)
        };
        assert_eq!(native(&[(-80, 3), (-79, 1), (-60, 5)]), (vec![(-80, 2), (18, 1)], vec![3, -2, 4]));
        assert_eq!(native(&[(7, 1)]), (vec![(7, 1)], vec![1]));
        assert_eq!(native(&[]), (vec![(0, 0)], vec![]));
    }
}
