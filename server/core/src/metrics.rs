//! The metrics page: Triton's families with Triton's names, labels and help texts, from snapshots. Nothing is kept
//! between two pages, so nothing is paid for a page nobody asks for.
//!
//! Source: Triton metrics document.

use std::collections::BTreeMap;

use prometheus::{
    Encoder, TextEncoder,
    proto::{Counter, Gauge, Metric, MetricFamily, MetricType},
};

use crate::{
    byte_budget::ByteBudget,
    custom_metrics::MetricKind,
    load::LoadSnapshot,
    stats::{CustomCounter, ModelSnapshot},
};

/// Beginning of the names of families that only this server has.
pub(crate) const OWN_PREFIX: &str = "tritonserver_";

/// The kind of a family of the server's own that Triton has too.
pub(crate) fn own_kind(name: &str) -> Option<MetricKind> {
    let is_gauge = match PER_MODEL.iter().find(|family| family.name == name) {
        Some(family) => family.is_gauge,
        None if name == SUCCESS.0 || name == FAILURE.0 => false,
        None if OF_MACHINE.iter().any(|(of_machine, ..)| *of_machine == name) => true,
        None if OF_LOCAL_CACHE.iter().any(|(of_cache, ..)| *of_cache == name) => true,
        None => return None,
    };
    Some(if is_gauge { MetricKind::Gauge } else { MetricKind::Counter })
}

/// What is measured of the machine. Utilisation is a fraction from 0 to 1, the rest bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MachineSnapshot {
    /// Busy share of all processors since the last look.
    pub cpu_utilization: f64,
    /// Memory of the machine.
    pub memory_total: u64,
    /// Memory in use.
    pub memory_used: u64,
}

