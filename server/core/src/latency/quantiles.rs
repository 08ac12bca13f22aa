//! Quantiles of the last minute, each within an error of its own, in bounded memory.
//!
//! Source: Cormode, Korn, Muthukrishnan, Srivastava, "Effective Computation of Biased Quantiles over Data Streams" (2005), with
//! targeted quantiles; window and ages as prometheus-cpp has them, which Triton uses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A quantile, and by how much its rank may be wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantile {
    /// From 0 to 1.
    pub quantile: f64,
    /// From 0 to 1.
    pub error: f64,
}

/// What a summary says at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SummaryReading {
    /// Each quantile, and the value at it of the last minute; no number if nothing was observed.
    pub quantiles: Vec<(f64, f64)>,
    /// Observations ever.
    pub count: u64,
    /// All of them together.
    pub sum: f64,
}

/// How long an observation counts.
const WINDOW: Duration = Duration::from_secs(60);
/// Parts of the window: the oldest is forgotten at once.
const AGES: usize = 5;
/// Observations that wait to be sorted in.
const BUFFER: usize = 500;

/// Durations, in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    quantiles: Arc<[Quantile]>,
    /// Each has seen what came since it was emptied last; the one that was emptied the longest ago is read.
    ages: [Sketch; AGES],
    oldest: usize,
    /// When the oldest is emptied.
    turn: Option<Instant>,
    count: u64,
    sum: f64,
}

impl Summary {
    pub(super) fn new(quantiles: Arc<[Quantile]>) -> Self {
        Self { quantiles, ages: Default::default(), oldest: 0, turn: None, count: 0, sum: 0.0 }
    }

    /// Adds an observation, in whole microseconds as Triton does.
    pub(super) fn observe(&mut self, took: Duration, now: Instant) {
        self.turn_to(now);
        let value = took.as_micros() as f64;
        self.count += 1;
        self.sum += value;
        for age in &mut self.ages {
            age.insert(value, &self.quantiles);
        }
    }

    pub(super) fn read(&mut self, now: Instant) -> SummaryReading {
        self.turn_to(now);
        let sketch = &mut self.ages[self.oldest];
        sketch.settle(&self.quantiles);
        SummaryReading { quantiles: sketch.values(&self.quantiles), count: self.count, sum: self.sum }
    }

    fn turn_to(&mut self, now: Instant) {
        let step = WINDOW / AGES as u32;
        let turn = self.turn.get_or_insert(now + step);
        if now.saturating_duration_since(*turn) >= WINDOW {
            self.ages.iter_mut().for_each(Sketch::clear);
            *turn = now + step;
        }
        while *turn <= now {
            self.ages[self.oldest].clear();
            self.oldest = (self.oldest + 1) % AGES;
            *turn += step;
        }
    }
}

/// Values in order, of which those that no quantile needs are left out.
#[derive(Debug, Clone, Default)]
struct Sketch {
    samples: Vec<Sample>,
    /// Values in `samples`, those left out as well.
    count: u64,
    buffer: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    value: f64,
    /// How many values it stands for: those left out below it, and itself.
    width: u64,
    /// By how much its rank may be more.
    slack: u64,
}

impl Sketch {
    fn insert(&mut self, value: f64, quantiles: &[Quantile]) {
        self.buffer.push(value);
        if self.buffer.len() >= BUFFER {
            self.settle(quantiles);
        }
    }

    fn clear(&mut self) {
        self.samples.clear();
        self.buffer.clear();
        self.count = 0;
    }

    /// Sorts in what waits, and leaves out what is not needed.
    fn settle(&mut self, quantiles: &[Quantile]) {
        if self.buffer.is_empty() {
            return;
        }
        self.buffer.sort_unstable_by(f64::total_cmp);
        let old = std::mem::take(&mut self.samples);
        let mut merged: Vec<Sample> = Vec::with_capacity(old.len() + self.buffer.len());
        let mut old = old.into_iter().peekable();
        for &value in &self.buffer {
            while let Some(sample) = old.next_if(|sample| sample.value <= value) {
                merged.push(sample);
            }
            // it may lie anywhere among those that the next one stands for; the least and the greatest are known exactly
            let slack = if merged.is_empty() { 0 } else { old.peek().map_or(0, |next| next.width + next.slack - 1) };
            merged.push(Sample { value, width: 1, slack });
            self.count += 1;
        }
        merged.extend(old);
        self.buffer.clear();
        self.samples = compressed(merged, self.count, quantiles);
    }

    /// Each quantile, and the value whose rank is within its error.
    fn values(&self, quantiles: &[Quantile]) -> Vec<(f64, f64)> {
        // each search goes on where the one before has ended: quantiles ascend
        let (mut place, mut below, mut last_bound) = (0, 0, 0.0);
        let value = |Quantile { quantile, .. }: &Quantile| {
            let wanted = (quantile * self.count as f64).ceil();
            let bound = wanted + allowed(wanted as u64, self.count, quantiles) / 2.0;
            if bound < last_bound {
                (place, below) = (0, 0);
            }
            last_bound = bound;
            while let [sample, next, ..] = &self.samples[place..]
                && (below + sample.width + next.width + next.slack) as f64 <= bound
            {
                below += sample.width;
                place += 1;
            }
            (*quantile, self.samples.get(place).map_or(f64::NAN, |sample| sample.value))
        };
        quantiles.iter().map(value).collect()
    }
}

