//! The batching rule, case by case, on a clock that stands still.

use std::time::{Duration, Instant};

use super::{
    super::levels::{DEFAULT_TOTAL_LIMIT, LevelPolicy, TimeoutAction},
    *,
};
use crate::batching::{item::Exceptions, strategy::OpenBatch};

#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: u32,
    rows: u32,
    shape: u32,
    is_abandoned: bool,
}

impl Item for Row {
    fn rows(&self) -> u32 {
        self.rows
    }
    fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }
    fn may_share(&self, other: &Self, _exceptions: &Exceptions) -> bool {
        self.shape == other.shape
    }
}

fn row(name: u32) -> Row {
    Row { name, rows: 1, shape: 0, is_abandoned: false }
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn dynamic(preferred: &[u32], max_batch_size: u32, delay_us: u64) -> Settings {
    Settings {
        batching: BatchPolicy::Dynamic {
            preferred: preferred.to_vec(),
            max_batch_size,
            max_queue_delay: us(delay_us),
            shapes: SharedShapes::Same(Exceptions::default()),
        },
        levels: Levels::default(),
        preserve_ordering: false,
    }
}

/// A batcher, a moment to count from, and what came out of it.
struct Bench {
    batcher: Batcher<Row>,
    start: Instant,
}

impl Bench {
    fn new(settings: &Settings) -> Self {
        Self { batcher: Batcher::new(settings), start: Instant::now() }
    }

    fn push_at(&mut self, at_us: u64, row: Row) -> bool {
        self.batcher.push(row, 0, None, self.start + us(at_us)).unwrap().wake == Wake::Any
    }

    fn push_many(&mut self, at_us: u64, count: u32) {
        for name in 0..count {
            self.push_at(at_us, row(name));
        }
    }

    /// Sizes of the batches that run at that moment, and what follows.
    #[track_caller]
    fn check(&mut self, at_us: u64, sizes: &[usize], then: Decision) {
        let (mut seen, mut removed) = (Vec::new(), Vec::new());
        let last = loop {
            let mut batch = Vec::new();
            match self.batcher.decide(0, self.start + us(at_us), &mut batch, &mut removed) {
                Decision::Run(_) => seen.push(batch.len()),
                other => break other,
            }
        };
        assert_eq!(seen, sizes);
        assert_eq!(last, then);
    }

    fn wait_until(&self, at_us: u64) -> Decision {
        Decision::WaitUntil(self.start + us(at_us))
    }
}

#[test]
fn without_a_delay_whatever_is_there_leaves_at_once() {
    let mut bench = Bench::new(&dynamic(&[8], 8, 0));
    bench.push_many(0, 3);
    bench.check(0, &[3], Decision::Idle);
}

#[test]
fn a_preferred_size_does_not_wait() {
    let mut bench = Bench::new(&dynamic(&[4, 8], 8, 100));
    bench.push_many(0, 4);
    bench.check(1, &[4], Decision::Idle);
}

#[test]
fn a_size_between_preferred_ones_waits_for_the_oldest() {
    let mut bench = Bench::new(&dynamic(&[4, 8], 8, 100));
    bench.push_at(0, row(0));
    bench.push_at(60, row(1));
    let until = bench.wait_until(100);
    bench.check(70, &[], until);
    bench.check(100, &[2], Decision::Idle);
}

#[test]
fn more_than_a_preferred_size_is_cut_back_to_it() {
    let mut bench = Bench::new(&dynamic(&[4], 16, 100));
    bench.push_many(0, 6);
    let until = bench.wait_until(100);
    bench.check(10, &[4], until);
}

#[test]
fn what_is_late_leaves_unrounded_up_to_the_maximum() {
    let mut bench = Bench::new(&dynamic(&[4], 6, 100));
    bench.push_many(0, 7);
    bench.check(150, &[6, 1], Decision::Idle);
}

#[test]
fn another_shape_ends_the_batch() {
    let mut bench = Bench::new(&dynamic(&[8], 8, 100));
    bench.push_at(0, row(0));
    bench.push_at(0, row(1));
    bench.push_at(0, Row { shape: 1, ..row(2) });
    let until = bench.wait_until(100);
    bench.check(1, &[2], until);
}

#[test]
fn rows_of_a_request_count_and_it_is_never_split() {
    let mut bench = Bench::new(&dynamic(&[8], 8, 0));
    for name in 0..3 {
        bench.push_at(0, Row { rows: 3, ..row(name) });
    }
    bench.check(0, &[2, 1], Decision::Idle);
}

#[test]
fn a_model_without_batching_runs_request_by_request() {
    let settings = Settings { batching: BatchPolicy::Single, ..dynamic(&[], 1, 0) };
    let mut bench = Bench::new(&settings);
    bench.push_at(0, Row { rows: 7, ..row(0) });
    bench.push_at(0, row(1));
    bench.check(0, &[1, 1], Decision::Idle);
}

#[test]
fn who_waits_is_woken_only_for_a_reason() {
    let mut settings = dynamic(&[4, 8], 8, 100);
    if let BatchPolicy::Dynamic { shapes, .. } = &mut settings.batching {
        *shapes = SharedShapes::Fixed;
    }
    let mut bench = Bench::new(&settings);
    assert!(bench.push_at(0, row(0)), "nobody waits yet");
    let until = bench.wait_until(100);
    bench.check(0, &[], until);
    assert!(!bench.push_at(1, row(1)));
    assert!(!bench.push_at(1, row(2)));
    assert!(bench.push_at(1, row(3)), "the preferred size is reached");
}

#[test]
fn abandoned_requests_are_not_batched() {
    let mut bench = Bench::new(&dynamic(&[2], 2, 0));
    bench.push_at(0, Row { is_abandoned: true, ..row(0) });
    bench.push_at(0, row(1));
    let (mut batch, mut removed) = (Vec::new(), Vec::new());
    assert!(matches!(bench.batcher.decide(0, bench.start, &mut batch, &mut removed), Decision::Run(_)));
    assert_eq!(batch, [row(1)]);
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].1, Removal::Abandoned);
}

