//! Both strategies against the same rules: who gets a slot, what ends a sequence, what callers hear.

mod batches;
mod histories;
mod iterative;

use super::{
    direct::Direct,
    oldest::Oldest,
    settings::{Hold, Strategy},
    testing::{Asked, Bench, asked, ms, settings},
};
use crate::batching::{
    policy::{Decision, Policy, Wake},
    queue::Removal,
};

fn direct(batching: &str, instances: usize) -> Bench<Direct<Asked>> {
    let (settings, extra) = settings(batching, Hold::default());
    Bench::new(Direct::new(settings, extra), instances)
}

fn oldest(batching: &str, instances: usize) -> Bench<Oldest<Asked>> {
    let (settings, extra) = settings(batching, Hold::default());
    let Strategy::Oldest { batching } = settings.strategy.clone() else { panic!("the strategy is another") };
    Bench::new(Oldest::new(settings, batching, extra), instances)
}

const DIRECT: &str = "direct { }";
const OLDEST: &str = "oldest { max_candidate_sequences: 4 }";

/// The same question to both strategies, with four slots for each instance.
fn both(question: impl Fn(&mut dyn Ask)) {
    question(&mut direct(DIRECT, 1));
    question(&mut oldest(OLDEST, 1));
}

/// What both benches answer.
trait Ask {
    fn push(&mut self, at: u64, item: Asked, timeout: Option<u64>) -> Result<Option<u64>, String>;
    fn look(&mut self, at: u64) -> (Decision, String, Vec<(u32, Removal)>);
    fn end(&mut self, at: u64, name: u32);
    fn sweep(&mut self, at: u64) -> Vec<(u32, Removal)>;
    fn close(&mut self, at: u64);
    fn len(&self) -> usize;
    fn run_all(&mut self, at: u64) -> Vec<u32>;
}

impl<P: Policy<Asked>> Ask for Bench<P> {
    fn push(&mut self, at: u64, item: Asked, timeout: Option<u64>) -> Result<Option<u64>, String> {
        Bench::push(self, at, item, timeout)
    }
    fn look(&mut self, at: u64) -> (Decision, String, Vec<(u32, Removal)>) {
        Bench::look(self, at, 0)
    }
    fn end(&mut self, at: u64, name: u32) {
        Bench::end(self, at, name);
    }
    fn sweep(&mut self, at: u64) -> Vec<(u32, Removal)> {
        let mut removed = Vec::new();
        self.policy.sweep(self.start + ms(at), usize::MAX, &mut removed);
        removed.into_iter().map(|(item, removal)| (item.name, removal)).collect()
    }
    fn close(&mut self, at: u64) {
        self.policy.close(self.start + ms(at));
    }
    fn len(&self) -> usize {
        self.policy.len()
    }
    fn run_all(&mut self, at: u64) -> Vec<u32> {
        Bench::run_all(self, at, 1, &mut Vec::new())
    }
}

#[test]
fn requests_that_begin_or_go_on_with_nothing_are_refused() {
    both(|bench| {
        let id = "must specify a non-zero or non-empty correlation ID";
        let error = |result: Result<Option<u64>, String>| result.unwrap_err();
        assert_eq!(error(bench.push(0, asked(0, 0, "S"), None)), format!("inference request to model 'm' {id}"));
        let nameless = Asked { sequence: None, ..asked(0, 1, "S") };
        assert_eq!(error(bench.push(0, nameless, None)), format!("inference request to model 'm' {id}"));
        assert_eq!(
            error(bench.push(0, Asked { rows: 2, ..asked(0, 1, "S") }, None)),
            "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher"
        );
        assert_eq!(
            error(bench.push(0, asked(0, 7, ""), None)),
            "inference request for sequence 7 to model 'm' must specify the START flag on the first request of the \
             sequence"
        );
        assert_eq!(bench.len(), 0);
    });
}