/// By how much a rank may be wrong so that every quantile is within its error.
fn allowed(rank: u64, count: u64, quantiles: &[Quantile]) -> f64 {
    let (rank, count) = (rank as f64, count as f64);
    let each = quantiles.iter().map(|Quantile { quantile, error }| {
        if rank < quantile * count {
            2.0 * error * (count - rank) / (1.0 - quantile)
        } else if *quantile > 0.0 {
            2.0 * error * rank / quantile
        } else {
            2.0 * error * count
        }
    });
    each.fold(count + 1.0, f64::min)
}

/// Without the samples that the one above can stand for.
fn compressed(samples: Vec<Sample>, count: u64, quantiles: &[Quantile]) -> Vec<Sample> {
    let mut kept: Vec<Sample> = Vec::with_capacity(samples.len());
    let mut above_count = count;
    // from above, so that each is looked at once: the last kept is the one above
    for (index, sample) in samples.into_iter().enumerate().rev() {
        above_count -= sample.width;
        if let Some(above) = kept.last_mut()
            && index > 0 // the least stays
            && (sample.width + above.width + above.slack) as f64 <= allowed(above_count, count, quantiles)
        {
            above.width += sample.width;
            continue;
        }
        kept.push(sample);
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usual() -> Arc<[Quantile]> {
        [(0.5, 0.05), (0.9, 0.01), (0.95, 0.001), (0.99, 0.001), (0.999, 0.001)]
            .map(|(quantile, error)| Quantile { quantile, error })
            .into()
    }

    /// How far the rank of each quantile is from where it belongs, as a share of all values, and the error it may have.
    fn errors(values: &[u64], quantiles: &Arc<[Quantile]>) -> Vec<(f64, f64)> {
        let now = Instant::now();
        let mut summary = Summary::new(quantiles.clone());
        for value in values {
            summary.observe(Duration::from_micros(*value), now);
        }
        let reading = summary.read(now);
        assert_eq!((reading.count, reading.sum), (values.len() as u64, values.iter().sum::<u64>() as f64));
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let of = |(quantile, value): &(f64, f64)| {
            let below = sorted.partition_point(|it| (*it as f64) < *value) as f64;
            let up_to = sorted.partition_point(|it| (*it as f64) <= *value) as f64;
            let wanted = quantile * sorted.len() as f64;
            let off = if wanted < below { below - wanted } else { (wanted - up_to).max(0.0) };
            off / sorted.len() as f64
        };
        reading.quantiles.iter().map(of).zip(quantiles.iter().map(|it| it.error)).collect()
    }

    proptest! {
        #[test]
        fn every_quantile_is_within_its_error(values in prop::collection::vec(0..1_000_000u64, 1..4000)) {
            let one = 1.5 / values.len() as f64; // a rank is a whole number
            for (off, allowed) in errors(&values, &usual()) {
                prop_assert!(off <= allowed + one, "{off} {allowed} of {}", values.len());
            }
        }
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        for order in [|it| it, |it| 200_000 - it, |it: u64| it.wrapping_mul(2_654_435_761) % 200_000] {
            let values: Vec<u64> = (0..200_000).map(order).collect();
            let (now, quantiles) = (Instant::now(), usual());
            let mut summary = Summary::new(quantiles.clone());
            values.iter().for_each(|value| summary.observe(Duration::from_micros(*value), now));
            let samples = summary.ages[0].samples.len();
            assert!(samples < 4000, "{samples} samples");
            for (off, allowed) in errors(&values, &quantiles) {
                assert!(off <= allowed + 1e-5, "{off} {allowed}");
            }
        }
    }

    #[test]
    fn the_last_minute_counts_and_the_sum_is_of_all() {
        let start = Instant::now();
        let mut summary = Summary::new(vec![Quantile { quantile: 0.5, error: 0.0 }].into());
        let mut median = |observed: Option<u64>, seconds| {
            let now = start + Duration::from_secs(seconds);
            observed.iter().for_each(|value| summary.observe(Duration::from_micros(*value), now));
            let reading = summary.read(now);
            (reading.quantiles[0].1, reading.count, reading.sum)
        };
        assert!(median(None, 0).0.is_nan());
        assert_eq!(median(Some(7), 1), (7.0, 1, 7.0));
        assert_eq!(median(None, 47), (7.0, 1, 7.0));
        assert!(median(None, 61).0.is_nan());
        assert_eq!(median(Some(9), 62), (9.0, 2, 16.0));
        let long_after = median(None, 10_000);
        assert!(long_after.0.is_nan());
        assert_eq!(long_after.1, 2);
    }
}