#[test]
fn an_expired_request_is_rejected_and_an_earlier_deadline_wakes() {
    let mut settings = dynamic(&[8], 8, 1000);
    settings.levels.default_policy =
        LevelPolicy { default_timeout: Some(us(500)), allow_timeout_override: true, ..LevelPolicy::default() };
    let mut bench = Bench::new(&settings);
    bench.push_at(0, row(0));
    let until = bench.wait_until(500);
    bench.check(0, &[], until);
    let pushed = bench.batcher.push(row(1), 0, Some(us(50)), bench.start).unwrap();
    assert_eq!(pushed.wake, Wake::Any, "it expires before the moment waited for");
    let (mut batch, mut removed) = (Vec::new(), Vec::new());
    let decision = bench.batcher.decide(0, bench.start + us(60), &mut batch, &mut removed);
    assert_eq!(decision, Decision::WaitUntil(bench.start + us(500)));
    assert_eq!(removed, [(row(1), Removal::Expired)]);
}

#[test]
fn a_late_request_may_be_delayed_instead() {
    let mut settings = dynamic(&[1], 1, 0);
    settings.levels.default_policy =
        LevelPolicy { timeout_action: TimeoutAction::Delay, default_timeout: Some(us(10)), ..LevelPolicy::default() };
    let mut bench = Bench::new(&settings);
    bench.push_at(0, row(0));
    bench.push_at(15, row(1));
    let (mut batch, mut removed) = (Vec::new(), Vec::new());
    assert!(matches!(bench.batcher.decide(0, bench.start + us(20), &mut batch, &mut removed), Decision::Run(_)));
    assert!(matches!(bench.batcher.decide(0, bench.start + us(20), &mut batch, &mut removed), Decision::Run(_)));
    assert_eq!(batch, [row(1), row(0)]);
    assert!(removed.is_empty());
}

#[test]
fn a_full_level_refuses_and_others_do_not() {
    let mut settings = dynamic(&[8], 8, 0);
    let one = LevelPolicy { max_queue_size: Some(1), ..LevelPolicy::default() };
    settings.levels = Levels { count: 2, default_level: 2, default_policy: one, ..Levels::default() };
    let mut batcher = Batcher::new(&settings);
    let now = Instant::now();
    assert!(batcher.push(row(0), 0, None, now).is_ok());
    assert!(batcher.push(row(1), 2, None, now).is_err());
    assert!(batcher.push(row(2), 1, None, now).is_ok());
    let (mut batch, mut removed) = (Vec::new(), Vec::new());
    assert!(matches!(batcher.decide(0, now, &mut batch, &mut removed), Decision::Run(_)));
    assert_eq!(batch, [row(2), row(0)], "the urgent level goes first");
}

