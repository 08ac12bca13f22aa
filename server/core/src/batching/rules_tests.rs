//! The rules of the dynamic batcher as tables: a configuration, what happens when, and what comes of it. The clock stands
//! still between two events.

use std::time::{Duration, Instant};

use super::{
    item::Exceptions,
    item::Item,
    policy::{Batcher, Decision, Policy, Settings, Wake},
    queue::Removal,
};
use crate::config::{Machine, from_text, normalize, verify};

/// A request: its name, and what the batcher sees of it.
#[derive(Debug, Clone)]
struct Row {
    name: String,
    rows: u32,
    shape: i64,
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

/// The number after `key=` among words.
fn number(words: &[&str], key: &str) -> Option<u64> {
    let value = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.parse().unwrap())
}

/// Plays `events` on a model of that `max_batch_size` and scheduling. An event is a moment in microseconds and one of
/// - `NAME.. [rows=N] [shape=N] [priority=N] [timeout=N] [gone]`: requests come, each with these; `gone` if the caller
///   leaves at once; what is refused is written `full NAME`;
/// - `look`: an idle instance looks again and again, until nothing runs. Written: the batches in brackets, `expired NAME`
///   and `left NAME` of those that ended in the queue, and `until T` if it is to look again then.
fn play(max_batch_size: u32, scheduling: &str, events: &str) -> String {
    play_held(0, max_batch_size, scheduling, events)
}

/// The same, with nothing to run until so many requests wait.
fn play_held(held_until: usize, max_batch_size: u32, scheduling: &str, events: &str) -> String {
    let text = format!(
        "name: 'm' backend: 'identity' max_batch_size: {max_batch_size} {scheduling}
         input {{ name: 'INPUT0' data_type: TYPE_FP32 dims: -1 }} output {{ name: 'OUTPUT0' data_type: TYPE_FP32 dims: -1 }}"
    );
    let mut config = from_text(&text).unwrap();
    let machine = Machine::default();
    normalize(&mut config, &machine);
    assert_eq!(verify(&config, "m", &machine), []);
    let mut batcher = Batcher::new(&Settings::of(&config)).held_until(held_until);
    let start = Instant::now();
    let mut seen = Vec::new();
    for event in events.split(';') {
        let words: Vec<&str> = event.split_whitespace().collect();
        let (at, words) = words.split_first().expect("an event has a moment");
        let now = start + Duration::from_micros(at.parse().unwrap());
        if words == ["look"] {
            look(&mut batcher, start, now, &mut seen);
            continue;
        }
        for name in words.iter().filter(|word| !word.contains('=') && **word != "gone") {
            let row = Row {
                name: (*name).to_owned(),
                rows: number(words, "rows").unwrap_or(1) as u32,
                shape: number(words, "shape").unwrap_or(0) as i64,
                is_abandoned: words.contains(&"gone"),
            };
            let timeout = number(words, "timeout").map(Duration::from_micros);
            if batcher.push(row, number(words, "priority").unwrap_or(0), timeout, now).is_err() {
                seen.push(format!("full {name}"));
            }
        }
    }
    seen.join(" ")
}

fn look(batcher: &mut Batcher<Row>, start: Instant, now: Instant, seen: &mut Vec<String>) {
    loop {
        let (mut batch, mut removed) = (Vec::new(), Vec::new());
        let decision = batcher.decide(0, now, &mut batch, &mut removed);
        for (row, removal) in removed {
            let end = if removal == Removal::Expired { "expired" } else { "left" };
            seen.push(format!("{end} {}", row.name));
        }
        match decision {
            Decision::Run(_) => {
                let names: Vec<_> = batch.iter().map(|row| row.name.as_str()).collect();
                seen.push(format!("[{}]", names.join(" ")));
            }
            Decision::WaitUntil(moment) => return seen.push(format!("until {}", (moment - start).as_micros())),
            Decision::Idle => return,
            other => panic!("no decision of the dynamic batcher: {other:?}"),
        }
    }
}

