//! Observations counted by bucket: classic buckets, whose limits are given, and native ones, which follow from the values.
//!
//! Source: Prometheus, "Native histograms" (standard exponential schemas).

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use crate::trace::TraceId;

/// Upper limits of the classic buckets of latencies, seconds.
const LIMITS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Native buckets per power of two, as an exponent of two: each is 9 % wider than the one below.
const SCHEMA: i32 = 3;
const PER_DOUBLING: i32 = 1 << SCHEMA;
/// Indices of the lowest and highest native bucket: a microsecond and less, and an hour and more.
const LOWEST: i32 = -20 * PER_DOUBLING;
const HIGHEST: i32 = 12 * PER_DOUBLING;
const NATIVE_BUCKETS: usize = (HIGHEST - LOWEST + 1) as usize;

/// Where more is told of one observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The trace in which it was observed.
    pub trace_id: TraceId,
    /// What was observed.
    pub value: f64,
    /// When.
    pub at: SystemTime,
}

/// Observations, counted by bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistogramReading {
    /// Upper limits, ascending and finite: one more bucket has none.
    pub limits: Cow<'static, [f64]>,
    /// Observations in each bucket alone; one more than there are limits.
    pub counts: Vec<u64>,
    /// All observations together.
    pub sum: f64,
    /// The last exemplar of each bucket; empty where none are kept.
    pub exemplars: Vec<Option<Exemplar>>,
    /// The same observations in native buckets, where they are kept.
    pub native: Option<NativeReading>,
}

/// Observations in native buckets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NativeReading {
    /// Buckets per power of two, as an exponent of two.
    pub schema: i32,
    /// Observations of nothing at all.
    pub zero_count: u64,
    /// Index and count of each bucket that has any, ascending. Bucket `i` reaches up to 2 to the power of `i / 2^schema`.
    pub buckets: Vec<(i32, u64)>,
}

impl HistogramReading {
    /// All observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds the observations of another with the same limits; one with others is forgotten.
    pub(super) fn add(&mut self, other: &Self) {
        if self.limits != other.limits {
            return;
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own += other);
        self.sum += other.sum;
        if let (Some(own), Some(other)) = (&mut self.native, &other.native) {
            own.zero_count += other.zero_count;
            for &(index, count) in &other.buckets {
                match own.buckets.binary_search_by_key(&index, |bucket| bucket.0) {
                    Ok(at) => own.buckets[at].1 += count,
                    Err(at) => own.buckets.insert(at, (index, count)),
                }
            }
        }
    }
}

/// A classic histogram.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    limits: Cow<'static, [f64]>,
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Limits ascend; the last may be infinite, and is there anyway.
    pub(crate) fn new(limits: &[f64]) -> Self {
        let limits: Vec<f64> = limits.iter().copied().filter(|limit| limit.is_finite()).collect();
        Self::of(limits.into())
    }

    /// Limits ascend and are finite.
    pub(super) fn of(limits: Cow<'static, [f64]>) -> Self {
        Self { counts: vec![0; limits.len() + 1], limits, sum: 0.0 }
    }

    pub(crate) fn observe(&mut self, value: f64) {
        // what is no number lies in no bucket but the last
        let bucket =
            if value.is_nan() { self.limits.len() } else { self.limits.partition_point(|limit| *limit < value) };
        self.counts[bucket] += 1;
        self.sum += value;
    }

    pub(crate) fn read(&self) -> HistogramReading {
        let Self { limits, counts, sum } = self.clone();
        HistogramReading { limits, counts, sum, ..HistogramReading::default() }
    }
}

/// Durations in seconds, in classic and native buckets at once.
#[derive(Debug, Clone)]
pub(super) struct LatencyHistogram {
    counts: [u64; LIMITS.len() + 1],
    sum: f64,
    zero_count: u64,
    native: Box<[u64; NATIVE_BUCKETS]>,
    exemplars: [Option<Exemplar>; LIMITS.len() + 1],
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            counts: [0; LIMITS.len() + 1],
            sum: 0.0,
            zero_count: 0,
            native: Box::new([0; NATIVE_BUCKETS]),
            exemplars: [None; LIMITS.len() + 1],
        }
    }
}

impl LatencyHistogram {
    pub(super) fn observe(&mut self, took: Duration, exemplar: Option<Exemplar>) {
        let value = took.as_secs_f64();
        let bucket = LIMITS.partition_point(|limit| *limit < value);
        self.counts[bucket] += 1;
        self.sum += value;
        if let Some(exemplar) = exemplar {
            self.exemplars[bucket] = Some(Exemplar { value, ..exemplar });
        }
        if took.is_zero() {
            self.zero_count += 1;
        } else {
            let index = (value.log2() * f64::from(PER_DOUBLING)).ceil() as i32;
            self.native[(index.clamp(LOWEST, HIGHEST) - LOWEST) as usize] += 1;
        }
    }

