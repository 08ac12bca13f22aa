//! Those who bring requests and the instances that take them, on threads of their own, in every order in which they can
//! meet: every request gets its answer, every instance ends, and nobody needs a wait that ends by time. Run by `e2e/loom`;
//! without `cfg(model_check)` there is nothing here.
#![cfg(model_check)]
#![allow(clippy::unwrap_used)]

use std::{future::poll_fn, sync::Arc, time::Instant};

use loom::{future::block_on, model::Builder, thread};
use server_core::{
    backend::Device,
    batch::{Batch, Pending},
    batching::policy::{Batcher, Settings},
    completion::{Completion, EndedRequest, Marks, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
    config::{ModelConfig, from_text},
    error::Code,
    rate_limit::{Amounts, Needs},
    request::{InferRequest, VersionChoice},
    responder::{Replies, Reply},
    response::Outputs,
    stats::FailureReason,
};
use server_scheduler::{Next, RateLimiter, Refusal, Removed, Scheduler, Submitted};

/// Every order with at most so many changes of thread that nobody's waiting asked for. `text` says how the model is
/// scheduled; it is read here, for a thread of the checker has a small stack.
fn check(preemptions: usize, text: &str, model: impl Fn(Model) + Send + Sync + 'static) {
    let settings = Settings::of(&config(text));
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || model(Model::new(&settings)));
}

/// A scheduler without instances.
#[derive(Clone)]
struct Model {
    scheduler: Arc<Scheduler>,
}

/// Tells the scheduler which requests are gone, as the engine does. It counts nothing.
struct Ends(Arc<Scheduler>);

impl RequestEvents for Ends {
    fn batch_ended(&self, _: &[Pending], _: &[Reply], _: &Marks) {}

    fn executed(&self, _: u64, _: &Marks) {}

    fn responded(&self, _: &RequestRecord, _: u32, _: ResponseOutcome, _: &ResponseMarks) {}

