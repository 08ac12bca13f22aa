//! Families with one series per model version.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    family::{Family, Kind, Page},
    labels::LabelSet,
};
use crate::{
    load::LoadSnapshot,
    stats::{CustomCounter, ModelSnapshot},
};

/// A family with one series per model version.
struct PerModel {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// Without `counter_latencies` it is not there.
    is_latency: bool,
    /// Only models have it that ask for the response cache, and without any it is not there.
    is_of_cache: bool,
    value: fn(&ModelSnapshot) -> f64,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> PerModel {
    PerModel { name, help, kind: Kind::Counter, is_latency: false, is_of_cache: false, value }
}

const fn latency(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> PerModel {
    PerModel { is_latency: true, ..counter(name, help, value) }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> PerModel {
    PerModel { kind: Kind::Gauge, ..counter(name, help, value) }
}

const fn of_cache(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> PerModel {
    PerModel { is_of_cache: true, ..latency(name, help, value) }
}

const SUCCESS: (&str, &str) =
    ("nv_inference_request_success", "Number of successful inference requests, all batch sizes");
const FAILURE: (&str, &str) = ("nv_inference_request_failure", "Number of failed inference requests, all batch sizes");

/// One series per model version, in the order of the page.
const PER_MODEL: [PerModel; 13] = [
    counter("nv_inference_count", "Number of inferences performed (does not include cached requests)", |model| {
        model.inference_count as f64
    }),
    counter(
        "nv_inference_exec_count",
        "Number of model executions performed (does not include cached requests)",
        |model| model.execution_count as f64,
    ),
    latency(
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        |model| (model.success.ns / 1000) as f64,
    ),
    latency(
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds (includes cached requests)",
        |model| (model.queue.ns / 1000) as f64,
    ),
    latency(
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
        |model| (model.compute_input.ns / 1000) as f64,
    ),
    latency(
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
        |model| (model.compute_infer.ns / 1000) as f64,
    ),
    latency(
        "nv_inference_compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds (does not include cached requests)",
        |model| (model.compute_output.ns / 1000) as f64,
    ),
    of_cache("nv_cache_num_hits_per_model", "Number of cache hits per model", |model| model.cache_hit.count as f64),
    of_cache("nv_cache_hit_duration_per_model", "Total cache hit duration per model, in microseconds", |model| {
        (model.cache_hit.ns / 1000) as f64
    }),
    of_cache("nv_cache_num_misses_per_model", "Number of cache misses per model", |model| {
        model.cache_miss.count as f64
    }),
    of_cache(
        "nv_cache_miss_duration_per_model",
        "Total cache miss (insert+lookup) duration per model, in microseconds",
        |model| (model.cache_miss.ns / 1000) as f64,
    ),
    gauge(
        "nv_inference_pending_request_count",
        "Instantaneous number of pending requests awaiting execution per-model.",
        |model| model.pending as f64,
    ),
    gauge("nv_model_load_duration_secs", "Model load time in seconds", |model| model.load_ns as f64 / 1e9),
];

type OfLoad = (&'static str, &'static str, Kind, fn(&LoadSnapshot) -> u64);

/// The load of models that have a queue, in the order of the page: what autoscalers go by. The totals include what waits or executes
/// now, so that a model that stands still shows between any two pages.
const OF_LOAD: [OfLoad; 5] = [
    (
        "tritonserver_queue_time_us",
        "Time that requests have waited for execution in microseconds, those that wait now included",
        Kind::Counter,
        |load| load.queue_time_us,
    ),
    (
        "tritonserver_queue_exits",
        "Number of requests that have left the queue: to be executed, expired or cancelled",
        Kind::Counter,
        |load| load.queue_exits,
    ),
    (
        "tritonserver_queue_oldest_age_us",
        "How long the oldest of the requests that wait for execution has waited in microseconds, 0 if none waits",
        Kind::Gauge,
        |load| load.queue_oldest_age_us,
    ),
    (
        "tritonserver_busy_us",
        "Time that instances have spent executing in microseconds, executions under way included",
        Kind::Counter,
        |load| load.busy_us,
    ),
    ("tritonserver_instances", "Number of instances that execute requests", Kind::Gauge, |load| load.instances),
];

type Count = fn(&ModelSnapshot) -> u64;

/// The reasons of failures, in the order of the page.
const REASONS: [(&str, Count); 4] = [
    ("REJECTED", |model| model.failures.rejected),
    ("CANCELED", |model| model.failures.canceled),
    ("BACKEND", |model| model.failures.backend),
    ("OTHER", |model| model.failures.other),
];

/// The kind of such a family that Triton has too.
pub(super) fn kind(name: &str) -> Option<Kind> {
    match PER_MODEL.iter().find(|family| family.name == name) {
        Some(family) => Some(family.kind),
        None => [SUCCESS.0, FAILURE.0].contains(&name).then_some(Kind::Counter),
    }
}

impl Page {
    /// Adds what is counted of models. A family stands there even while no model does. Without `counters` those of latencies are
    /// not there, and the others count nothing.
    ///
    /// Source: Triton, recorded with `--metrics-config counter_latencies=false`.
    pub fn add_models(&mut self, models: &[ModelSnapshot], counters: bool) {
        let frozen: Vec<ModelSnapshot>;
        let models = if counters {
            models
        } else {
            frozen = models.iter().map(ModelSnapshot::without_counts).collect();
            &frozen
        };
        let labels: Vec<_> = models.iter().map(|model| Arc::new(LabelSet::of_model(model))).collect();
        let all = || models.iter().zip(&labels);
        let family = |kind, name, help, value: &dyn Fn(&ModelSnapshot) -> Option<f64>| {
            let numbers = all().filter_map(|(model, labels)| Some((labels.clone(), value(model)?)));
            Family::new(kind, name, help).with(numbers)
        };
        let (name, help) = SUCCESS;
        self.families.push(family(Kind::Counter, name, help, &|model| Some(model.success.count as f64)));
        let (name, help) = FAILURE;
        let reasons = REASONS.map(|(reason, count)| (Arc::<str>::from(reason), count));
        let failures = all().flat_map(|(model, labels)| {
            let labels = |reason: &Arc<str>| Arc::new(labels.and(("reason".into(), reason.clone())));
            reasons.iter().map(move |(reason, count)| (labels(reason), count(model) as f64))
        });
        self.families.push(Family::new(Kind::Counter, name, help).with(failures));
        let has_cache = models.iter().any(|model| model.has_response_cache);
        let is_shown = |family: &&PerModel| counters || !family.is_latency;
        for PerModel { name, help, kind, is_of_cache, value, .. } in PER_MODEL.iter().filter(is_shown) {
            if !is_of_cache {
                self.families.push(family(*kind, name, help, &|model| Some(value(model))));
            } else if has_cache {
                self.families.push(family(*kind, name, help, &|model| model.has_response_cache.then(|| value(model))));
            }
        }
        for (name, help, kind, value) in &OF_LOAD {
            self.families.push(family(*kind, name, help, &|model| model.load.as_ref().map(|load| value(load) as f64)));
        }
        self.families.extend(custom_counters(models));
    }
}

/// The families of what models count by themselves, by name.
fn custom_counters(models: &[ModelSnapshot]) -> impl Iterator<Item = Family> {
    let mut families: BTreeMap<&'static str, Vec<(&ModelSnapshot, &CustomCounter)>> = BTreeMap::new();
    for model in models {
        for counter in &model.custom {
            families.entry(counter.name).or_default().push((model, counter));
        }
    }
    families.into_iter().map(|(name, series)| {
        let help = series.first().map_or("", |(_, counter)| counter.help);
        let numbers = series
            .into_iter()
            .map(|(model, counter)| (LabelSet::of_version(&model.name, model.version), counter.value as f64));
        Family::new(Kind::Counter, name, help).with(numbers)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::MachineSnapshot, stats::Durations};

    fn page(models: &[ModelSnapshot], machine: Option<&MachineSnapshot>) -> Page {
        let mut page = Page::default();
        page.add_models(models, true);
        machine.iter().for_each(|machine| page.add_machine(machine));
        page
    }

    #[test]
    fn a_page_without_models_still_names_every_family() {
        insta::assert_snapshot!(page(&[], None).text());
    }

    #[test]
    fn a_model_has_every_series_and_whole_numbers_have_no_point() {
        let model = ModelSnapshot {
            name: "m".into(),
            version: 2,
            metric_tags: vec![("team".into(), "vi\"sion".into())],
            inference_count: 12,
            load: Some(LoadSnapshot {
                queue_time_us: 70,
                queue_exits: 4,
                queue_oldest_age_us: 5,
                busy_us: 600,
                instances: 2,
            }),
            load_ns: 1_500_000_000,
            ..ModelSnapshot::default()
        };
        let machine = MachineSnapshot { cpu_utilization: 0.25, memory_total: 25_000_000_000, memory_used: 1 };
        insta::assert_snapshot!(page(&[model], Some(&machine)).text());
    }

    #[test]
    fn without_counters_latencies_are_not_there_and_nothing_is_counted() {
        let model = ModelSnapshot {
            name: "m".into(),
            version: 1,
            inference_count: 12,
            success: Durations { count: 3, ns: 4_999 },
            has_response_cache: true,
            pending: 2,
            ..ModelSnapshot::default()
        };
        let mut page = Page::default();
        page.add_models(&[model], false);
        let text = page.text();
        assert!(text.contains("nv_inference_count{model=\"m\",version=\"1\"} 0\n"), "{text}");
        assert!(text.contains("nv_inference_pending_request_count{model=\"m\",version=\"1\"} 2\n"), "{text}");
        assert!(!text.contains("duration_us") && !text.contains("nv_cache"), "{text}");
    }

    #[test]
    fn models_without_a_queue_have_no_load() {
        let model =
            |name: &str, load| ModelSnapshot { name: name.into(), version: 1, load, ..ModelSnapshot::default() };
        let page = page(&[model("ensemble", None), model("model", Some(LoadSnapshot::default()))], None).text();
        let series: Vec<_> = page.lines().filter(|line| line.starts_with("tritonserver_")).collect();
        assert_eq!(series.len(), OF_LOAD.len());
        assert!(series.iter().all(|line| line.contains("model=\"model\"")), "{series:?}");
    }

    #[test]
    fn models_that_ask_for_the_response_cache_have_its_series() {
        let model = |name: &str, has_response_cache| ModelSnapshot {
            name: name.into(),
            version: 1,
            cache_hit: Durations { count: 3, ns: 4_999 },
            cache_miss: Durations { count: 2, ns: 10_000 },
            has_response_cache,
            ..ModelSnapshot::default()
        };
        let of_cache = |models: &[ModelSnapshot]| {
            let page = page(models, None).text();
            let series: Vec<_> = page.lines().filter(|line| line.starts_with("nv_cache_")).map(str::to_owned).collect();
            (series, page.matches("# TYPE nv_cache_").count())
        };
        let (series, families) = of_cache(&[model("a", false), model("b", true)]);
        assert_eq!(
            series,
            [
                "nv_cache_num_hits_per_model{model=\"b\",version=\"1\"} 3",
                "nv_cache_hit_duration_per_model{model=\"b\",version=\"1\"} 4",
                "nv_cache_num_misses_per_model{model=\"b\",version=\"1\"} 2",
                "nv_cache_miss_duration_per_model{model=\"b\",version=\"1\"} 10",
            ]
        );
        assert_eq!(families, 4);
        assert_eq!(of_cache(&[model("a", false)]), (vec![], 0));
    }

    #[test]
    fn what_models_count_by_themselves_stands_together_by_name() {
        let model = |name: &str, counters: &[(&'static str, u64)]| ModelSnapshot {
            name: name.into(),
            version: 1,
            metric_tags: vec![("team".into(), "vision".into())],
            custom: counters.iter().map(|&(name, value)| CustomCounter { name, help: "Of a model", value }).collect(),
            ..ModelSnapshot::default()
        };
        let page =
            page(&[model("a", &[("zeros", 1), ("bytes", 64)]), model("b", &[]), model("c", &[("bytes", 2)])], None)
                .text();
        let (_, custom) = page.split_at(page.find("# HELP bytes").unwrap());
        let expect = "# HELP bytes Of a model\n# TYPE bytes counter\nbytes{model=\"a\",version=\"1\"} 64\n\
                      bytes{model=\"c\",version=\"1\"} 2\n# HELP zeros Of a model\n# TYPE zeros counter\n\
                      zeros{model=\"a\",version=\"1\"} 1\n";
        assert_eq!(custom, expect);
    }
}
