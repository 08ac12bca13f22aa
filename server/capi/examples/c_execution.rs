//! What a request costs in the interface alone: nanoseconds per execution of one request by `tests/libraries/identity.c`.
//!
//! `cargo run --release -p server-capi --example c_execution`
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use harness::{config, directory, request};
use server_core::{
    batch::{Batch, Pending},
    completion::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
    responder::{DEFAULT_SLOT_BYTES, Reply},
    stats::FailureReason,
};

const ROUND: Duration = Duration::from_millis(500);

/// Counts nothing.
struct Nothing;

impl RequestEvents for Nothing {
    fn batch_ended(&self, _: &[Pending], _: &[Reply], _: &Marks) {}
    fn executed(&self, _: u64, _: &Marks) {}
    fn responded(&self, _: &RequestRecord, _: u32, _: ResponseOutcome, _: &ResponseMarks) {}
    fn ended(&self, _: EndedRequest<'_>, _: Result<(), FailureReason>, _: Option<&Marks>, _: Instant) {}
    fn released(&self, _: usize) {}
    fn rescheduled(&self, _: Pending, _: Option<&Marks>) {}
    fn now(&self) -> Instant {
        Instant::now()
    }
}

fn main() {
    let directory = directory(&[("identity", "identity")]);
    let mut served = directory.load(&config("identity", "")).unwrap();
    let events: Arc<Nothing> = Arc::new(Nothing);
    let request = request(&[7; 16]);
    let time = |run: &mut dyn FnMut(Batch)| {
        let (begun, mut count) = (Instant::now(), 0_u64);
        while begun.elapsed() < ROUND {
            for _ in 0..100 {
                let now = request.received_at;
                let record = RequestRecord { received_at: now, queued_at: now, batch_size: 1 };
                let (completion, replies) = Completion::new(record, events.clone(), DEFAULT_SLOT_BYTES);
                run(Batch::new(vec![Pending { request: request.clone(), completion }], now));
                black_box(replies);
            }
            count += 100;
        }
        begun.elapsed().as_nanos() as f64 / count as f64
    };
    for _ in 0..5 {
        let without = time(&mut |batch| {
            let marks = Marks::at(batch.start(), Instant::now());
            let replies = batch.pending().iter().map(|_| Ok(Default::default())).collect();
            batch.complete(replies, &marks);
        });
        let with = time(&mut |batch| served.instance.execute(batch));
        println!("without a library {without:.0} ns, through it {with:.0} ns");
    }
}
