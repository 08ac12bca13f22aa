//! The operator's own numbers, as a Prometheus page.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

/// Buckets of a reconcile: it is a few requests to the API server.
const SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Buckets of what may begin with a download: times are known in whole seconds.
const TO_READY: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

/// The operator's own numbers.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    reconcile_seconds: Histogram,
    reconciles_active: IntGauge,
    queue_length: IntGauge,
    queue_wait: Gauge,
    writes: IntCounterVec,
    dropped_events: IntCounter,
    polls: IntCounterVec,
    pods_followed: IntGauge,
    load_scrapes: IntCounterVec,
    pods_scraped: IntGauge,
    watch_failures: IntCounterVec,
    is_leader: IntGauge,
    resources: IntGaugeVec,
    replicas: IntGaugeVec,
    models: IntGaugeVec,
    time_to_ready: HistogramVec,
}

/// What the page tells of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerCounts {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Replicas, by state.
    pub(crate) replicas: [(&'static str, i32); 2],
    /// Models, by state.
    pub(crate) models: [(&'static str, i32); 3],
}

/// What the page tells of the resources there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    /// Of each kind: how many there are, and how many of them are ready.
    pub(crate) resources: Vec<(&'static str, usize, usize)>,
    pub(crate) servers: Vec<ServerCounts>,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        Self {
            reconciles: counters(
                "triton_operator_reconcile_total",
                "Reconciles of a server, by how they ended",
                &["outcome"],
            ),
            reconcile_seconds: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "triton_operator_reconcile_duration_seconds",
                        "How long a reconcile of a server took",
                    )
                    .buckets(SECONDS.to_vec()),
                ),
            ),
            reconciles_active: gauge("triton_operator_reconciles_active", "Reconciles under way"),
            queue_length: gauge("triton_operator_queue_length", "Servers that are to be reconciled, at once or later"),
            queue_wait: register(
                &registry,
                Gauge::new(
                    "triton_operator_queue_wait_seconds",
                    "How long the server that was reconciled last had waited beyond its time",
                ),
            ),
            writes: counters("triton_operator_writes_total", "Writes to the API server", &["kind", "verb"]),
            dropped_events: register(
                &registry,
                IntCounter::new(
                    "triton_operator_events_dropped_total",
                    "Events that were not written, since more happened than is written",
                ),
            ),
            polls: counters("triton_operator_pod_polls_total", "Questions to pods, by what came of them", &["outcome"]),
            pods_followed: gauge("triton_operator_pods_followed", "Pods whose state is followed"),
            load_scrapes: counters(
                "triton_operator_load_scrapes_total",
                "Questions for the load of pods, by what came of them",
                &["outcome"],
            ),
            pods_scraped: gauge("triton_operator_pods_scraped", "Pods whose load is asked for"),
            watch_failures: counters("triton_operator_watch_failures_total", "Watches that broke off", &["kind"]),
            is_leader: gauge("triton_operator_leader", "1 while this one leads"),
            resources: gauges(
                "triton_operator_resources",
                "Resources there are, by whether they are ready",
                &["kind", "ready"],
            ),
            replicas: gauges(
                "triton_operator_server_replicas",
                "Replicas of a TritonServer: wanted, ready",
                &["server_namespace", "server", "state"],
            ),
            models: gauges(
                "triton_operator_server_models",
                "Models of a TritonServer: desired, loaded on every replica, left out or failed on one",
                &["server_namespace", "server", "state"],
            ),
            time_to_ready: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "triton_operator_time_to_ready_seconds",
                        "From the moment a resource was applied until it was ready",
                    )
                    .buckets(TO_READY.to_vec()),
                    &["kind"],
                ),
            ),
            registry,
        }
    }

    /// A resource that was applied at that time is ready.
    pub(crate) fn became_ready(&self, kind: &str, applied: &Time, now: &Time) {
        let seconds = now.0.as_second().saturating_sub(applied.0.as_second()).max(0);
        self.time_to_ready.with_label_values(&[kind]).observe(f64::from(u32::try_from(seconds).unwrap_or(u32::MAX)));
    }

    /// A reconcile begins. `ended` of what it returns says how it ended.
    pub(crate) fn reconcile(&self) -> ReconcileTimer<'_> {
        self.reconciles_active.inc();
        ReconcileTimer { metrics: self, began: std::time::Instant::now(), outcome: "cancelled" }
    }

    /// So many servers are to be reconciled, and so long the last one had waited.
    pub(crate) fn queued(&self, (length, wait): (usize, Duration)) {
        self.queue_length.set(i64::try_from(length).unwrap_or(i64::MAX));
        self.queue_wait.set(wait.as_secs_f64());
    }

    /// Something was written.
    pub(crate) fn wrote(&self, kind: &str, verb: &str) {
        self.writes.with_label_values(&[kind, verb]).inc();
    }

    /// So many events are not written.
    pub(crate) fn dropped_events(&self, count: u64) {
        self.dropped_events.inc_by(count);
    }

    /// A pod was asked.
    pub(crate) fn polled(&self, outcome: &str) {
        self.polls.with_label_values(&[outcome]).inc();
    }

    /// So many pods are followed now.
    pub(crate) fn follows_pods(&self, count: usize) {
        self.pods_followed.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A pod was asked for its load.
    pub(crate) fn scraped(&self, outcome: &str) {
        self.load_scrapes.with_label_values(&[outcome]).inc();
    }

    /// So many pods are asked for their load now.
    pub(crate) fn scrapes_pods(&self, count: usize) {
        self.pods_scraped.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A watch broke off.
    pub(crate) fn watch_failed(&self, kind: &str) {
        self.watch_failures.with_label_values(&[kind]).inc();
    }

    /// Whether this one leads.
    pub(crate) fn leads(&self, leads: bool) {
        self.is_leader.set(leads.into());
    }

    /// The page, with what there is now.
    pub(crate) fn page(&self, inventory: &Inventory) -> String {
        for (kind, all, ready) in &inventory.resources {
            let set = |label: &str, count: usize| {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.resources.with_label_values(&[*kind, label]).set(count);
            };
            set("true", *ready);
            set("false", all - ready);
        }
        self.replicas.reset(); // of servers that are gone
        self.models.reset();
        for ServerCounts { namespace, name, replicas, models } in &inventory.servers {
            let set = |gauges: &IntGaugeVec, (state, count): (&str, i32)| {
                gauges.with_label_values(&[namespace.as_str(), name, state]).set(count.into());
            };
            replicas.iter().for_each(|count| set(&self.replicas, *count));
            models.iter().for_each(|count| set(&self.models, *count));
        }
        let mut page = vec![];
        // a page of numbers of ours cannot fail to be written into memory
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut page);
        String::from_utf8_lossy(&page).into_owned()
    }
}