/// Checks many plays of one model.
#[track_caller]
fn check(max_batch_size: u32, scheduling: &str, table: &[(&str, &str)]) {
    for (events, expect) in table {
        assert_eq!(play(max_batch_size, scheduling, events), *expect, "{scheduling}: {events}");
    }
}

#[test]
fn without_a_delay_what_is_there_leaves_in_preferred_sizes_if_it_can() {
    check(
        8,
        "dynamic_batching { }",
        &[
            ("0 a; 0 look", "[a]"),
            ("0 a b c; 0 look", "[a b c]"),
            ("0 a b c d e f g h i; 0 look", "[a b c d e f g h] [i]"),
            ("0 a rows=3; 0 b rows=5; 0 c; 0 look", "[a b] [c]"),
            ("0 a b c rows=3; 0 look", "[a b] [c]"),
        ],
    );
    check(
        8,
        "dynamic_batching { preferred_batch_size: [2, 6] }",
        &[
            ("0 a; 0 look", "[a]"),
            ("0 a b c; 0 look", "[a b] [c]"),
            ("0 a b c d e f g; 0 look", "[a b c d e f] [g]"),
            // Past the greatest preferred size without meeting one: what is there so far is as good as it gets.
            ("0 a rows=5; 0 b rows=3; 0 look", "[a] [b]"),
            ("0 a rows=7; 0 b; 0 look", "[a] [b]"),
        ],
    );
}

#[test]
fn a_batch_that_waits_for_an_instance_grows_past_the_largest_preferred_size_where_it_meets_none() {
    check(
        8,
        "dynamic_batching { preferred_batch_size: 4 }",
        &[
            ("0 a rows=3; 1 b rows=2; 2 c rows=3; 3 d rows=4; 9 look", "[a b] [c d]"),
            // It closes with the request that takes it there, and is never larger than the model's batches.
            ("0 a rows=3; 1 b rows=3; 2 c; 9 look", "[a b] [c]"),
            ("0 a rows=3; 1 b rows=6; 2 c rows=2; 9 look", "[a] [b] [c]"),
            // A preferred size is better, and so is it if the first request alone has as many rows or more.
            ("0 a rows=3; 1 b; 2 c rows=3; 9 look", "[a b] [c]"),
            ("0 a rows=4; 1 b rows=2; 9 look", "[a] [b]"),
            ("0 a rows=5; 1 b rows=2; 9 look", "[a] [b]"),
            // Another shape does not join it.
            ("0 a rows=3; 1 b rows=2 shape=1; 2 c rows=3 shape=1; 9 look", "[a] [b c]"),
            // What came together was looked at together, and cut before it passes the size.
            ("0 a rows=3; 0 b rows=2; 9 look", "[a] [b]"),
        ],
    );
    check(
        8,
        "dynamic_batching { preferred_batch_size: [2, 6] }",
        &[
            ("0 a; 1 b rows=3; 2 c rows=4; 9 look", "[a b c]"),
            ("0 a; 1 b; 2 c rows=3; 3 d rows=4; 9 look", "[a b] [c d]"),
        ],
    );
    // With a delay it was not ready when the others came: it leaves without them, and late as it is.
    check(
        8,
        "dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 100 }",
        &[
            ("0 a rows=3; 1 b rows=2; 2 c rows=3; 3 d rows=4; 9 look", "[a] [b] [c] [d]"),
            ("0 a rows=3; 1 b rows=2; 2 c rows=3; 3 d rows=4; 200 look", "[a b c] [d]"),
        ],
    );
    let levels = "dynamic_batching { preferred_batch_size: 4 priority_levels: 2 default_priority_level: 2 }";
    check(
        8,
        levels,
        &[
            ("0 a rows=3; 1 b rows=2 priority=1; 2 c rows=3 priority=1; 9 look", "[b c] [a]"),
            // Who came before the urgent one did not come to a batch that waited.
            ("0 a rows=3; 1 b rows=3 priority=1; 9 look", "[b] [a]"),
        ],
    );
}

