//! Distributions of latencies: Triton's summaries and its histogram of first responses, and this server's own histograms.

use std::sync::Arc;

use super::{
    family::{Family, Kind, Page, Series, Value},
    labels::LabelSet,
};
use crate::{
    latency::{FIRST_RESPONSE_FAMILY, HistogramOf, LatencyReadings, SummaryOf},
    stats::ModelSnapshot,
};

type OfSummary = (SummaryOf, &'static str, &'static str);

/// Triton's, in the order of its page.
const SUMMARIES: [OfSummary; 7] = [
    (
        SummaryOf::Request,
        "nv_inference_request_summary_us",
        "Summary of inference request duration in microseconds (includes cached requests)",
    ),
    (
        SummaryOf::Queue,
        "nv_inference_queue_summary_us",
        "Summary of inference queuing duration in microseconds (includes cached requests)",
    ),
    (
        SummaryOf::ComputeInput,
        "nv_inference_compute_input_summary_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
    ),
    (
        SummaryOf::ComputeInfer,
        "nv_inference_compute_infer_summary_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
    ),
    (
        SummaryOf::ComputeOutput,
        "nv_inference_compute_output_summary_us",
        "Cumulative inference compute output duration in microseconds (does not include cached requests)",
    ),
    (
        SummaryOf::CacheHit,
        "nv_cache_hit_summary_per_model",
        "Summary of cache hit counts/durations per model, in microseconds.",
    ),
    (
        SummaryOf::CacheMiss,
        "nv_cache_miss_summary_per_model",
        "Summary of cache miss counts/durations per model, in microseconds.",
    ),
];

type OfHistogram = (HistogramOf, &'static str, &'static str);

/// This server's own.
const HISTOGRAMS: [OfHistogram; 3] = [
    (
        HistogramOf::Request,
        "tritonserver_request_duration_seconds",
        "Time from the arrival of an inference request to its last response in seconds, of requests that ended well",
    ),
    (
        HistogramOf::Queue,
        "tritonserver_queue_duration_seconds",
        "Time for which an inference request waited for its execution in seconds, of requests that ended well",
    ),
    (
        HistogramOf::Compute,
        "tritonserver_compute_duration_seconds",
        "Time of the execution in which an inference request was in seconds, of requests that ended well",
    ),
];

/// The kind of such a family that Triton has too.
pub(super) fn kind(name: &str) -> Option<Kind> {
    let is_summary = SUMMARIES.iter().any(|(_, summary, _)| *summary == name);
    is_summary.then_some(Kind::Summary).or_else(|| (name == FIRST_RESPONSE_FAMILY).then_some(Kind::Histogram))
}

impl Page {
    /// Adds the distributions that models keep. A family that no model keeps is not there.
    pub fn add_latencies(&mut self, models: Vec<ModelSnapshot>) {
        let help = "Duration from request to first response in milliseconds";
        let mut first_response = Family::new(Kind::Histogram, FIRST_RESPONSE_FAMILY, help);
        let mut summaries = SUMMARIES.map(|(_, name, help)| Family::new(Kind::Summary, name, help));
        let mut histograms = HISTOGRAMS.map(|(_, name, help)| Family::new(Kind::Histogram, name, help));
        for mut model in models {
            let Some(readings) = model.latencies.take() else { continue };
            let labels = Arc::new(LabelSet::of_model(&model));
            let add = |family: &mut Family, value| family.series.push(Series { labels: labels.clone(), value });
            let LatencyReadings { first_response: first, summaries: kept, own } = *readings;
            if let Some(histogram) = first {
                add(&mut first_response, Value::Histogram(Box::new(histogram)));
            }
            for (of, summary) in kept {
                let family = SUMMARIES.iter().zip(&mut summaries).find(|((other, ..), _)| *other == of);
                if let Some((_, family)) = family {
                    add(family, Value::Summary(Box::new(summary)));
                }
            }
            for (of, histogram) in own {
                let family = HISTOGRAMS.iter().zip(&mut histograms).find(|((other, ..), _)| *other == of);
                if let Some((_, family)) = family {
                    add(family, Value::Histogram(Box::new(histogram)));
                }
            }
        }
        let families = [first_response].into_iter().chain(summaries).chain(histograms);
        self.families.extend(families.filter(|family| !family.series.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{
        completion::{EndedRequest, Marks, RequestRecord},
        latency::{Latencies, LatencySettings},
        stats::ModelCounters,
    };

    fn model(name: &str, settings: &LatencySettings, has_response_cache: bool) -> ModelSnapshot {
        let counts = ModelSnapshot { name: name.into(), version: 1, has_response_cache, ..ModelSnapshot::default() };
        let mut counters = ModelCounters::new(counts, Latencies::new(settings, None, has_response_cache));
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for longer in [0, 300] {
            let record = RequestRecord { received_at: at(0), queued_at: at(1), batch_size: 1 };
            let marks = Marks { start: at(3), input_end: at(4), output_start: at(104 + longer), end: at(109 + longer) };
            counters.record_end(EndedRequest { record: &record, trace: None }, &marks, 0);
            counters.record_first_response(record.received_at, marks.end);
        }
        if has_response_cache {
            counters.record_cache_miss(Duration::from_micros(53), at(500));
            counters.record_cache_hit(at(500), at(500), at(501));
        }
        counters.metrics(at(600))
    }

    fn page(models: Vec<ModelSnapshot>) -> String {
        let mut page = Page::default();
        page.add_latencies(models);
        page.text()
    }

    #[test]
    fn every_distribution_is_written_as_triton_writes_it() {
        let pairs = [
            ("summary_latencies", "true"),
            ("histogram_latencies", "true"),
            ("summary_quantiles", "0.5:0.05,0.9:0.01"),
        ];
        let settings = LatencySettings::parse(pairs).unwrap();
        insta::assert_snapshot!(page(vec![model("cached", &settings, true), model("plain", &settings, false)]));
    }

    #[test]
    fn histograms_of_this_server_are_in_seconds() {
        let settings = LatencySettings::parse([("latency_histograms", "true")]).unwrap();
        insta::assert_snapshot!(page(vec![model("m", &settings, false)]));
    }

    #[test]
    fn nothing_is_kept_or_shown_unless_it_is_asked_for() {
        let model = model("m", &LatencySettings::default(), true);
        assert_eq!(model.latencies, None);
        assert_eq!(page(vec![model]), "");
    }
}
