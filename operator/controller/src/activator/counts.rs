//! The activator's own numbers, as a Prometheus page.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};

/// Buckets of the time that requests are held: a start is seconds to minutes.
const SECONDS: [f64; 10] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// The activator's own numbers.
#[derive(Debug)]
pub(super) struct Counts {
    registry: Registry,
    pub(super) held: IntGauge,
    pub(super) connections: IntGauge,
    pub(super) servers: IntGauge,
    pub(super) hold_seconds: Histogram,
    requests: IntCounterVec,
}

impl Counts {
    /// All at zero.
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let seconds = HistogramOpts::new("triton_activator_hold_seconds", "How long requests were held")
            .buckets(SECONDS.to_vec());
        let requests = Opts::new("triton_activator_requests_total", "Requests, by what became of them");
        Self {
            held: gauge("triton_activator_held", "Requests that wait for a pod"),
            connections: gauge("triton_activator_connections", "Open connections"),
            servers: gauge("triton_activator_servers", "Servers that are listened for"),
            hold_seconds: register(&registry, Histogram::with_opts(seconds)),
            requests: register(&registry, IntCounterVec::new(requests, &["outcome"])),
            registry,
        }
    }

    /// A request ended so.
    pub(super) fn ended(&self, outcome: &str) {
        self.requests.with_label_values(&[outcome]).inc();
    }

    /// The page.
    pub(super) fn page(&self) -> String {
        let mut page = vec![];
        // a page of numbers of ours cannot fail to be written into memory
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut page);
        String::from_utf8_lossy(&page).into_owned()
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("the names above are valid");
    registry.register(Box::new(collector.clone())).expect("the names above are each used once");
    collector
}
