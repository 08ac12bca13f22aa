//! Random histories: whatever comes, every request ends once, and sequences keep their order.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::{Ask, Asked, Bench, DIRECT, Policy, asked, direct, ms, oldest};

/// A step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Push { id: u64, flags: &'static str, is_abandoned: bool, timeout: Option<u64> },
    Look(usize),
    End(usize),
    Sweep,
    Wait(u64),
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![Just("S"), Just(""), Just(""), Just("E"), Just("SE")];
    let push = (1u64..9, flags, prop::bool::weighted(0.1), prop::option::of(1u64..400))
        .prop_map(|(id, flags, is_abandoned, timeout)| Step::Push { id, flags, is_abandoned, timeout });
    let step = prop_oneof![
        4 => push,
        3 => (0usize..2).prop_map(Step::Look),
        3 => (0usize..8).prop_map(Step::End),
        1 => Just(Step::Sweep),
        1 => (1u64..700).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

/// Every request that was let in ends exactly once; those of a sequence in order; no slot has two; the first of a
/// sequence that runs starts it.
fn check_history<P: Policy<Asked>>(mut bench: Bench<P>, steps: Vec<Step>) {
    let (mut now, mut pushed, mut running, mut removed) = (0, Vec::new(), Vec::new(), Vec::new());
    let mut ran: Vec<u32> = Vec::new();
    let (mut live, mut begun) = (HashMap::new(), Vec::<(u32, bool)>::new());
    let mut sequence_of = BTreeMap::new();
    for (name, step) in steps.into_iter().enumerate() {
        let name = name as u32;
        match step {
            Step::Push { id, flags, is_abandoned, timeout } => {
                if bench.push(now, Asked { is_abandoned, ..asked(name, id, flags) }, timeout).is_ok() {
                    pushed.push((name, id));
                    let key = *live.entry(id).or_insert(name);
                    sequence_of.insert(name, key);
                    if flags.contains('E') {
                        live.remove(&id);
                    }
                }
            }
            Step::Look(instance) => {
                let (_, batch, gone) = bench.look(now, instance);
                removed.extend(gone);
                for word in batch.split(' ') {
                    let Ok(name) = word.trim_end_matches(['S', 'E']).parse::<u32>() else { continue };
                    running.push(name);
                    begun.push((name, word.contains('S')));
                }
            }
            Step::End(index) if !running.is_empty() => {
                let name = running.remove(index % running.len());
                bench.end(now, name);
                ran.push(name);
            }
            Step::End(_) => {}
            Step::Sweep => removed.extend(Ask::sweep(&mut bench, now)),
            Step::Wait(time) => now += time,
        }
    }
    let mut last = BTreeMap::new();
    for (name, starts) in begun {
        let before = last.insert(sequence_of[&name], name);
        assert!(before.is_none_or(|before| before < name), "{name} ran after {before:?} of its sequence");
        assert!(before.is_some() || starts, "{name} is the first of its sequence and does not start it");
    }
    for name in running {
        bench.end(now, name);
        ran.push(name);
    }
    bench.policy.close(bench.start + ms(now));
    ran.extend(bench.run_all(now, 2, &mut removed));
    assert_eq!(bench.policy.len(), 0);
    let mut ended: Vec<u32> = ran.iter().copied().chain(removed.iter().map(|(name, _)| *name)).collect();
    ended.sort_unstable();
    assert_eq!(ended, pushed.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "each ends exactly once");
}

proptest! {
    #[test]
    fn whatever_comes_under_direct_every_request_ends_once(steps in steps()) {
        check_history(direct(DIRECT, 2), steps);
    }

    #[test]
    fn whatever_comes_under_oldest_every_request_ends_once(steps in steps()) {
        check_history(oldest("oldest { max_candidate_sequences: 2 }", 2), steps);
    }

    #[test]
    fn sequences_get_their_slots_in_the_order_they_came(ids in prop::collection::vec(1u64..100, 1..40)) {
        let mut bench = oldest("oldest { max_candidate_sequences: 1 }", 1);
        let mut came = Vec::new();
        for (name, id) in ids.into_iter().enumerate() {
            bench.push(0, asked(name as u32, id, "SE"), None).unwrap();
            came.push(name as u32);
        }
        prop_assert_eq!(bench.run_all(0, 1, &mut Vec::new()), came);
    }
}