#[test]
fn with_a_delay_sizes_that_are_not_preferred_wait_for_the_oldest() {
    check(
        8,
        "dynamic_batching { preferred_batch_size: [2, 6] max_queue_delay_microseconds: 100 }",
        &[
            ("0 a; 0 look; 99 look; 100 look", "until 100 until 100 [a]"),
            ("0 a; 50 b; 50 look", "[a b]"),
            ("0 a b c; 10 look", "[a b] until 100"),
            ("0 a; 40 b c; 40 look; 140 look", "[a b] until 140 [c]"),
            ("0 a b c d e f g; 0 look", "[a b c d e f] until 100"),
            // Late: everything up to the maximum leaves, not rounded to a preferred size.
            ("0 a b c; 100 look", "[a b c]"),
            ("0 a b c d e f g; 100 look", "[a b c d e f g]"),
            ("0 a b c d e f g h i; 100 look", "[a b c d e f g h] [i]"),
            // The age is that of the oldest, whatever came since.
            ("0 a; 99 b rows=3; 100 look", "[a b]"),
            // What fills the batch, or more, does not wait.
            ("0 a rows=8; 0 look", "[a]"),
            ("0 a rows=5; 0 b rows=4; 0 look", "[a] until 100"),
        ],
    );
}

#[test]
fn another_shape_ends_the_batch_and_keeps_the_order() {
    let scheduling = "dynamic_batching { max_queue_delay_microseconds: 100 }";
    check(
        4,
        scheduling,
        &[
            ("0 a b; 0 c shape=1; 0 d; 0 look", "[a b] [c] until 100"),
            ("0 a; 0 b shape=1; 0 c shape=1; 0 look; 100 look", "[a] until 100 [b c]"),
            ("0 a b c d; 0 e shape=1; 0 look", "[a b c d] until 100"),
        ],
    );
}

#[test]
fn a_model_without_a_batch_dimension_still_has_queue_policies() {
    check(0, "dynamic_batching { max_queue_delay_microseconds: 100 }", &[("0 a b; 0 look", "[a] [b]")]);
    check(
        0,
        "dynamic_batching { priority_levels: 2 default_priority_level: 2 }",
        &[("0 a b; 0 c priority=1; 0 look", "[c] [a] [b]")],
    );
    check(
        0,
        "dynamic_batching { default_queue_policy { max_queue_size: 1 default_timeout_microseconds: 10 } }",
        &[("0 a b; 10 look", "full b expired a")],
    );
}

#[test]
fn without_dynamic_batching_requests_run_one_by_one_in_the_order_they_came() {
    check(
        8,
        "",
        &[
            ("0 a b; 0 c rows=8; 0 look", "[a] [b] [c]"),
            ("0 a gone; 0 b; 0 look", "left a [b]"),
            ("0 a b gone; 0 c; 0 look", "left a left b [c]"),
        ],
    );
}

#[test]
fn levels_are_served_strictly_and_a_batch_may_reach_into_the_next() {
    check(
        4,
        "dynamic_batching { priority_levels: 3 default_priority_level: 2 }",
        &[
            ("0 a b priority=3; 0 c priority=1; 0 d; 0 look", "[c d a b]"),
            ("0 a b c priority=3; 0 d e f priority=1; 0 look", "[d e f a] [b c]"),
            // 0 and what is out of range mean the default level.
            (
                "0 a priority=3; 0 b priority=0; 0 c priority=4; 0 d priority=1; 0 e priority=18446744073709551615; 0 look",
                "[d b c e] [a]",
            ),
        ],
    );
}

#[test]
fn a_level_is_full_by_itself_and_counts_what_is_delayed() {
    let scheduling = "dynamic_batching { priority_levels: 3 default_priority_level: 2
        default_queue_policy { max_queue_size: 2 }
        priority_queue_policy { key: 1 value { max_queue_size: 1 } }
        priority_queue_policy { key: 3 value {
            max_queue_size: 2 timeout_action: DELAY default_timeout_microseconds: 10
        } } }";
    check(
        8,
        scheduling,
        &[
            ("0 a b c; 0 d e priority=1; 0 look", "full c full e [d a b]"),
            ("0 a priority=3; 20 x; 20 look; 20 look", "[x a]"),
            ("0 a b priority=3; 11 c priority=3; 11 look; 11 d priority=3; 11 look", "full c [a b] [d]"),
        ],
    );
}