#[test]
fn the_last_request_ends_its_sequence() {
    both(|bench| {
        bench.push(0, asked(0, 7, "S"), None).unwrap();
        bench.push(0, asked(1, 7, "E"), None).unwrap();
        assert!(bench.push(0, asked(2, 7, ""), None).is_err(), "the last one has come");
        assert_eq!(bench.run_all(0), [0, 1]);
        bench.push(0, asked(3, 7, "SE"), None).unwrap();
        assert_eq!(bench.run_all(0), [3]);
    });
}

#[test]
fn one_request_of_a_sequence_runs_at_a_time() {
    both(|bench| {
        for name in 0..3 {
            bench.push(0, asked(name, 7, if name == 0 { "S" } else { "" }), None).unwrap();
        }
        assert_eq!(bench.look(0).1, "0S");
        assert_eq!(bench.look(0).1, "");
        bench.end(1, 0);
        assert_eq!(bench.look(1).1, "1");
        assert_eq!(bench.len(), 1);
    });
}

#[test]
fn a_start_within_a_sequence_starts_it_again_in_its_order() {
    both(|bench| {
        for (name, flags) in [(0, "S"), (1, ""), (2, "S"), (3, "E")] {
            bench.push(0, asked(name, 7, flags), None).unwrap();
        }
        let mut seen = Vec::new();
        for name in 0..4 {
            seen.push(bench.look(0).1);
            bench.end(0, name);
        }
        assert_eq!(seen, ["0S", "1", "2S", "3E"]);
    });
}

#[test]
fn a_start_within_a_sequence_is_worth_a_warning() {
    let mut bench = direct(DIRECT, 1);
    let mut warning = |name, flags| bench.policy.push(asked(name, 7, flags), 0, None, bench.start).unwrap().warning;
    assert_eq!([warning(0, "S"), warning(1, "")], [None, None]);
    assert_eq!(
        warning(2, "S").unwrap(),
        "sequence 7 for model 'm' has a conflict. The previous sequence did not end before this sequence start. Previous \
         sequence will be terminated early."
    );
    assert_eq!([warning(3, "E"), warning(4, "S")], [None, None]);
}

#[test]
fn sequences_without_a_slot_wait_in_the_order_they_came_with_all_their_requests() {
    both(|bench| {
        for id in 1..=4 {
            bench.push(0, asked(id as u32, id, "S"), None).unwrap();
        }
        for (name, id, flags) in [(5, 5, "S"), (6, 6, "S"), (7, 5, ""), (8, 6, "E")] {
            bench.push(0, asked(name, id, flags), None).unwrap();
        }
        assert_eq!(bench.len(), 8);
        assert_eq!(bench.run_all(1), [1, 2, 3, 4], "all slots are taken");
        bench.push(2, asked(9, 2, "E"), None).unwrap();
        assert_eq!(bench.run_all(2), [9, 5, 7]);
        bench.push(3, asked(10, 5, "E"), None).unwrap();
        assert_eq!(bench.run_all(3), [10, 6, 8]);
        assert_eq!(bench.len(), 0);
    });
}

#[test]
fn a_sequence_that_is_silent_too_long_loses_its_slot() {
    both(|bench| {
        for id in 1..=4 {
            bench.push(0, asked(id as u32, id, "S"), None).unwrap();
        }
        assert_eq!(bench.run_all(0).len(), 4);
        bench.push(600, asked(5, 2, ""), None).unwrap();
        assert_eq!(bench.run_all(600), [5]);
        bench.push(700, asked(6, 9, "SE"), None).unwrap();
        assert_eq!(bench.run_all(999), Vec::<u32>::new(), "no slot is free");
        let (decision, ..) = bench.look(999);
        assert!(matches!(decision, Decision::WaitUntil(_)), "somebody has to look when one is: {decision:?}");
        assert_eq!(bench.run_all(1000), [6]);
        assert!(bench.push(1001, asked(7, 1, ""), None).is_err(), "its slot was given away");
        bench.push(1001, asked(8, 2, ""), None).unwrap();
        assert!(bench.push(2600, asked(9, 2, ""), None).is_ok(), "what waits or runs is not silent");
        assert_eq!(bench.run_all(2600), [8, 9]);
        assert!(bench.push(3600, asked(10, 2, ""), None).is_err());
    });
}