proptest::proptest! {
    /// Whatever comes, in whatever order it is looked at: every request leaves exactly once and no batch is too big.
    #[test]
    fn every_request_leaves_exactly_once(
        sizes in proptest::collection::vec((1u32..5, 0u32..2, proptest::bool::weighted(0.1)), 1..60),
        delay in 0u64..50,
        step in 1u64..30,
    ) {
        let mut batcher = Batcher::new(&dynamic(&[4, 8], 8, delay));
        let start = Instant::now();
        let (mut batch, mut removed, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let mut look = |batcher: &mut Batcher<Row>, at: Instant| loop {
            batch.clear();
            match batcher.decide(0, at, &mut batch, &mut removed) {
                Decision::Run(_) => {
                    assert!(batch.iter().map(|row: &Row| row.rows).sum::<u32>() <= 8);
                    assert!(batch.windows(2).all(|pair| pair[0].shape == pair[1].shape));
                    left.extend(batch.iter().map(|row| row.name));
                }
                Decision::WaitUntil(then) => {
                    assert!(then > at);
                    break;
                }
                Decision::Idle => break,
                other => panic!("{other:?}"),
            }
        };
        for (name, (rows, shape, is_abandoned)) in sizes.iter().copied().enumerate() {
            let at = start + us(name as u64 * step);
            batcher.push(Row { name: name as u32, rows, shape, is_abandoned }, 0, None, at).unwrap();
            look(&mut batcher, at);
        }
        look(&mut batcher, start + us(1_000_000));
        assert!(batcher.queue().is_empty());
        assert_eq!(batcher.queue().rows(), 0);
        left.extend(removed.iter().map(|(row, _)| row.name));
        left.sort_unstable();
        assert_eq!(left, (0..sizes.len() as u32).collect::<Vec<_>>());
    }
}

#[test]
fn a_batch_in_a_hurry_waits_for_nobody() {
    let mut bench = Bench::new(&dynamic(&[4], 8, 1000));
    bench.push_at(0, row(0));
    let (mut batch, mut removed) = (Vec::new(), Vec::new());
    let waits = bench.batcher.decide(0, bench.start, &mut batch, &mut removed);
    assert_eq!(waits, Decision::WaitUntil(bench.start + us(1000)));
    bench.batcher.stop_waiting();
    assert!(matches!(bench.batcher.decide(0, bench.start, &mut batch, &mut removed), Decision::Run(_)));
    assert_eq!(batch, [row(0)]);
}

#[test]
fn a_held_batcher_wakes_nobody_and_lets_go_when_none_will_come() {
    let mut batcher = Batcher::new(&dynamic(&[8], 8, 0)).held_until(2);
    let now = Instant::now();
    assert_eq!(batcher.push(row(0), 0, None, now).unwrap().wake, Wake::Nobody);
    let (mut batch, mut removed) = (Vec::new(), Vec::new());
    assert_eq!(batcher.decide(0, now, &mut batch, &mut removed), Decision::Idle);
    batcher.stop_waiting();
    assert!(matches!(batcher.decide(0, now, &mut batch, &mut removed), Decision::Run(_)));
    let mut batcher = Batcher::new(&dynamic(&[8], 8, 0)).held_until(2);
    assert_eq!(batcher.push(row(0), 0, None, now).unwrap().wake, Wake::Nobody);
    assert_eq!(batcher.push(row(1), 0, None, now).unwrap().wake, Wake::Any);
}

/// The names of the requests of a batch are no more than so many together.
struct Names(u32);

impl BatchStrategy<Row> for Names {
    fn begin(&self) -> Option<Box<dyn OpenBatch<Row> + '_>> {
        Some(Box::new(NamesLeft(i64::from(self.0))))
    }
}

struct NamesLeft(i64);

impl OpenBatch<Row> for NamesLeft {
    fn includes(&mut self, row: &Row) -> bool {
        self.0 -= i64::from(row.name);
        self.0 >= 0
    }
}

