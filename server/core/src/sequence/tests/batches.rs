//! What is in a batch of sequences, and when it runs.

use super::*;

#[test]
fn a_row_is_a_sequence_and_rows_without_requests_run_empty() {
    let mut bench = direct(DIRECT, 1);
    bench.pushes(0, (1..=4).map(|id| asked(id as u32, id, "S")));
    bench.check(0, 0, "1S 2S 3S 4S");
    (1..=4).for_each(|name| bench.end(0, name));
    bench.pushes(1, [asked(5, 3, ""), asked(6, 1, "")]);
    bench.check(1, 0, "6 - 5");
    bench.end(1, 6);
    bench.end(1, 5);
    bench.pushes(1, [asked(7, 1, "")]);
    bench.check(1, 0, "7");
    bench.end(1, 7);
    bench.pushes(2, [asked(8, 4, "E")]);
    bench.check(2, 0, "- - - 8E");
}

#[test]
fn rows_of_another_shape_run_in_the_next_batch() {
    let mut bench = direct(DIRECT, 1);
    let shaped = |name, id, shape| Asked { shape, ..asked(name, id, "S") };
    bench.pushes(0, [shaped(1, 1, 5), shaped(2, 2, 6), shaped(3, 3, 5)]);
    bench.check(0, 0, "1S - 3S");
    bench.end(0, 1);
    bench.end(0, 3);
    bench.pushes(1, [shaped(4, 1, 5)]);
    bench.check(1, 0, "- 2S");
    bench.end(1, 2);
    bench.check(1, 0, "4S");
}

#[test]
fn a_batch_waits_until_enough_slots_are_ready_but_no_longer_than_its_delay() {
    let mut bench = direct("direct { max_queue_delay_microseconds: 100000 minimum_slot_utilization: 0.6 }", 1);
    bench.pushes(0, [asked(1, 1, "S"), asked(2, 2, "S")]);
    assert_eq!(bench.look(1, 0).0, Decision::WaitHereUntil(bench.start + ms(100)));
    bench.pushes(10, [asked(3, 3, "S")]);
    bench.check(10, 0, "1S 2S 3S");
    (1..=3).for_each(|name| bench.end(10, name));
    bench.pushes(20, [asked(4, 2, "")]);
    bench.check(119, 0, "");
    bench.check(120, 0, "- 4");
    bench.end(120, 4);
    bench.pushes(130, [asked(5, 2, "")]);
    bench.policy.stop_waiting();
    bench.check(130, 0, "- 5");
}

#[test]
fn the_oldest_requests_of_candidates_are_batched() {
    let mut bench = oldest("oldest { max_candidate_sequences: 6 preferred_batch_size: 4 }", 1);
    bench.pushes(0, (1..=6).map(|id| asked(id as u32, id, "S")));
    bench.check(0, 0, "1S 2S 3S 4S");
    bench.check(0, 0, "5S 6S");
    bench.pushes(0, [asked(7, 5, ""), asked(8, 1, "")]);
    bench.check(0, 0, "");
    bench.end(1, 1);
    bench.end(1, 5);
    bench.check(1, 0, "8 7");
}

#[test]
fn candidates_wait_for_a_preferred_size() {
    let mut bench =
        oldest("oldest { max_candidate_sequences: 6 preferred_batch_size: 3 max_queue_delay_microseconds: 100000 }", 1);
    bench.pushes(0, [asked(1, 1, "S"), asked(2, 2, "S")]);
    assert_eq!(bench.look(1, 0).0, Decision::WaitHereUntil(bench.start + ms(100)));
    bench.pushes(10, [asked(3, 3, "S")]);
    bench.check(10, 0, "1S 2S 3S");
}

#[test]
fn nothing_runs_before_as_many_wait_as_a_test_asks_for() {
    let hold = Hold { queued: 4, backlog: 2 };
    let (given, extra) = settings(DIRECT, hold);
    let mut bench = Bench::new(Direct::new(given, extra), 1);
    bench.pushes(0, (1..=5).map(|id| asked(id as u32, id, "S")));
    bench.check(0, 0, "");
    bench.pushes(0, [asked(6, 5, "")]);
    bench.check(0, 0, "1S 2S 3S 4S");

    let (given, extra) = settings(OLDEST, hold);
    let Strategy::Oldest { batching } = given.strategy.clone() else { panic!("the strategy is another") };
    let mut bench = Bench::new(Oldest::new(given, batching, extra), 1);
    bench.pushes(0, (1..=5).map(|id| asked(id as u32, id, "S")));
    bench.check(0, 0, "");
    bench.policy.stop_waiting();
    bench.check(0, 0, "1S 2S 3S 4S");

    for (queued, last) in [(4, 4), (6, 2)] {
        let (given, extra) = settings(OLDEST, Hold { queued, backlog: 0 });
        let Strategy::Oldest { batching } = given.strategy.clone() else { panic!("the strategy is another") };
        let mut bench = Bench::new(Oldest::new(given, batching, extra), 1);
        bench.pushes(0, (0..5).map(|name| asked(name, 1, if name == 0 { "S" } else { "" })));
        bench.check(0, 0, "");
        bench.pushes(0, (2..=last).map(|id| asked(10 + id as u32, id, "S")));
        let expect = if queued == 4 { "0S 12S 13S 14S" } else { "0S 12S" };
        bench.check(0, 0, expect); // one of each sequence counts, if so many can wait at all
    }
}