    fn ended(&self, _: EndedRequest<'_>, _: Result<(), FailureReason>, _: Option<&Marks>, _: Instant) {}

    fn released(&self, count: usize) {
        self.0.released(count);
    }

    fn rescheduled(&self, _: Pending, _: Option<&Marks>) {
        unreachable!("no model here is iterative");
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

fn config(text: &str) -> ModelConfig {
    from_text(text).unwrap()
}

impl Model {
    fn new(settings: &Settings) -> Self {
        let policy = Batcher::new(settings);
        Self { scheduler: Arc::new(Scheduler::new(Box::new(policy), None)) }
    }

    fn pending(&self) -> (Pending, Replies) {
        let now = Instant::now();
        let record = RequestRecord { received_at: now, queued_at: now, batch_size: 1 };
        let events = Arc::new(Ends(self.scheduler.clone()));
        let (completion, replies) = Completion::new(record, events, 1 << 20);
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
        (Pending { request, completion }, replies)
    }

    /// Sends a request; `None` if none is let in any more.
    fn submit(&self, may_run_inline: bool) -> Option<Replies> {
        let (pending, replies) = self.pending();
        let mut removed = Removed::new();
        match self.scheduler.submit(pending, 0, None, may_run_inline, &mut removed) {
            Ok(Submitted::Queued { .. }) => {}
            Ok(Submitted::Inline(run)) => {
                let mut next = Some(run);
                while let Some(run) = next {
                    answer(run.batch, run.now);
                    next = self.scheduler.return_instance(run.instance, /* goes_on */ true, &mut removed);
                }
            }
            Err(refused) => {
                let (pending, refusal) = *refused;
                assert!(matches!(refusal, Refusal::Closed));
                pending.completion.withdraw();
                return None;
            }
        }
        assert!(removed.is_empty());
        Some(replies)
    }

    /// One more instance, on a thread of its own.
    fn instance(&self, on_any_thread: bool, run: fn(Vec<Pending>, Instant)) -> thread::JoinHandle<()> {
        let number = self.scheduler.add_instance();
        self.serve(number, on_any_thread, run)
    }

    fn serve(&self, number: usize, on_any_thread: bool, run: fn(Vec<Pending>, Instant)) -> thread::JoinHandle<()> {
        self.scheduler.serves(number, on_any_thread);
        let scheduler = self.scheduler.clone();
        thread::spawn(move || {
            let (mut batch, mut removed) = (Vec::new(), Removed::new());
            loop {
                match scheduler.next(number, &mut batch, &mut removed) {
                    Next::Closed => break,
                    Next::Answer => unreachable!("nothing expires here"),
                    Next::Run { now } => run(std::mem::take(&mut batch), now),
                }
            }
            scheduler.unlimit(number);
        })
    }
}

fn answer(batch: Vec<Pending>, now: Instant) {
    let replies = batch.iter().map(|_| Ok(Outputs::default())).collect();
    Batch::new(batch, now).complete(replies, &Marks::at(now, now));
}

/// Answers from another thread, after the execution.
fn answer_later(batch: Vec<Pending>, now: Instant) {
    thread::spawn(move || answer(batch, now));
}

/// Whether the answer came; `false` if the request was dropped.
fn is_answered(mut replies: Replies) -> bool {
    match block_on(poll_fn(|context| replies.poll_next(context))) {
        Some(Ok(_)) => true,
        Some(Err(error)) => {
            assert_eq!(error.code, Code::Internal);
            false
        }
        None => false,
    }
}

const ONE_BY_ONE: &str = "max_batch_size: 8";
const IN_PAIRS: &str =
    "max_batch_size: 2 dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 3600000000 }";

#[test]
fn two_callers_and_one_instance() {
    check(3, ONE_BY_ONE, |model| {
        let instance = model.instance(false, answer);
        let other = model.clone();
        let caller = thread::spawn(move || assert!(is_answered(other.submit(false).unwrap())));
        assert!(is_answered(model.submit(false).unwrap()));
        caller.join().unwrap();
        model.scheduler.close();
        instance.join().unwrap();
        assert!(model.scheduler.has_ended());
    });
}

#[test]
fn two_requests_and_two_instances() {
    check(2, ONE_BY_ONE, |model| {
        let instances = [model.instance(false, answer), model.instance(false, answer)];
        let replies = [model.submit(false).unwrap(), model.submit(false).unwrap()];
        assert!(replies.into_iter().all(is_answered));
        model.scheduler.close();
        instances.into_iter().for_each(|instance| instance.join().unwrap());
    });
}

#[test]
fn callers_that_run_an_instance_themselves() {
    check(3, ONE_BY_ONE, |model| {
        let instance = model.instance(true, answer);
        let other = model.clone();
        let caller = thread::spawn(move || assert!(is_answered(other.submit(true).unwrap())));
        assert!(is_answered(model.submit(true).unwrap()));
        caller.join().unwrap();
        model.scheduler.close();
        instance.join().unwrap();
    });
}

#[test]
fn a_request_that_fills_a_batch_which_waits() {
    check(3, IN_PAIRS, |model| {
        let instance = model.instance(false, answer);
        let other = model.clone();
        let caller = thread::spawn(move || assert!(is_answered(other.submit(false).unwrap())));
        assert!(is_answered(model.submit(false).unwrap()));
        caller.join().unwrap();
        model.scheduler.close();
        instance.join().unwrap();
    });
}

#[test]
fn an_end_that_comes_while_a_batch_waits() {
    check(3, IN_PAIRS, |model| {
        let instance = model.instance(false, answer);
        let other = model.clone();
        let caller = thread::spawn(move || assert!(other.submit(false).is_none_or(is_answered)));
        model.scheduler.close();
        caller.join().unwrap();
        instance.join().unwrap();
    });
}

#[test]
fn an_end_that_comes_while_a_caller_runs_the_instance() {
    check(3, ONE_BY_ONE, |model| {
        let instance = model.instance(true, answer);
        let other = model.clone();
        let caller = thread::spawn(move || assert!(other.submit(true).is_none_or(is_answered)));
        model.scheduler.close();
        caller.join().unwrap();
        instance.join().unwrap();
    });
}

#[test]
fn an_instance_that_goes_while_a_request_comes() {
    check(2, ONE_BY_ONE, |model| {
        let (leaving, staying) = (model.instance(true, answer), model.instance(true, answer));
        let other = model.clone();
        let caller = thread::spawn(move || assert!(is_answered(other.submit(true).unwrap())));
        model.scheduler.retire(0);
        leaving.join().unwrap();
        caller.join().unwrap();
        model.scheduler.close();
        staying.join().unwrap();
    });
}

#[test]
fn no_instance_ends_before_a_request_that_is_held_elsewhere() {
    check(3, ONE_BY_ONE, |model| {
        let instance = model.instance(false, answer_later);
        let replies = model.submit(false).unwrap();
        model.scheduler.close();
        instance.join().unwrap();
        assert!(model.scheduler.has_ended(), "the instance outlived the request");
        assert!(is_answered(replies));
    });
}

#[test]
fn instances_of_two_models_that_share_a_resource() {
    let settings = Settings::of(&config(ONE_BY_ONE));
    let group = "instance_group { rate_limiter { resources { name: 'R' count: 1 } } }";
    let needs = Needs::of(&config(group).instance_group[0]);
    check(2, ONE_BY_ONE, move |_| {
        let limiter = RateLimiter::new(Amounts::default());
        let (models, threads): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let model = Model::new(&settings);
                let number = model.scheduler.add_instance();
                let limited = limiter.admit(Device::Cpu, &needs).unwrap().unwrap();
                limited.call(&model.scheduler, number);
                model.scheduler.limit(number, limited);
                let thread = model.serve(number, false, answer);
                (model, thread)
            })
            .unzip();
        let replies: Vec<_> = models.iter().map(|model| model.submit(false).unwrap()).collect();
        assert!(replies.into_iter().all(is_answered));
        models.iter().for_each(|model| model.scheduler.close());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