#[test]
fn what_waited_too_long_is_refused_or_served_last_of_its_level() {
    let reject = "dynamic_batching { max_queue_delay_microseconds: 1000 preferred_batch_size: 4
        default_queue_policy { default_timeout_microseconds: 100 } }";
    check(
        4,
        reject,
        &[
            ("0 a; 99 look; 100 look", "until 100 expired a"),
            ("0 a; 50 b; 50 look; 100 look; 150 look", "until 100 expired a until 150 expired b"),
            // A request's own timeout says nothing unless that is allowed.
            ("0 a timeout=5; 50 look", "until 100"),
            ("0 a b c d; 200 look", "expired a expired b expired c expired d"),
        ],
    );
    let delay = "dynamic_batching { priority_levels: 2 default_priority_level: 1 default_queue_policy {
        timeout_action: DELAY default_timeout_microseconds: 100 } }";
    check(
        1,
        delay,
        &[
            ("0 a; 50 b; 100 look", "[b] [a]"),
            ("0 a b; 150 c; 150 look", "[c] [a] [b]"),
            // It goes behind its own level, not behind the next one.
            ("0 a; 150 b priority=2; 150 c; 150 look", "[c] [a] [b]"),
            // And does not expire a second time.
            ("0 a; 100 look; 100 b; 500 c; 500 look", "[a] [c] [b]"),
        ],
    );
}

#[test]
fn a_request_may_shorten_its_wait_where_that_is_allowed_and_never_lengthen_it() {
    let scheduling = "dynamic_batching { max_queue_delay_microseconds: 1000 preferred_batch_size: 4
        default_queue_policy { allow_timeout_override: true default_timeout_microseconds: 100 } }";
    check(
        4,
        scheduling,
        &[
            ("0 a timeout=30; 0 look; 30 look", "until 30 expired a"),
            ("0 a timeout=300; 0 look", "until 100"),
            ("0 a timeout=0; 0 look", "until 100"),
            (
                "0 a timeout=60; 0 b timeout=30; 0 c; 0 look; 30 look; 60 look",
                "until 30 expired b until 60 expired a until 100",
            ),
        ],
    );
    // Where nothing limits the wait there is nothing to shorten.
    let unlimited = "dynamic_batching { max_queue_delay_microseconds: 1000 preferred_batch_size: 4
        default_queue_policy { allow_timeout_override: true } }";
    check(4, unlimited, &[("0 a timeout=30; 0 look; 30 look; 1000 look", "until 1000 until 1000 [a]")]);
}

#[test]
fn a_held_batcher_runs_nothing_until_enough_requests_wait_and_is_not_held_again() {
    let play = |scheduling, events| play_held(3, 8, scheduling, events);
    assert_eq!(play("dynamic_batching { }", "0 a; 0 look; 9 b; 9 look; 20 c; 20 look; 30 d; 30 look"), "[a b c] [d]");
    let scheduling = "dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 100 }";
    assert_eq!(play(scheduling, "0 a b; 50 look; 60 c; 60 look; 160 look"), "[a b] until 160 [c]");
    let preferred = "dynamic_batching { preferred_batch_size: 4 }";
    let events = "0 a rows=3; 1 b rows=3; 2 c rows=3; 2 look; 3 d rows=3; 4 e rows=3; 9 look";
    assert_eq!(play(preferred, events), "[a] [b] [c] [d e]", "what was held is looked at together");
    assert_eq!(play("", "0 a; 0 look"), "[a]", "without batching nothing is held");
}

#[test]
fn whose_caller_left_is_not_in_the_batch() {
    check(
        4,
        "dynamic_batching { max_queue_delay_microseconds: 100 }",
        &[
            ("0 a gone; 0 b; 0 look; 100 look", "left a until 100 [b]"),
            ("0 a b gone; 0 look", "left a left b"),
            // The age is that of the oldest that is still wanted.
            ("0 a gone; 60 b; 100 look; 160 look", "left a until 160 [b]"),
        ],
    );
}