/// A reconcile under way.
#[derive(Debug)]
pub(crate) struct ReconcileTimer<'a> {
    metrics: &'a Metrics,
    began: std::time::Instant,
    outcome: &'static str,
}

impl ReconcileTimer<'_> {
    /// How it ended.
    pub(crate) fn ended(mut self, outcome: &'static str) -> Duration {
        self.outcome = outcome;
        self.began.elapsed()
    }
}

impl Drop for ReconcileTimer<'_> {
    fn drop(&mut self) {
        self.metrics.reconciles_active.dec();
        self.metrics.reconcile_seconds.observe(self.began.elapsed().as_secs_f64());
        self.metrics.reconciles.with_label_values(&[self.outcome]).inc();
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("the names above are valid");
    registry.register(Box::new(collector.clone())).expect("the names above are each used once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_what_was_counted() {
        let metrics = Metrics::new();
        let timer = metrics.reconcile();
        assert!(metrics.page(&Inventory::default()).contains("triton_operator_reconciles_active 1"));
        timer.ended("done");
        metrics.wrote("Deployment", "apply");
        let time = |seconds| Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap());
        metrics.became_ready("TritonModel", &time(100), &time(103));
        let server = ServerCounts {
            namespace: "ml".into(),
            name: "vision".into(),
            replicas: [("wanted", 2), ("ready", 1)],
            models: [("desired", 4), ("loaded", 3), ("failed", 1)],
        };
        let resources = vec![("TritonServer", 3, 2)];
        let page = metrics.page(&Inventory { resources: resources.clone(), servers: vec![server] });
        for line in [
            "triton_operator_reconcile_total{outcome=\"done\"} 1",
            "triton_operator_reconciles_active 0",
            "triton_operator_time_to_ready_seconds_bucket{kind=\"TritonModel\",le=\"2\"} 0",
            "triton_operator_time_to_ready_seconds_bucket{kind=\"TritonModel\",le=\"5\"} 1",
            "triton_operator_writes_total{kind=\"Deployment\",verb=\"apply\"} 1",
            "triton_operator_resources{kind=\"TritonServer\",ready=\"false\"} 1",
            "triton_operator_server_replicas{server=\"vision\",server_namespace=\"ml\",state=\"ready\"} 1",
            "triton_operator_server_models{server=\"vision\",server_namespace=\"ml\",state=\"failed\"} 1",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
        let page = metrics.page(&Inventory { resources, servers: vec![] });
        assert!(!page.contains("vision"), "a server that is gone is not told of:\n{page}");
    }
}
