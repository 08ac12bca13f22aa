//! How long does a page of 1,000 models take, in each form, without and with distributions of latencies?
//!
//! Usage: `cargo run --release -p server-core --example metrics_page`. The median of 101 pages, in milliseconds.

#![allow(clippy::print_stdout, reason = "it is a program that measures")]

use std::time::{Duration, Instant};

use server_core::{
    completion::{EndedRequest, Marks, RequestRecord},
    latency::{Latencies, LatencySettings},
    load::LoadSnapshot,
    metrics::{Format, MachineSnapshot, Page},
    stats::{ModelCounters, ModelSnapshot},
};

const MODELS: u64 = 1000;
const PAGES: usize = 101;

fn main() {
    let all = ["summary_latencies", "histogram_latencies", "latency_histograms"].map(|key| (key, "true"));
    for (what, pairs) in [("defaults", &all[..0]), ("with distributions", &all[..])] {
        let settings = LatencySettings::parse(pairs.iter().copied()).expect("these are settings");
        let mut models: Vec<ModelCounters> = (0..MODELS).map(|number| model(number, &settings)).collect();
        for format in [Format::Text, Format::OpenMetrics, Format::Protobuf] {
            let mut times: Vec<(Duration, usize)> = (0..PAGES).map(|_| page(&mut models, format)).collect();
            times.sort_unstable();
            let (median, bytes) = times[PAGES / 2];
            println!("{what}, {format:?}: {:.2} ms, {bytes} bytes", median.as_secs_f64() * 1000.0);
        }
    }
}

/// One that has answered a hundred requests.
fn model(number: u64, settings: &LatencySettings) -> ModelCounters {
    let counts =
        ModelSnapshot { name: format!("a_model_with_a_name_{number}"), version: 1, ..ModelSnapshot::default() };
    let mut counters = ModelCounters::new(counts, Latencies::new(settings, None, false));
    let start = Instant::now();
    for request in 0..100 {
        let at = |micros: u64| start + Duration::from_micros(micros * (1 + request));
        let record = RequestRecord { received_at: start, queued_at: at(1), batch_size: 1 };
        let marks = Marks { start: at(20), input_end: at(30), output_start: at(900), end: at(950) };
        counters.record_end(EndedRequest { record: &record, trace: None }, &marks, 0);
    }
    counters
}

fn page(models: &mut [ModelCounters], format: Format) -> (Duration, usize) {
    let began = Instant::now();
    let load = Some(LoadSnapshot { queue_time_us: 1_234_567, queue_exits: 100, ..LoadSnapshot::default() });
    let snapshots: Vec<_> =
        models.iter_mut().map(|model| ModelSnapshot { load, ..model.metrics(Instant::now()) }).collect();
    let mut page = Page::default();
    page.add_models(&snapshots, true);
    page.add_pinned_memory(1 << 28);
    page.add_machine(&MachineSnapshot::default());
    page.add_latencies(snapshots);
    let bytes = format.write(&page).len();
    (began.elapsed(), bytes)
}