#[test]
fn a_sequence_that_waits_too_long_for_a_slot_is_answered_as_a_whole() {
    both(|bench| {
        for id in 1..=4 {
            assert_eq!(bench.push(0, asked(id as u32, id, "S"), Some(1)), Ok(None), "in a slot nothing expires");
        }
        assert_eq!(bench.push(0, asked(5, 5, "S"), Some(300)), Ok(Some(300)));
        assert_eq!(bench.push(10, asked(6, 5, ""), Some(90)), Ok(Some(100)));
        assert_eq!(bench.push(10, asked(7, 5, ""), None), Ok(Some(100)), "it goes with the others");
        assert_eq!(bench.push(10, asked(8, 8, "SE"), None), Ok(None));
        assert_eq!(bench.sweep(99), []);
        let expired = [5, 6, 7].map(|name| (name, Removal::SequenceExpired));
        assert_eq!(bench.sweep(100), expired);
        assert!(bench.push(101, asked(9, 5, ""), None).is_err(), "its sequence is gone");
        assert_eq!(bench.len(), 5);
    });
}

#[test]
fn a_request_whose_caller_left_counts_as_done() {
    both(|bench| {
        let gone = |name, flags: &str| Asked { is_abandoned: true, ..asked(name, 7, flags) };
        bench.push(0, asked(0, 7, "S"), None).unwrap();
        bench.push(0, gone(1, ""), None).unwrap();
        bench.push(0, gone(2, ""), None).unwrap();
        bench.push(0, gone(3, "E"), None).unwrap();
        assert_eq!(bench.look(0).1, "0S");
        bench.end(0, 0);
        let (_, batch, removed) = bench.look(0);
        assert_eq!((&*batch, &*removed), ("", &[1, 2, 3].map(|name| (name, Removal::Abandoned))[..]));
        for id in 1..=4 {
            bench.push(1, asked(10 + id as u32, id, "S"), None).unwrap();
        }
        assert_eq!(bench.run_all(1).len(), 4, "its slot is free again");
    });
}

#[test]
fn a_sequence_whose_start_was_cancelled_before_it_ran_is_none() {
    both(|bench| {
        let gone = |name, flags: &str| Asked { is_abandoned: true, ..asked(name, 7, flags) };
        bench.push(0, gone(0, "S"), None).unwrap();
        bench.push(0, asked(1, 7, ""), None).unwrap();
        bench.push(0, asked(2, 7, "S"), None).unwrap();
        let (_, batch, mut removed) = bench.look(0);
        removed.sort_unstable_by_key(|(name, _)| *name);
        assert_eq!((&*batch, &*removed), ("2S", &[(0, Removal::Abandoned), (1, Removal::NotStarted)][..]));
        bench.end(0, 2);
        bench.push(0, gone(3, "S"), None).unwrap();
        assert_eq!(bench.look(0).2, [(3, Removal::Abandoned)]);
        assert!(bench.push(0, asked(4, 7, ""), None).is_err(), "neither it nor the one before goes on");
        for id in 1..=4 {
            bench.push(1, asked(10 + id as u32, id, "S"), None).unwrap();
        }
        assert_eq!(bench.run_all(1).len(), 4, "its slot is free again");
    });
}

#[test]
fn sequences_that_were_cancelled_while_they_waited_take_no_slot() {
    both(|bench| {
        for id in 1..=4 {
            bench.push(0, asked(id as u32, id, "S"), None).unwrap();
        }
        assert_eq!(bench.run_all(0).len(), 4);
        for id in 5..=9 {
            bench.push(0, Asked { is_abandoned: id < 9, ..asked(id as u32, id, "S") }, None).unwrap();
        }
        bench.push(0, asked(10, 5, ""), None).unwrap();
        bench.push(0, asked(11, 1, "E"), None).unwrap();
        assert_eq!(bench.look(0).1, "11E");
        bench.end(0, 11);
        let (_, batch, mut removed) = bench.look(0);
        removed.sort_unstable_by_key(|(name, _)| *name);
        let abandoned = [5, 6, 7, 8].map(|name| (name, Removal::Abandoned));
        assert_eq!((&*batch, &removed[..4], &removed[4..]), ("9S", &abandoned[..], &[(10, Removal::NotStarted)][..]));
        assert_eq!(bench.len(), 0);
        assert!(bench.push(0, asked(12, 6, ""), None).is_err(), "it never began");
    });
}

