//! Distributions of latencies that a model version keeps beside its counters, where the command line asks for them: Triton's
//! summaries and its histogram of first responses, and histograms of this server's own. Without them nothing is kept and nothing
//! is paid.
//!
//! Source: Triton metrics document, `--metrics-config`.

mod histogram;
mod quantiles;
mod settings;

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

pub use histogram::{Exemplar, HistogramReading, NativeReading};
pub use quantiles::{Quantile, SummaryReading};
pub use settings::{FIRST_RESPONSE_FAMILY, LatencySettings, SettingError};

pub(crate) use self::histogram::Histogram;
use self::{histogram::LatencyHistogram, quantiles::Summary, settings::FIRST_RESPONSE_LIMITS};
use crate::record::ComputeTimes;

/// What took time of one request that ended well.
#[derive(Debug, Clone, Copy)]
pub struct RequestTimes {
    /// From its arrival to its last response.
    pub request: Duration,
    /// In the queue.
    pub queue: Duration,
    /// Being executed; `None` where the response cache answered.
    pub compute: Option<ComputeTimes>,
}

/// Distributions of one model version.
#[derive(Debug, Clone)]
pub struct Latencies {
    first_response: Option<Histogram>,
    summaries: Option<Box<Summaries>>,
    own: Option<Box<Own>>,
}

#[derive(Debug, Clone)]
struct Summaries {
    /// As in Triton, not of models with the response cache.
    request: Option<Summary>,
    queue: Summary,
    compute_input: Summary,
    compute_infer: Summary,
    compute_output: Summary,
    /// Of models with the response cache: hits and misses.
    cache: Option<[Summary; 2]>,
}

#[derive(Debug, Clone, Default)]
struct Own {
    request: LatencyHistogram,
    queue: LatencyHistogram,
    compute: LatencyHistogram,
}

/// What distributions say at one moment; what is not kept is not there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LatencyReadings {
    /// Milliseconds to the first response.
    pub first_response: Option<HistogramReading>,
    /// Microseconds, by [`SummaryOf`].
    pub summaries: Vec<(SummaryOf, SummaryReading)>,
    /// Seconds, by [`HistogramOf`].
    pub own: Vec<(HistogramOf, HistogramReading)>,
}

/// What a summary is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SummaryOf {
    /// The whole request.
    Request,
    /// Its time in the queue.
    Queue,
    /// Time to make inputs ready.
    ComputeInput,
    /// Time in the runtime.
    ComputeInfer,
    /// Time to take outputs apart.
    ComputeOutput,
    /// Answers from the response cache.
    CacheHit,
    /// Look-ups that found nothing.
    CacheMiss,
}

/// What a histogram of this server's own is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistogramOf {
    /// The whole request.
    Request,
    /// Its time in the queue.
    Queue,
    /// Its execution.
    Compute,
}

impl Latencies {
    /// Those that the settings ask for of a model; `None` if they ask for none. `first_response_limits` are the model's own
    /// buckets, and `has_cache` says whether it has the response cache.
    pub fn new(settings: &LatencySettings, first_response_limits: Option<&[f64]>, has_cache: bool) -> Option<Self> {
        if !settings.has_distributions() {
            return None;
        }
        let first_response = settings
            .first_response
            .then(|| first_response_limits.map_or_else(first_response_histogram, Histogram::new));
        let summaries = settings.quantiles.as_ref().map(|quantiles| {
            let new = || Summary::new(quantiles.clone());
            Box::new(Summaries {
                request: (!has_cache).then(new),
                queue: new(),
                compute_input: new(),
                compute_infer: new(),
                compute_output: new(),
                cache: has_cache.then(|| [new(), new()]),
            })
        });
        Some(Self { first_response, summaries, own: settings.own_histograms.then(Box::default) })
    }

    /// A request ended well. `exemplar` says where more is told of it.
    pub(crate) fn ended(&mut self, times: &RequestTimes, now: Instant, exemplar: Option<Exemplar>) {
        if let Some(summaries) = &mut self.summaries {
            if let Some(request) = &mut summaries.request {
                request.observe(times.request, now);
            }
            summaries.queue.observe(times.queue, now);
            if let Some(compute) = &times.compute {
                summaries.compute_input.observe(compute.input, now);
                summaries.compute_infer.observe(compute.infer, now);
                summaries.compute_output.observe(compute.output, now);
            }
        }
        if let Some(own) = &mut self.own {
            own.request.observe(times.request, exemplar);
            own.queue.observe(times.queue, exemplar);
            if let Some(compute) = &times.compute {
                own.compute.observe(compute.input + compute.infer + compute.output, exemplar);
            }
        }
    }

    /// The first response of a request came so long after the request.
    pub(crate) fn responded_first(&mut self, after: Duration) {
        if let Some(histogram) = &mut self.first_response {
            histogram.observe(after.as_millis() as f64);
        }
    }

    /// The response cache answered, after so long.
    pub(crate) fn cache_hit(&mut self, took: Duration, now: Instant) {
        if let Some([hit, _]) = self.summaries.as_mut().and_then(|summaries| summaries.cache.as_mut()) {
            hit.observe(took, now);
        }
    }

    /// The response cache did not answer; that took so long, its keeping of the answer included.
    pub(crate) fn cache_miss(&mut self, took: Duration, now: Instant) {
        if let Some([_, miss]) = self.summaries.as_mut().and_then(|summaries| summaries.cache.as_mut()) {
            miss.observe(took, now);
        }
    }

    /// What they say now.
    pub fn read(&mut self, now: Instant) -> LatencyReadings {
        let mut readings = LatencyReadings {
            first_response: self.first_response.as_ref().map(Histogram::read),
            ..LatencyReadings::default()
        };
        if let Some(summaries) = &mut self.summaries {
            let Summaries { request, queue, compute_input, compute_infer, compute_output, cache } = &mut **summaries;
            let mut read = |of, summary: &mut Summary| readings.summaries.push((of, summary.read(now)));
            request.iter_mut().for_each(|request| read(SummaryOf::Request, request));
            read(SummaryOf::Queue, queue);
            read(SummaryOf::ComputeInput, compute_input);
            read(SummaryOf::ComputeInfer, compute_infer);
            read(SummaryOf::ComputeOutput, compute_output);
            if let Some([hit, miss]) = cache {
                read(SummaryOf::CacheHit, hit);
                read(SummaryOf::CacheMiss, miss);
            }
        }
        if let Some(own) = &self.own {
            readings.own = vec![
                (HistogramOf::Request, own.request.read()),
                (HistogramOf::Queue, own.queue.read()),
                (HistogramOf::Compute, own.compute.read()),
            ];
        }
        readings
    }
}

fn first_response_histogram() -> Histogram {
    Histogram::of(Cow::Borrowed(&FIRST_RESPONSE_LIMITS))
}

impl LatencyReadings {
    /// Adds those of a version that this one has replaced, for series that go on from one to the other. Quantiles stay this one's:
    /// they are of the last minute.
    pub(crate) fn add(&mut self, replaced: &Self) {
        if let (Some(own), Some(replaced)) = (&mut self.first_response, &replaced.first_response) {
            own.add(replaced);
        }
        for (of, own) in &mut self.summaries {
            if let Some((_, replaced)) = replaced.summaries.iter().find(|(other, _)| other == of) {
                own.count += replaced.count;
                own.sum += replaced.sum;
            }
        }
        for (of, own) in &mut self.own {
            if let Some((_, replaced)) = replaced.own.iter().find(|(other, _)| other == of) {
                own.add(replaced);
            }
        }
    }
}
