//! The metrics page: Triton's families with Triton's names, labels and help texts, from snapshots. Nothing is kept
//! between two pages, so nothing is paid for a page nobody asks for.
//!
//! Source: Triton metrics document.

use prometheus::{
    Encoder, TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{byte_budget::ByteBudget, stats::ModelSnapshot};

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
    value: fn(&ModelSnapshot) -> f64,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> Family {
    Family { name, help, is_gauge: false, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&ModelSnapshot) -> f64) -> Family {
    Family { name, help, is_gauge: true, value }
}

const SUCCESS: (&str, &str) =
    ("nv_inference_request_success", "Number of successful inference requests, all batch sizes");
const FAILURE: (&str, &str) = ("nv_inference_request_failure", "Number of failed inference requests, all batch sizes");

/// One series per model version, in the order of the page.
const PER_MODEL: [Family; 9] = [
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
    gauge(
        "nv_inference_pending_request_count",
        "Instantaneous number of pending requests awaiting execution per-model.",
        |model| model.pending as f64,
    ),
    gauge("nv_model_load_duration_secs", "Model load time in seconds", |model| model.load_ns as f64 / 1e9),
];

/// The page, Prometheus text format 0.0.4. A family stands there even while no model does.
pub fn page(models: &[ModelSnapshot], machine: Option<&MachineSnapshot>) -> String {
    let mut page = String::new();
    let success = models.iter().map(|model| (labels(model, None), model.success.count as f64));
    family(&mut page, SUCCESS.0, SUCCESS.1, false, success);
    let failures = models.iter().flat_map(|model| {
        let reasons = [
            ("REJECTED", model.failures.rejected),
            ("CANCELED", model.failures.canceled),
            ("BACKEND", model.failures.backend),
            ("OTHER", model.failures.other),
        ];
        reasons.map(|(reason, count)| (labels(model, Some(reason)), count as f64))
    });
    family(&mut page, FAILURE.0, FAILURE.1, false, failures);
    for Family { name, help, is_gauge, value } in &PER_MODEL {
        family(&mut page, name, help, *is_gauge, models.iter().map(|model| (labels(model, None), value(model))));
    }
    if let Some(machine) = machine {
        let gauges = [
            ("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", machine.cpu_utilization),
            ("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", machine.memory_total as f64),
            ("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", machine.memory_used as f64),
        ];
        for (name, help, value) in gauges {
            family(&mut page, name, help, true, [(Vec::new(), value)].into_iter());
        }
    }
    page
}

/// The part of the page about the memory of requests: what is in use, the limit if there is one, and what was refused.
pub fn request_memory(budget: &ByteBudget) -> String {
    let mut page = String::new();
    let mut one = |name, help, is_gauge, value| family(&mut page, name, help, is_gauge, [(vec![], value)].into_iter());
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

fn family(
    page: &mut String,
    name: &str,
    help: &str,
    is_gauge: bool,
    series: impl Iterator<Item = (Vec<LabelPair>, f64)>,
) {
    let kind = if is_gauge { MetricType::GAUGE } else { MetricType::COUNTER };
    let metrics: Vec<Metric> = series.map(|(labels, value)| metric(labels, value, is_gauge)).collect();
    if metrics.is_empty() {
        // The encoder refuses a family without series.
        let kind = if is_gauge { "gauge" } else { "counter" };
        page.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        return;
    }
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    let mut text = Vec::new();
    TextEncoder::new().encode(&[family], &mut text).expect("writing to memory cannot fail and the family has series");
    page.push_str(&String::from_utf8_lossy(&text));
}

fn metric(labels: Vec<LabelPair>, value: f64, is_gauge: bool) -> Metric {
    let mut metric = Metric::from_label(labels);
    if is_gauge {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    } else {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    }
    metric
}

fn labels(model: &ModelSnapshot, reason: Option<&str>) -> Vec<LabelPair> {
    let mut labels = vec![label("model", &model.name), label("version", &model.version.to_string())];
    if let Some(uuid) = &model.gpu_uuid {
        labels.push(label("gpu_uuid", uuid));
    }
    labels.extend(model.metric_tags.iter().map(|(key, value)| label(&format!("_{key}"), value)));
    labels.extend(reason.map(|reason| label("reason", reason)));
    labels.sort_unstable_by(|a, b| a.name().cmp(b.name())); // as Triton prints them, whichever there are
    labels
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

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
            load_ns: 1_500_000_000,
            ..ModelSnapshot::default()
        };
        let machine = MachineSnapshot { cpu_utilization: 0.25, memory_total: 25_000_000_000, memory_used: 1 };
        insta::assert_snapshot!(page(&[model], Some(&machine)));
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