    pub(super) fn read(&self) -> HistogramReading {
        let buckets = (LOWEST..).zip(self.native.iter()).filter(|(_, count)| **count > 0);
        let has_exemplars = self.exemplars.iter().any(Option::is_some);
        HistogramReading {
            limits: Cow::Borrowed(&LIMITS),
            counts: self.counts.to_vec(),
            sum: self.sum,
            exemplars: if has_exemplars { self.exemplars.to_vec() } else { Vec::new() },
            native: Some(NativeReading {
                schema: SCHEMA,
                zero_count: self.zero_count,
                buckets: buckets.map(|(index, count)| (index, *count)).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_lies_in_the_bucket_whose_limit_it_reaches() {
        let mut histogram = Histogram::new(&[-1.0, 0.0, 1.0, 2.5, f64::INFINITY]);
        for value in [0.0, 1.0, 2.0, 3.0, 1e9] {
            histogram.observe(value);
        }
        let reading = histogram.read();
        assert_eq!(*reading.limits, [-1.0, 0.0, 1.0, 2.5]);
        assert_eq!(reading.counts, [0, 1, 1, 1, 2]);
        assert_eq!((reading.count(), reading.sum), (5, 1e9 + 6.0));
    }

    #[test]
    fn native_buckets_hold_what_classic_ones_do() {
        let mut histogram = LatencyHistogram::default();
        let micros = [0, 1, 3, 100, 101, 999, 1000, 1_000_000, 1_050_000, 7_200_000_000];
        for value in micros {
            histogram.observe(Duration::from_micros(value), None);
        }
        let reading = histogram.read();
        let native = reading.native.as_ref().unwrap();
        assert_eq!(native.zero_count + native.buckets.iter().map(|it| it.1).sum::<u64>(), micros.len() as u64);
        assert_eq!(reading.count(), micros.len() as u64);
        assert!(native.buckets.contains(&(0, 1)), "a second is the limit of bucket 0: {native:?}");
        assert!(native.buckets.contains(&(1, 1)), "1.05 s lies in the next: {native:?}");
        assert_eq!(native.buckets.last(), Some(&(HIGHEST, 1)));
        for &(index, _) in &native.buckets[1..native.buckets.len() - 1] {
            let limit = 2f64.powf(f64::from(index) / 8.0);
            let below = limit / 2f64.powf(1.0 / 8.0);
            let is_in = |value: &u64| below < *value as f64 / 1e6 && *value as f64 / 1e6 <= limit * (1.0 + 1e-12);
            assert!(micros.iter().any(is_in), "{index}");
        }
    }

    #[test]
    fn those_of_a_version_that_was_replaced_are_added() {
        let of = |values: &[u64]| {
            let mut histogram = LatencyHistogram::default();
            values.iter().for_each(|value| histogram.observe(Duration::from_micros(*value), None));
            histogram.read()
        };
        let mut sum = of(&[0, 100, 5_000]);
        sum.add(&of(&[0, 7, 5_000, 90_000_000]));
        let HistogramReading { sum: total, .. } = of(&[0, 100, 5_000, 0, 7, 5_000, 90_000_000]);
        assert!((sum.sum - total).abs() < 1e-9);
        sum.sum = total;
        assert_eq!(sum, of(&[0, 100, 5_000, 0, 7, 5_000, 90_000_000]));
        let other = HistogramReading { limits: vec![1.0].into(), counts: vec![1, 1], ..HistogramReading::default() };
        let before = sum.clone();
        sum.add(&other);
        assert_eq!(sum, before);
    }

    #[test]
    fn a_bucket_keeps_its_last_exemplar() {
        let mut histogram = LatencyHistogram::default();
        let trace = |byte| TraceId([byte; 16]);
        let exemplar = |byte| Some(Exemplar { trace_id: trace(byte), value: 0.0, at: SystemTime::UNIX_EPOCH });
        histogram.observe(Duration::from_millis(3), exemplar(1));
        histogram.observe(Duration::from_millis(4), exemplar(2));
        histogram.observe(Duration::from_millis(4), None);
        histogram.observe(Duration::from_millis(700), exemplar(3));
        let reading = histogram.read();
        let kept: Vec<_> = reading.exemplars.iter().flatten().map(|it| (it.trace_id, it.value)).collect();
        assert_eq!(kept, [(trace(2), 0.004), (trace(3), 0.7)]);
    }
}
