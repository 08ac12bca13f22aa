//! A caller that runs an instance inline: which of the requests that come meanwhile are its own to run, and which are the instance's.
#![cfg(not(model_check))]
#![allow(clippy::unwrap_used)]

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use server_core::{
    batch::{Batch, Pending},
    batching::policy::{Batcher, Settings},
    completion::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
    config::from_text,
    request::{InferRequest, VersionChoice},
    responder::{Replies, Reply},
    response::Outputs,
    stats::FailureReason,
};
use server_scheduler::{InlineRun, Next, Removed, Scheduler, Submitted};

const DEADLINE: Duration = Duration::from_secs(60);
const BATCHING: &str = "max_batch_size: 4 dynamic_batching { }";

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

/// A model with one instance, whose thread says how many requests it ran together.
struct Model {
    scheduler: Arc<Scheduler>,
    ran: mpsc::Receiver<usize>,
}

impl Model {
    fn new(config: &str) -> Self {
        let policy = Batcher::new(&Settings::of(&from_text(config).unwrap()));
        let scheduler = Arc::new(Scheduler::new(Box::new(policy), None));
        let number = scheduler.add_instance();
        scheduler.serves(number, /* on_any_thread */ true);
        let (says, ran) = mpsc::channel();
        let its = scheduler.clone();
        thread::spawn(move || {
            let (mut batch, mut removed) = (Vec::new(), Removed::new());
            while let Next::Run { now } = its.next(number, &mut batch, &mut removed) {
                let _ = says.send(batch.len());
                end(std::mem::take(&mut batch), now);
            }
        });
        Self { scheduler, ran }
    }

    fn submit(&self, is_quick: bool) -> (Submitted, Replies) {
        let now = Instant::now();
        let record = RequestRecord { received_at: now, queued_at: now, batch_size: 1 };
        let (completion, replies) = Completion::new(record, Arc::new(Nothing), 1 << 20);
        let request = InferRequest {
            model_name: "m".into(),
            model_version: VersionChoice::Latest,
            id: String::new(),
            inputs: Default::default(),
            outputs: Default::default(),
            parameters: Vec::new(),
            sequence: None,
            priority: 0,
            timeout: None,
            received_at: now,
            callers: None,
            trace: None,
        };
        let submitted = self
            .scheduler
            .submit(Pending { request, completion }, 0, None, is_quick, &mut Removed::new())
            .ok()
            .unwrap();
        (submitted, replies)
    }

    /// The instance, run inline: once its thread has nothing to do.
    fn begin(&self) -> InlineRun {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (submitted, _replies) = self.submit(true);
            if let Submitted::Inline(run) = submitted {
                return run;
            }
            self.next_of_thread();
            assert!(Instant::now() < deadline, "the instance is never idle");
        }
    }

    /// Requests come during an inline run.
    fn queue(&self, are_quick: &[bool]) -> Vec<Replies> {
        are_quick
            .iter()
            .map(|&is_quick| {
                let (submitted, replies) = self.submit(is_quick);
                assert!(matches!(submitted, Submitted::Queued { .. }));
                replies
            })
            .collect()
    }

    /// Ends an inline run; what its caller runs next.
    fn end(&self, run: InlineRun, goes_on: bool) -> Option<InlineRun> {
        let instance = run.instance;
        end(run.batch, run.now);
        self.scheduler.return_instance(instance, goes_on, &mut Removed::new())
    }

    /// How many requests the instance's thread ran next.
    fn next_of_thread(&self) -> usize {
        self.ran.recv_timeout(DEADLINE).unwrap()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.scheduler.close();
    }
}

fn end(batch: Vec<Pending>, now: Instant) {
    let replies = batch.iter().map(|_| Ok(Outputs::default())).collect();
    Batch::new(batch, now).complete(replies, &Marks::at(now, now));
}

#[test]
fn the_caller_runs_what_came_meanwhile_one_after_the_other() {
    let model = Model::new("");
    let run = model.begin();
    let _replies = model.queue(&[true, true]);
    let second = model.end(run, true).expect("the second request");
    let third = model.end(second, true).expect("the third request");
    assert!(model.end(third, true).is_none());
    assert!(model.ran.try_recv().is_err(), "nobody was woken");
    assert!(matches!(model.submit(true).0, Submitted::Inline(_)), "the instance is idle");
}

#[test]
fn the_thread_of_the_instance_runs_what_the_caller_does_not() {
    let model = Model::new("");
    let run = model.begin();
    let _replies = model.queue(&[true]);
    assert!(model.end(run, false).is_none(), "it has done enough");
    assert_eq!(model.next_of_thread(), 1);

    let run = model.begin();
    let _replies = model.queue(&[true, false]);
    assert!(model.end(run, true).is_none(), "one of them may take long");
    assert_eq!((model.next_of_thread(), model.next_of_thread()), (1, 1));
}

#[test]
fn of_requests_that_run_together_the_caller_runs_one_that_is_alone() {
    let model = Model::new(BATCHING);
    let run = model.begin();
    let _replies = model.queue(&[true]);
    let second = model.end(run, true).expect("the second request");
    let _replies = model.queue(&[true, true]);
    assert!(model.end(second, true).is_none(), "two together may take longer than one");
    assert_eq!(model.next_of_thread(), 2);
}

#[test]
fn who_runs_inline_goes_on_with_nothing_when_the_model_is_closed() {
    let model = Model::new("");
    let run = model.begin();
    let _replies = model.queue(&[true]);
    model.scheduler.close();
    assert!(model.end(run, true).is_none());
    assert_eq!(model.next_of_thread(), 1);
}