#[test]
fn a_strategy_closes_a_batch_and_the_first_request_always_runs() {
    let settings = dynamic(&[8], 8, 100);
    let mut bench = Bench::new(&settings);
    bench.batcher = Batcher::new(&settings).with_strategy(Some(Arc::new(Names(6))));
    for name in [3, 2, 1, 1, 9, 9] {
        bench.push_at(0, row(name));
    }
    // what is closed leaves at once, the rest waits for more: 9 is more than 6, and runs alone
    bench.check(1, &[3, 1, 1], bench.wait_until(100));
    let wakes = bench.push_at(2, row(1));
    assert!(wakes, "the strategy is asked again");
    bench.check(3, &[1], bench.wait_until(102));
    bench.check(102, &[1], Decision::Idle);
}

#[test]
fn who_waited_too_long_is_found_without_a_decision() {
    let mut settings = dynamic(&[4], 8, 1000);
    settings.levels.default_policy.default_timeout = Some(us(100));
    let mut bench = Bench::new(&settings);
    let pushed = bench.batcher.push(row(0), 0, None, bench.start).unwrap();
    assert_eq!(pushed.deadline, Some(bench.start + us(100)));
    let mut removed = Vec::new();
    bench.batcher.sweep(bench.start + us(99), 0, &mut removed);
    assert_eq!(removed, []);
    bench.batcher.sweep(bench.start + us(100), 0, &mut removed);
    assert_eq!(removed, [(row(0), Removal::Expired)]);
}

#[test]
fn levels_cost_memory_only_while_requests_wait_in_them() {
    let mut settings = dynamic(&[1], 1, 0);
    settings.levels = Levels { count: u64::MAX, default_level: 7, ..Levels::default() };
    let mut batcher = Batcher::new(&settings);
    let now = Instant::now();
    for (name, priority) in [(0, u64::MAX), (1, 0), (2, 3), (3, 8), (4, 3)] {
        assert!(batcher.push(row(name), priority, None, now).is_ok());
    }
    let (mut batch, mut removed) = (Vec::new(), Vec::new());
    while matches!(batcher.decide(0, now, &mut batch, &mut removed), Decision::Run(_)) {}
    let order: Vec<u32> = batch.iter().map(|row| row.name).collect();
    assert_eq!(order, [2, 4, 1, 3, 0], "level 3 first, then the default level 7, 8, and the last");
}

#[test]
fn all_levels_together_hold_a_bounded_number_of_requests() {
    let mut settings = dynamic(&[1], 1, 0);
    settings.levels = Levels { count: u64::MAX, ..Levels::default() };
    let mut batcher = Batcher::new(&settings);
    let now = Instant::now();
    let accepted = (1..).take_while(|&level| batcher.push(row(0), level, None, now).is_ok()).count();
    assert_eq!(accepted, DEFAULT_TOTAL_LIMIT);
    let (mut batch, mut removed) = (Vec::new(), Vec::new());
    assert!(matches!(batcher.decide(0, now, &mut batch, &mut removed), Decision::Run(_)));
    assert!(batcher.push(row(0), 1, None, now).is_ok(), "one place is free again");
}

#[test]
fn among_open_shapes_only_what_changes_the_decision_wakes() {
    let mut bench = Bench::new(&dynamic(&[4], 8, 100));
    bench.push_at(0, row(0));
    let until = bench.wait_until(100);
    bench.check(0, &[], until);
    assert!(!bench.push_at(1, row(1)), "it joins those that wait");
    assert!(!bench.push_at(2, row(2)));
    assert!(bench.push_at(3, row(3)), "a preferred size is there");
    bench.check(3, &[4], Decision::Idle);

    bench.push_at(10, row(4));
    let until = bench.wait_until(110);
    bench.check(10, &[], until);
    assert!(bench.push_at(11, Row { shape: 1, ..row(5) }), "no batch waits for more once another shape follows");
    let until = bench.wait_until(111);
    bench.check(11, &[1], until);
}

#[test]
fn a_request_that_was_let_in_before_has_no_limit_to_pass() {
    let settings = Settings {
        levels: Levels {
            default_policy: LevelPolicy { max_queue_size: Some(1), ..LevelPolicy::default() },
            ..Levels::default()
        },
        ..dynamic(&[4], 8, 0)
    };
    let mut bench = Bench::new(&settings);
    bench.push_at(0, row(0));
    assert_eq!(bench.batcher.admit(row(1), bench.start, bench.start), Wake::Any);
    assert!(bench.batcher.put_back(row(1), bench.start).is_err(), "only sequences are iterative");
    assert!(bench.batcher.push(row(2), 0, None, bench.start).is_err(), "others have");
    bench.check(0, &[2], Decision::Idle);
}