struct Family {
    name: &'static str,
    help: &'static str,
    is_gauge: bool,
    /// Only models have it that ask for the response cache, and without any it is not there.
    is_of_cache: bool,
    value: fn(&ModelSnapshot) -> f64,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> Family {
    Family { name, help, is_gauge: false, is_of_cache: false, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> Family {
    Family { name, help, is_gauge: true, is_of_cache: false, value }
}

const fn of_cache(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> Family {
    Family { name, help, is_gauge: false, is_of_cache: true, value }
}

const SUCCESS: (&str, &str) =
    ("nv_inference_request_success", "Number of successful inference requests, all batch sizes");
const FAILURE: (&str, &str) = ("nv_inference_request_failure", "Number of failed inference requests, all batch sizes");

/// One series per model version, in the order of the page.
const PER_MODEL: [Family; 13] = [
    counter("nv_inference_count", "Number of inferences performed (does not include cached requests)", |model| {
        model.inference_count as f64
    }),
    counter(
        "nv_inference_exec_count",
        "Number of model executions performed (does not include cached requests)",
        |model| model.execution_count as f64,
    ),
    counter(
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        |model| (model.success.ns / 1000) as f64,
    ),
    counter(
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds (includes cached requests)",
        |model| (model.queue.ns / 1000) as f64,
    ),
    counter(
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
        |model| (model.compute_input.ns / 1000) as f64,
    ),
    counter(
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
        |model| (model.compute_infer.ns / 1000) as f64,
    ),
    counter(
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

type OfLoad = (&'static str, &'static str, bool, fn(&LoadSnapshot) -> u64);

/// The load of models that have a queue, in the order of the page: what autoscalers go by. The totals include what waits or executes
/// now, so that a model that stands still shows between any two pages.
const OF_LOAD: [OfLoad; 5] = [
    (
        "tritonserver_queue_time_us",
        "Time that requests have waited for execution in microseconds, those that wait now included",
        false,
        |load| load.queue_time_us,
    ),
    (
        "tritonserver_queue_exits",
        "Number of requests that have left the queue: to be executed, expired or cancelled",
        false,
        |load| load.queue_exits,
    ),
    (
        "tritonserver_queue_oldest_age_us",
        "How long the oldest of the requests that wait for execution has waited in microseconds, 0 if none waits",
        true,
        |load| load.queue_oldest_age_us,
    ),
    (
        "tritonserver_busy_us",
        "Time that instances have spent executing in microseconds, executions under way included",
        false,
        |load| load.busy_us,
    ),
    ("tritonserver_instances", "Number of instances that execute requests", true, |load| load.instances),
];

type OfMachine = (&'static str, &'static str, fn(&MachineSnapshot) -> f64);

/// Gauges of the machine, in the order of the page.
const OF_MACHINE: [OfMachine; 3] = [
    ("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", |machine| machine.cpu_utilization),
    ("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", |machine| machine.memory_total as f64),
    ("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", |machine| machine.memory_used as f64),
];

/// What is counted of a response cache in the server's own memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheSnapshot {
    /// Bytes in use.
    pub used: u64,
    /// Most bytes it may use.
    pub limit: u64,
    /// Responses that it holds.
    pub entries: u64,
    /// Look-ups that found one.
    pub hits: u64,
    /// Look-ups that found none.
    pub misses: u64,
    /// Responses that left to make room.
    pub evictions: u64,
    /// Time of all look-ups, nanoseconds.
    pub lookup_ns: u64,
    /// Time of all insertions, nanoseconds.
    pub insertion_ns: u64,
}

type OfLocalCache = (&'static str, &'static str, fn(&CacheSnapshot) -> f64);

/// Families of the local response cache, in the order of the page; all of them gauges, as Triton has them.
const OF_LOCAL_CACHE: [OfLocalCache; 8] = [
    ("nv_cache_util", "Cache utilization [0.0 - 1.0]", |cache| cache.used as f64 / cache.limit.max(1) as f64),
    ("nv_cache_num_entries", "Number of responses stored in response cache", |cache| cache.entries as f64),
    ("nv_cache_num_hits", "Number of cache hits in response cache", |cache| cache.hits as f64),
    ("nv_cache_num_misses", "Number of cache misses in response cache", |cache| cache.misses as f64),
    ("nv_cache_num_lookups", "Number of cache lookups in response cache", |cache| (cache.hits + cache.misses) as f64),
    ("nv_cache_num_evictions", "Number of cache evictions in response cache", |cache| cache.evictions as f64),
    ("nv_cache_lookup_duration", "Total cache lookup duration (hit and miss), in microseconds", |cache| {
        (cache.lookup_ns / 1000) as f64
    }),
    ("nv_cache_insertion_duration", "Total cache insertion duration, in microseconds", |cache| {
        (cache.insertion_ns / 1000) as f64
    }),
];

/// The part of the page about a local response cache.
pub fn local_cache(cache: &CacheSnapshot) -> String {
    let mut page = String::new();
    for (name, help, value) in &OF_LOCAL_CACHE {
        single(&mut page, name, help, true, value(cache));
    }
    page
}

/// The page, Prometheus text format 0.0.4. A family stands there even while no model does.
pub fn page(models: &[ModelSnapshot], machine: Option<&MachineSnapshot>) -> String {
    let labels: Vec<Labels> = models.iter().map(Labels::of).collect();
    let families = 2 + PER_MODEL.len() + OF_LOAD.len();
    let mut page = String::with_capacity((families + REASONS.len()) * models.len() * TYPICAL_LINE + families * 160);
    let (name, help) = SUCCESS;
    per_model(&mut page, name, help, false, models.iter().zip(&labels), |model| model.success.count as f64);
    let (name, help) = FAILURE;
    heading(&mut page, name, help, false);
    for (model, labels) in models.iter().zip(&labels) {
        for (reason, count) in REASONS {
            let (before, after) = labels.all.split_at(labels.place_of_reason);
            line(&mut page, name, &[before, ",reason=\"", reason, "\"", after], count(model) as f64);
        }
    }
    for Family { name, help, is_gauge, is_of_cache, value } in &PER_MODEL {
        let all = models.iter().zip(&labels);
        if !is_of_cache {
            per_model(&mut page, name, help, *is_gauge, all, value);
        } else if models.iter().any(|model| model.has_response_cache) {
            per_model(&mut page, name, help, *is_gauge, all.filter(|(model, _)| model.has_response_cache), value);
        }
    }
    for (name, help, is_gauge, value) in &OF_LOAD {
        let with_queue = models.iter().zip(&labels).filter(|(model, _)| model.load.is_some());
        per_model(&mut page, name, help, *is_gauge, with_queue, |model| model.load.as_ref().map_or(0, value) as f64);
    }
    custom_counters(&mut page, models);
    if let Some(machine) = machine {
        for (name, help, value) in &OF_MACHINE {
            single(&mut page, name, help, true, value(machine));
        }
    }
    page
}

/// The families of what models count by themselves, by name.
fn custom_counters(page: &mut String, models: &[ModelSnapshot]) {
    let mut families: BTreeMap<&str, Vec<(&ModelSnapshot, &CustomCounter)>> = BTreeMap::new();
    for model in models {
        for counter in &model.custom {
            families.entry(counter.name).or_default().push((model, counter));
        }
    }
    for (name, series) in families {
        heading(page, name, series.first().map_or("", |(_, counter)| counter.help), false);
        for (model, counter) in series {
            line(page, name, &[&Labels::of_version(&model.name, model.version).all], counter.value as f64);
        }
    }
}

/// What a shadow version was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShadowSnapshot {
    /// Name of the model.
    pub model: String,
    /// The shadow version.
    pub version: u64,
    /// Copies of requests that it was sent.
    pub copies: u64,
    /// Copies that it was not sent, or that it did not take.
    pub refused: u64,
}

/// The part of the page about copies of requests to shadow versions; empty without such versions.
pub fn shadow_copies(shadows: &[ShadowSnapshot]) -> String {
    let mut page = String::new();
    if shadows.is_empty() {
        return page;
    }
    type Count = fn(&ShadowSnapshot) -> u64;
    let families: [(&str, &str, Count); 2] = [
        ("tritonserver_shadow_copies", "Number of requests copied to a shadow version", |shadow| shadow.copies),
        (
            "tritonserver_shadow_copies_refused",
            "Number of copies that a shadow version was not sent, because too many were in flight, or did not take",
            |shadow| shadow.refused,
        ),
    ];
    for (name, help, value) in families {
        heading(&mut page, name, help, false);
        for shadow in shadows {
            line(&mut page, name, &[&Labels::of_version(&shadow.model, shadow.version).all], value(shadow) as f64);
        }
    }
    page
}

/// The part of the page about the memory of requests: what is in use, the limit if there is one, and what was refused.
pub fn request_memory(budget: &ByteBudget) -> String {
    let mut page = String::new();
    let mut one = |name, help, is_gauge, value| single(&mut page, name, help, is_gauge, value);
    one(
        "tritonserver_inflight_request_bytes",
        "Bytes of requests in flight, HTTP and gRPC together",
        true,
        budget.in_use() as f64,
    );
    if let Some(limit) = budget.limit() {
        one(
            "tritonserver_inflight_request_bytes_limit",
            "Most bytes that requests in flight may use: --max-inflight-request-bytes",
            true,
            limit as f64,
        );
    }
    one(
        "tritonserver_inflight_request_bytes_refused",
        "Number of requests refused because too many bytes were in flight",
        false,
        budget.refused() as f64,
    );
    page
}

type Count = fn(&ModelSnapshot) -> u64;

/// The reasons of failures, in the order of the page.
const REASONS: [(&str, Count); 4] = [
    ("REJECTED", |model| model.failures.rejected),
    ("CANCELED", |model| model.failures.canceled),
    ("BACKEND", |model| model.failures.backend),
    ("OTHER", |model| model.failures.other),
];

/// Bytes of most lines, so that a page of many models is written without growing much.
const TYPICAL_LINE: usize = 96;

/// The labels of one model, written once for all its series: in alphabetical order, as Triton prints them.
struct Labels {
    /// With braces.
    all: String,
    /// Where the label `reason` comes in: behind `model` at least.
    place_of_reason: usize,
}

impl Labels {
    /// Name and version alone.
    fn of_version(name: &str, version: u64) -> Self {
        Self::of(&ModelSnapshot { name: name.to_owned(), version, ..ModelSnapshot::default() })
    }

    fn of(model: &ModelSnapshot) -> Self {
        let version = model.version.to_string();
        let mut pairs = vec![("model".to_owned(), model.name.as_str()), ("version".to_owned(), &version)];
        pairs.extend(model.namespace.as_deref().map(|namespace| ("namespace".to_owned(), namespace)));
        pairs.extend(model.gpu_uuid.as_deref().map(|uuid| ("gpu_uuid".to_owned(), uuid)));
        pairs.extend(model.metric_tags.iter().map(|(key, value)| (format!("_{key}"), value.as_str())));
        pairs.sort_unstable();
        let mut labels = Self { all: "{".to_owned(), place_of_reason: 1 };
        for (key, value) in pairs {
            if labels.all.len() > 1 {
                labels.all.push(',');
            }
            labels.all.push_str(&key);
            labels.all.push_str("=\"");
            escape(&mut labels.all, value);
            labels.all.push('"');
            if *key < *"reason" {
                labels.place_of_reason = labels.all.len();
            }
        }
        labels.all.push('}');
        labels
    }
}

/// A label's value in the text format: backslash, quote and line feed are escaped.
pub(crate) fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

fn heading(page: &mut String, name: &str, help: &str, is_gauge: bool) {
    let kind = if is_gauge { "gauge" } else { "counter" };
    page.extend(["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"]);
}

fn line(page: &mut String, name: &str, labels: &[&str], value: f64) {
    page.push_str(name);
    page.extend(labels.iter().copied());
    page.push(' ');
    write_value(page, value);
    page.push('\n');
}

/// A value in the text format, in its shortest form.
pub(crate) fn write_value(page: &mut String, value: f64) {
    // Most values are whole, and those are printed the quicker way.
    if (0.0..WHOLE).contains(&value) && value.fract() == 0.0 {
        page.push_str(itoa::Buffer::new().format(value as u64));
    } else if value.is_infinite() {
        page.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else if value != 0.0 && value.is_finite() && !(SMALL..LARGE).contains(&value.abs()) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |exponent| ("-", exponent));
        page.extend([digits, "e", sign, if exponent.len() < 2 { "0" } else { "" }, exponent]);
    } else {
        page.push_str(&value.to_string());
    }
}

/// Below this every whole number is a double.
const WHOLE: f64 = (1u64 << 53) as f64;

/// Values that are smaller than the one, or not below the other, are written with an exponent.
const SMALL: f64 = 1e-4;
const LARGE: f64 = 1e17;

fn per_model<'a>(
    page: &mut String,
    name: &str,
    help: &str,
    is_gauge: bool,
    models: impl Iterator<Item = (&'a ModelSnapshot, &'a Labels)>,
    value: impl Fn(&ModelSnapshot) -> f64,
) {
    heading(page, name, help, is_gauge);
    for (model, labels) in models {
        line(page, name, &[&labels.all], value(model));
    }
}

/// A family with one series that has no labels.
fn single(page: &mut String, name: &str, help: &str, is_gauge: bool, value: f64) {
    let mut metric = Metric::default();
    if is_gauge {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    } else {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    }
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(if is_gauge { MetricType::GAUGE } else { MetricType::COUNTER });
    family.set_metric(vec![metric]);
    let mut text = Vec::new();
    TextEncoder::new().encode(&[family], &mut text).expect("writing to memory cannot fail and the family has a series");
    page.push_str(&String::from_utf8_lossy(&text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Durations;

    #[test]
    fn a_page_without_models_still_names_every_family() {
        insta::assert_snapshot!(page(&[], None));
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
        insta::assert_snapshot!(page(&[model], Some(&machine)));
    }

    #[test]
    fn models_without_a_queue_have_no_load() {
        let model =
            |name: &str, load| ModelSnapshot { name: name.into(), version: 1, load, ..ModelSnapshot::default() };
        let page = page(&[model("ensemble", None), model("model", Some(LoadSnapshot::default()))], None);
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
            let page = page(models, None);
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
    fn a_local_cache_has_its_gauges() {
        let cache = CacheSnapshot {
            used: 144,
            limit: 10_000,
            entries: 16,
            hits: 23,
            misses: 16,
            evictions: 1,
            lookup_ns: 92_500,
            insertion_ns: 159_000,
        };
        insta::assert_snapshot!(local_cache(&cache));
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
            page(&[model("a", &[("zeros", 1), ("bytes", 64)]), model("b", &[]), model("c", &[("bytes", 2)])], None);
        let (_, custom) = page.split_at(page.find("# HELP bytes").unwrap());
        let expect = "# HELP bytes Of a model\n# TYPE bytes counter\nbytes{model=\"a\",version=\"1\"} 64\n\
                      bytes{model=\"c\",version=\"1\"} 2\n# HELP zeros Of a model\n# TYPE zeros counter\n\
                      zeros{model=\"a\",version=\"1\"} 1\n";
        assert_eq!(custom, expect);
    }

    #[test]
    fn copies_to_shadow_versions_are_shown_where_there_are_such_versions() {
        assert_eq!(shadow_copies(&[]), "");
        let page = shadow_copies(&[ShadowSnapshot { model: "m".into(), version: 3, copies: 12, refused: 1 }]);
        let values: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                "tritonserver_shadow_copies{model=\"m\",version=\"3\"} 12",
                "tritonserver_shadow_copies_refused{model=\"m\",version=\"3\"} 1",
            ]
        );
    }

    #[test]
    fn the_memory_of_requests_is_shown_with_its_limit_if_there_is_one() {
        let budget = std::sync::Arc::new(ByteBudget::new(100));
        let held = budget.reserve(60).unwrap();
        budget.reserve(41).unwrap_err();
        let values = |page: String| -> Vec<String> {
            page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(
            values(request_memory(&budget)),
            [
                "tritonserver_inflight_request_bytes 60",
                "tritonserver_inflight_request_bytes_limit 100",
                "tritonserver_inflight_request_bytes_refused 1",
            ]
        );
        drop(held);
        assert_eq!(values(request_memory(&ByteBudget::new(0))).len(), 2);
    }
}