#[test]
fn abandoned_requests_are_found_in_every_level_and_the_order_of_the_others_stays() {
    let scheduling = "dynamic_batching { priority_levels: 2 default_priority_level: 2 }";
    check(
        8,
        scheduling,
        &[(
            "0 a; 0 b gone; 0 c; 0 d gone priority=1; 0 e priority=1; 0 f gone; 0 g; 0 look",
            "left d left b left f [e a c g]",
        )],
    );
}

proptest::proptest! {
    /// Whatever comes, in whatever order and with whatever rules: every request ends exactly once, no batch is larger than
    /// the model takes, and within a level what was not delayed leaves in the order it came.
    #[test]
    fn every_request_ends_once_whatever_the_policy(
        requests in proptest::collection::vec((1u32..5, 0i64..2, 0u64..4, 0u64..40, proptest::bool::weighted(0.1)), 1..80),
        delay in 0u64..50,
        step in 1u64..30,
        timeout in proptest::sample::select(vec![0u64, 20, 100]),
        delays in proptest::bool::ANY,
        max_queue_size in proptest::sample::select(vec![0u32, 3]),
        looks in proptest::collection::vec(proptest::bool::ANY, 80),
    ) {
        let action = if delays { "DELAY" } else { "REJECT" };
        let text = format!(
            "name: 'm' max_batch_size: 8 dynamic_batching {{ preferred_batch_size: [ 4, 8 ] priority_levels: 3
             default_priority_level: 2 max_queue_delay_microseconds: {delay} default_queue_policy {{
                 timeout_action: {action} default_timeout_microseconds: {timeout} allow_timeout_override: true
                 max_queue_size: {max_queue_size} }} }}
             input {{ name: 'INPUT0' data_type: TYPE_FP32 dims: -1 }}"
        );
        let settings = Settings::of(&from_text(&text).unwrap());
        let mut batcher = Batcher::new(&settings);
        let start = Instant::now();
        let (mut ends, mut served) = (Vec::new(), Vec::new());
        let mut look = |batcher: &mut Batcher<Row>, now: Instant, ends: &mut Vec<usize>| loop {
            let (mut batch, mut removed) = (Vec::new(), Vec::new());
            let decision = batcher.decide(0, now, &mut batch, &mut removed);
            ends.extend(removed.iter().map(|(row, _)| row.name.parse::<usize>().unwrap()));
            match decision {
                Decision::Run(wake) => {
                    assert!(!batch.is_empty() && batch.iter().map(|row| row.rows).sum::<u32>() <= 8);
                    assert!(batch.windows(2).all(|pair| pair[0].shape == pair[1].shape));
                    assert_eq!(wake == Wake::Nobody, batcher.is_empty());
                    let names = batch.iter().map(|row| row.name.parse::<usize>().unwrap());
                    served.extend(names.clone());
                    ends.extend(names);
                }
                Decision::WaitUntil(then) => break assert!(then > now),
                Decision::Idle => break assert!(batcher.is_empty()),
                other => panic!("no decision of the dynamic batcher: {other:?}"),
            }
        };
        for (name, &(rows, shape, priority, own, is_abandoned)) in requests.iter().enumerate() {
            let now = start + Duration::from_micros(name as u64 * step);
            let row = Row { name: name.to_string(), rows, shape, is_abandoned };
            if batcher.push(row, priority, Some(Duration::from_micros(own)), now).is_err() {
                ends.push(name);
            }
            if looks[name] {
                look(&mut batcher, now, &mut ends);
            }
        }
        look(&mut batcher, start + Duration::from_secs(1), &mut ends);
        assert_eq!((batcher.len(), batcher.queue().rows(), batcher.queue().next_deadline()), (0, 0, None));
        ends.sort_unstable();
        assert_eq!(ends, (0..requests.len()).collect::<Vec<_>>());
        if !delays || timeout == 0 {
            for level in 1..=3 {
                let of_level = |name: &&usize| settings.levels.level(requests[**name].2) == level;
                assert!(served.iter().filter(of_level).is_sorted(), "first in, first out within level {level}");
            }
        }
    }
}