#[test]
fn places_of_those_who_left_are_given_up_before_anybody_is_refused() {
    both(|bench| {
        for id in 1..=5 {
            let flags = if id == 5 { "SE" } else { "S" };
            bench.push(0, Asked { is_abandoned: id >= 4, ..asked(id as u32, id, flags) }, None).unwrap();
        }
        let mut removed = bench.sweep(0);
        removed.sort_unstable_by_key(|(name, _)| *name);
        assert_eq!(removed, [(4, Removal::Abandoned), (5, Removal::Abandoned)]);
        assert_eq!(bench.len(), 3);
    });
}

#[test]
fn requests_whose_callers_left_are_kept_no_longer_wherever_they_wait() {
    both(|bench| {
        let gone = |name, id, flags: &str| Asked { is_abandoned: true, ..asked(name, id, flags) };
        let sequence = |bench: &mut dyn Ask, first: u32, id| {
            for item in [asked(first, id, "S"), asked(first + 1, id, ""), gone(first + 2, id, "")] {
                bench.push(0, item, None).unwrap();
            }
            for item in [asked(first + 3, id, ""), gone(first + 4, id, ""), gone(first + 5, id, "E")] {
                bench.push(0, item, None).unwrap();
            }
        };
        for id in 1..=5 {
            sequence(bench, 10 * id as u32, id); // the fifth has no slot
        }
        bench.look(0);
        let mut removed = bench.sweep(0);
        removed.sort_unstable_by_key(|(name, _)| *name);
        let expect: Vec<_> = (1..=5).flat_map(|id| [10 * id + 2, 10 * id + 4]).collect();
        assert_eq!(removed, expect.iter().map(|&name| (name, Removal::Abandoned)).collect::<Vec<_>>());
        for id in 1..=4 {
            bench.end(0, 10 * id);
        }
        let mut ran = bench.run_all(0);
        ran.retain(|name| *name >= 50);
        assert_eq!(ran, [50, 51, 53], "each sequence ends with the request that ends it, and its slot is free");
        assert_eq!(bench.len(), 0);
    });
}

#[test]
fn after_the_last_request_what_waits_runs_and_silent_sequences_make_room() {
    both(|bench| {
        for id in 1..=4 {
            bench.push(0, asked(id as u32, id, "S"), None).unwrap();
        }
        assert_eq!(bench.run_all(0).len(), 4);
        bench.push(0, asked(5, 5, "S"), None).unwrap();
        bench.push(0, asked(6, 6, "S"), None).unwrap();
        bench.push(0, asked(7, 1, ""), None).unwrap();
        bench.close(1);
        let mut ran = bench.run_all(1);
        ran.sort_unstable();
        assert_eq!(ran, [5, 6, 7]);
        assert_eq!(bench.len(), 0);
    });
}

#[test]
fn sequences_spread_over_instances_before_they_share_one() {
    let mut bench = direct(DIRECT, 2);
    bench.pushes(0, (1..=3).map(|id| asked(id as u32, id, "S")));
    bench.check(0, 0, "1S 3S");
    bench.check(0, 1, "2S");
}

#[test]
fn a_request_that_is_not_over_holds_up_its_own_sequence_only() {
    let mut bench = direct(DIRECT, 1);
    bench.pushes(0, (1..=4).map(|id| asked(id as u32, id, "S")));
    bench.check(0, 0, "1S 2S 3S 4S");
    [1, 3, 4].into_iter().for_each(|name| bench.end(1, name));
    let wake = bench.policy.push(asked(5, 2, ""), 0, None, bench.start).unwrap().wake;
    assert_eq!(wake, Wake::Nobody, "one of its sequence is not over");
    let wake = bench.policy.push(asked(6, 3, ""), 0, None, bench.start).unwrap().wake;
    assert_eq!(wake, Wake::Instance(0));
    bench.check(2, 0, "- - 6");
    bench.pushes(2, [asked(7, 1, "E")]);
    bench.check(2, 0, "7E");
    bench.end(3, 2);
    bench.check(3, 0, "- 5");
}

#[test]
fn an_instance_that_retires_keeps_its_sequences_and_gets_no_more() {
    let mut bench = direct(DIRECT, 2);
    bench.pushes(0, [asked(1, 1, "S"), asked(2, 2, "S")]);
    bench.policy.retire_instance(1);
    bench.pushes(0, [asked(3, 3, "S"), asked(4, 2, "")]);
    assert!(bench.policy.is_needed(1));
    bench.check(0, 0, "1S 3S");
    bench.check(0, 1, "2S");
    bench.end(0, 2);
    bench.check(0, 1, "4");
    bench.end(0, 4);
    let (decision, ..) = bench.look(1, 1);
    assert_eq!(decision, Decision::WaitHereUntil(bench.start + ms(1000)), "until its last sequence is silent too long");
    bench.check(1000, 1, "");
    assert!(!bench.policy.is_needed(1));
}

#[test]
fn a_great_number_of_slots_costs_nothing_before_they_are_used() {
    let mut bench = oldest("oldest { max_candidate_sequences: 2147483647 }", 2);
    bench.pushes(0, (1..=3).map(|id| asked(id as u32, id, "SE")));
    assert_eq!(bench.run_all(0, 2, &mut Vec::new()), [1, 3, 2]);
}

#[test]
fn only_the_instance_that_holds_the_sequence_is_woken() {
    let mut bench = oldest(OLDEST, 2);
    let mut wake = |name, id, flags| bench.policy.push(asked(name, id, flags), 0, None, bench.start).unwrap().wake;
    assert_eq!(wake(1, 1, "S"), Wake::Instance(0));
    assert_eq!(wake(2, 2, "S"), Wake::Instance(1));
    assert_eq!(wake(3, 2, ""), Wake::Nobody, "one of its sequence is on its way");
}

#[test]
fn somebody_watches_for_the_slot_that_a_sequence_waits_for() {
    let mut bench = oldest(OLDEST, 1);
    bench.pushes(0, (1..=4).map(|id| asked(id as u32, id, "S")));
    assert_eq!(bench.run_all(0, 1, &mut Vec::new()).len(), 4);
    let wake = bench.policy.push(asked(5, 5, "S"), 0, None, bench.start).unwrap().wake;
    assert_eq!(wake, Wake::Any);
    bench.pushes(0, [asked(6, 1, "")]);
    let (decision, ..) = bench.look(0, 0);
    assert_eq!(decision, Decision::Run(Wake::Any), "another one watches while this one runs");
}

#[test]
fn who_watches_is_back_when_a_sequence_has_waited_too_long() {
    let mut bench = oldest(OLDEST, 1);
    bench.pushes(0, (1..=4).map(|id| asked(id as u32, id, "S")));
    assert_eq!(bench.run_all(0, 1, &mut Vec::new()).len(), 4);
    let mut wake = |name, timeout| {
        bench.policy.push(asked(name, u64::from(name), "S"), 0, Some(ms(timeout)), bench.start).unwrap().wake
    };
    assert_eq!([wake(5, 300), wake(6, 200), wake(7, 250)], [Wake::Any, Wake::Any, Wake::Nobody]);
    assert_eq!(bench.look(0, 0).0, Decision::WaitUntil(bench.start + ms(200)));
    assert_eq!(bench.look(200, 0).2, [(6, Removal::SequenceExpired)]);
}
