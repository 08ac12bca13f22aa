//! Who runs when, on a clock that stands still.

use std::time::{Duration, Instant};

use server_proto::inference::ModelInstanceGroup;

use super::*;
use crate::config::from_text;

const NOBODY: [InstanceId; 0] = [];

/// `rate_limiter` of an instance group, e.g. `resources { name: 'R' count: 1 } priority: 2`.
fn needs(text: &str) -> Needs {
    let config = from_text(&format!("instance_group {{ rate_limiter {{ {text} }} }}")).unwrap();
    let group: &ModelInstanceGroup = &config.instance_group[0];
    Needs::of(group)
}

fn of(count: u32) -> Needs {
    needs(&format!("resources {{ name: 'R' count: {count} }}"))
}

fn amounts(text: &[(&str, u64, Option<u32>)]) -> Amounts {
    let mut amounts = Amounts::default();
    for (name, count, device) in text {
        amounts.set(name, *count, *device);
    }
    amounts
}

/// Adds instances on device 0 and says why one is refused.
#[track_caller]
fn check(declared: &[(&str, u64, Option<u32>)], instances: &[(&str, u32)], expect: &str) {
    let mut limiter = RateLimiter::new(amounts(declared));
    let error = instances.iter().find_map(|(text, device)| limiter.add(*device, &needs(text)).err());
    assert_eq!(error.map(|error| error.message.into_owned()).unwrap_or_default(), expect);
}

#[test]
fn what_could_never_run_is_refused() {
    let four = "resources { name: 'R' count: 4 }";
    let four_of_all = "resources { name: 'R' global: true count: 4 }";
    let refused = "Resource count for \"R\" is limited to 3 which will prevent scheduling of one or more model instances, \
                   the minimum required count is 4";
    check(&[], &[(four, 0)], "");
    check(&[("R", 4, None)], &[(four, 0)], "");
    check(&[("R", 3, None)], &[(four, 0)], refused);
    check(&[("R", 4, Some(1))], &[(four, 1)], "");
    check(&[("R", 3, Some(1))], &[(four, 1)], refused);
    check(&[("R", 3, None), ("R", 4, Some(1))], &[(four, 1)], "");
    check(&[("R", 3, Some(1))], &[(four_of_all, 0)], refused);
    check(&[("R", 3, None), ("R", 9, None)], &[(four_of_all, 0)], "");
}

#[test]
fn once_an_amount_is_declared_there_is_nothing_of_what_is_not() {
    let limited_to_none = |name: &str, count: u32| {
        format!(
            "Resource count for \"{name}\" is limited to 0 which will prevent scheduling of one or more model instances, \
             the minimum required count is {count}"
        )
    };
    let declared = [("R", 3, None), ("G", 3, None), ("D", 2, Some(1))];
    let of = |name: &str, count: u32| format!("resources {{ name: '{name}' count: {count} }}");
    check(&declared, &[(&of("R9", 7), 0)], &limited_to_none("R9", 7));
    check(&declared, &[(&of("R9", 7), 0), (&of("R9", 9), 0)], &limited_to_none("R9", 7));
    check(&declared, &[(&of("", 1), 0)], &limited_to_none("", 1));
    check(&declared, &[(&of("D", 1), 0)], &limited_to_none("D", 1));
    check(&declared, &[(&of("R7", 0), 0), (&of("D", 2), 1)], "");
    check(&[], &[(&of("", 1), 0), (&of("R9", 7), 0), (&of("R9", 9), 0)], "");
    let (own, all) = ("resources { name: 'R8' count: 1 }", "resources { name: 'R8' global: true count: 1 }");
    check(&declared, &[(&format!("{own} {all}"), 0)], &limited_to_none("R8", 1));
    let all_too = "resources { name: 'S8' global: true count: 2 }";
    check(&declared, &[(&format!("{own} {all_too}"), 0)], &limited_to_none("S8", 2));
}

#[test]
fn a_resource_is_of_a_device_or_of_all() {
    let text = "Resource \"R\" is present as both global and device-specific resource in the model configuration.";
    let (own, all) = ("resources { name: 'R' count: 1 }", "resources { name: 'R' global: true count: 1 }");
    check(&[], &[(own, 0), (all, 1)], text);
    check(&[], &[(&format!("{own} {all}"), 0)], text);
    check(&[("R", 3, None)], &[(own, 0), (all, 0)], text);
    check(&[], &[(own, 0), ("resources { name: 'S' global: true count: 1 }", 0)], "");
}

#[test]
fn a_refused_instance_changes_nothing() {
    let mut limiter = RateLimiter::new(amounts(&[("R", 2, None)]));
    let (one, other) = (limiter.add(0, &of(2)).unwrap(), limiter.add(0, &of(2)).unwrap());
    assert!(limiter.add(0, &of(3)).is_err());
    let now = Instant::now();
    assert_eq!(limiter.request(one, now), [one]);
    assert_eq!(limiter.request(other, now), NOBODY);
    assert_eq!(limiter.finish(one, false, now), [other]);
}

#[test]
fn by_default_there_is_as_much_as_the_most_demanding_instance_needs() {
    let mut limiter = RateLimiter::new(Amounts::default());
    let now = Instant::now();
    let small: Vec<_> = (0..3).map(|_| limiter.add(0, &of(2)).unwrap()).collect();
    let elsewhere = limiter.add(1, &of(2)).unwrap();
    assert_eq!(limiter.request(small[0], now), [small[0]]);
    assert_eq!(limiter.request(small[1], now), NOBODY);
    assert_eq!(limiter.request(elsewhere, now), [elsewhere], "each device has its own");
    let large = limiter.add(0, &of(4)).unwrap();
    assert_eq!(limiter.look(now), [small[1]], "there are four now");
    assert_eq!(limiter.request(small[2], now), NOBODY);
    assert_eq!(limiter.remove(large, now), NOBODY, "there are two again, and four in use");
    assert_eq!(limiter.finish(small[0], false, now), NOBODY);
    assert_eq!(limiter.finish(small[1], false, now), [small[2]]);
}

#[test]
fn a_global_resource_is_shared_by_all_devices_and_every_resource_must_suffice() {
    let mut limiter = RateLimiter::new(amounts(&[("G", 2, Some(7)), ("R", 1, None)]));
    let text = "resources { name: 'G' global: true count: 1 } resources { name: 'R' count: 1 }";
    let ids: Vec<_> = [0, 0, 1, 2].into_iter().map(|device| limiter.add(device, &needs(text)).unwrap()).collect();
    let now = Instant::now();
    assert_eq!(limiter.request(ids[0], now), [ids[0]]);
    assert_eq!(limiter.request(ids[1], now), NOBODY, "R of device 0 is in use");
    assert_eq!(limiter.request(ids[2], now), [ids[2]]);
    assert_eq!(limiter.request(ids[3], now), NOBODY, "G is in use");
    assert_eq!(limiter.finish(ids[2], false, now), [ids[3]], "the one before it still has no R");
    assert_eq!(limiter.finish(ids[0], false, now), [ids[1]]);
}

/// Instances of these priorities that always have more to run share one resource; how often each ran of `turns`.
fn turns_of(priorities: &[u32], turns: usize) -> Vec<usize> {
    let mut limiter = RateLimiter::new(Amounts::default());
    let now = Instant::now();
    let text = |priority| format!("resources {{ name: 'R' count: 1 }} priority: {priority}");
    let ids: Vec<_> = priorities.iter().map(|&priority| limiter.add(0, &needs(&text(priority))).unwrap()).collect();
    let mut running: Vec<_> = ids.iter().flat_map(|id| limiter.request(*id, now)).collect();
    let mut counts = vec![0; ids.len()];
    for _ in 0..turns {
        assert_eq!(running.len(), 1);
        counts[ids.iter().position(|id| *id == running[0]).unwrap()] += 1;
        running = limiter.finish(running[0], true, now);
    }
    counts
}

#[test]
fn turns_are_shared_by_priority() {
    assert_eq!(turns_of(&[1, 1], 10), [5, 5]);
    assert_eq!(turns_of(&[0, 1], 10), [5, 5], "no priority is priority 1");
    assert_eq!(turns_of(&[1, 2], 300), [200, 100]);
    assert_eq!(turns_of(&[1, 2, 4], 700), [400, 200, 100]);
}

#[test]
fn one_that_was_away_has_saved_nothing_up() {
    let mut limiter = RateLimiter::new(Amounts::default());
    let now = Instant::now();
    let (busy, late) = (limiter.add(0, &of(1)).unwrap(), limiter.add(0, &of(1)).unwrap());
    limiter.request(busy, now);
    for _ in 0..1000 {
        assert_eq!(limiter.finish(busy, true, now), [busy]);
    }
    assert_eq!(limiter.request(late, now), NOBODY);
    let mut order = Vec::new();
    let mut running = busy;
    for _ in 0..6 {
        running = limiter.finish(running, true, now)[0];
        order.push(running);
    }
    assert_eq!(order, [late, busy, late, busy, late, busy]);
    // Nor does the one that was there all the time owe for all of it, to one that is new when it comes back.
    limiter.finish(running, false, now);
    limiter.cancel(late, now);
    let new = limiter.add(0, &of(1)).unwrap();
    assert_eq!(limiter.request(new, now), [new]);
    assert_eq!(limiter.request(busy, now), NOBODY);
    assert_eq!(limiter.finish(new, true, now), [busy]);
}

#[test]
fn the_first_in_line_gets_what_it_lacks_next() {
    let mut limiter = RateLimiter::new(amounts(&[("R", 3, None)]));
    let now = Instant::now();
    let small: Vec<_> = (0..4).map(|_| limiter.add(0, &of(1)).unwrap()).collect();
    let large = limiter.add(0, &of(3)).unwrap();
    let running: Vec<_> = small.iter().flat_map(|id| limiter.request(*id, now)).collect();
    assert_eq!(running, small[..3]);
    assert_eq!(limiter.finish(small[0], true, now), [small[3]], "it has run least");
    assert_eq!(limiter.request(large, now), NOBODY);
    assert_eq!(limiter.finish(small[1], true, now), NOBODY, "one is kept");
    assert_eq!(limiter.finish(small[2], true, now), NOBODY);
    assert_eq!(limiter.finish(small[3], true, now), [large]);
    assert_eq!(limiter.finish(large, true, now), small[..3], "and then the others go on");
    assert_eq!(limiter.finish(small[1], true, now), [small[3]], "each once");
    assert_eq!(limiter.finish(small[2], true, now), NOBODY, "until it is in front again");
}

/// Executions of instances that have more to run as soon as they have run, of ten of a resource: two need 4, one 6 and one
/// 10. Executions last about as long as that, and somebody looks every so often.
fn turns_of_all_sizes(execution: Duration, total: Duration) -> [usize; 4] {
    let mut limiter = RateLimiter::new(amounts(&[("R", 10, None)]));
    let mut now = Instant::now();
    let end = now + total;
    let ids = [4, 4, 6, 10].map(|count| limiter.add(0, &of(count)).unwrap());
    let mut counts = [0; 4];
    let (mut running, mut lasts) = (Vec::<(Instant, InstanceId)>::new(), 0);
    let mut admitted: Vec<_> = ids.iter().flat_map(|id| limiter.request(*id, now)).collect();
    while now < end {
        for id in admitted.drain(..) {
            lasts = lasts % 13 + 4; // 4 to 16, never two the same one after the other
            running.push((now + execution * lasts / 10, id));
        }
        running.sort_unstable();
        let look = now + Duration::from_millis(50);
        if running.first().is_some_and(|(until, _)| *until <= look) {
            let (until, id) = running.remove(0);
            now = until;
            counts[ids.iter().position(|other| *other == id).unwrap()] += 1;
            admitted = limiter.finish(id, false, now);
            admitted.extend(limiter.request(id, now));
        } else {
            now = look;
            admitted = limiter.look(now);
        }
    }
    counts
}

#[test]
fn one_that_needs_much_runs_as_often_as_the_others_however_long_executions_last() {
    for millis in [1, 90, 300, 2_000, 20_000] {
        let execution = Duration::from_millis(millis);
        let counts = turns_of_all_sizes(execution, execution * 400);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 120 && most - least < 25, "{millis} ms: {counts:?}");
    }
}

#[test]
fn whoever_holds_a_resource_may_wait_for_one_that_stands_behind() {
    // `outer` holds R while it asks `inner`; `first` waits for R and must not keep `inner` from running for good.
    for (inner_needs, waits) in
        [("resources { name: 'S' count: 1 }", false), ("resources { name: 'R' count: 1 }", true)]
    {
        let mut limiter = RateLimiter::new(amounts(&[("R", 3, None), ("S", 1, None)]));
        let start = Instant::now();
        let mut now = start;
        let (outer, first) = (limiter.add(0, &of(2)).unwrap(), limiter.add(0, &of(3)).unwrap());
        let inner = limiter.add(0, &needs(inner_needs)).unwrap();
        for _ in 0..20 {
            assert_eq!(limiter.request(outer, now), [outer]);
            assert_eq!(limiter.request(first, now), NOBODY);
            for _ in 0..10 {
                let mut admitted = limiter.request(inner, now);
                while admitted.is_empty() {
                    now += Duration::from_millis(50);
                    admitted = limiter.look(now);
                }
                assert_eq!(admitted, [inner]);
                limiter.finish(inner, false, now);
            }
            assert_eq!(limiter.finish(outer, false, now), [first]);
            limiter.finish(first, false, now);
        }
        let waited = now - start;
        assert_eq!(!waited.is_zero(), waits, "what is kept concerns those alone that need it");
        assert!(waited < 200 * 2 * SHORTEST_RESERVATION, "{waited:?}: it does not grow from one to the next");
    }
}

#[test]
fn only_what_an_instance_lacks_is_kept_for_it() {
    // `outer` holds R and asks `inner` for every answer; `first` needs both R, which it lacks, and S, which is mostly free.
    let mut limiter = RateLimiter::new(amounts(&[("R", 2, None), ("S", 1, None)]));
    let now = Instant::now();
    let outer: Vec<_> = (0..2).map(|_| limiter.add(0, &of(1)).unwrap()).collect();
    let inner = limiter.add(0, &needs("resources { name: 'S' count: 1 }")).unwrap();
    let text = "resources { name: 'R' count: 2 } resources { name: 'S' count: 1 }";
    let first = limiter.add(0, &needs(text)).unwrap();
    assert_eq!(limiter.request(outer[0], now), [outer[0]]);
    assert_eq!(limiter.request(outer[1], now), [outer[1]]);
    assert_eq!(limiter.request(first, now), NOBODY);
    for _ in 0..100 {
        assert_eq!(limiter.request(inner, now), [inner], "S is free");
        assert_eq!(limiter.look(now), NOBODY);
        limiter.finish(inner, false, now);
    }
    assert_eq!(limiter.request(inner, now), [inner]);
    assert_eq!(limiter.finish(outer[0], true, now), NOBODY, "R is kept");
    assert_eq!(limiter.finish(outer[1], true, now), NOBODY, "and all of it there, but S is not");
    assert_eq!(limiter.finish(inner, true, now), [first], "which is kept now too");
}

#[test]
fn whoever_goes_gives_back_what_it_holds() {
    let mut limiter = RateLimiter::new(Amounts::default());
    let now = Instant::now();
    let ids: Vec<_> = (0..3).map(|_| limiter.add(0, &of(1)).unwrap()).collect();
    limiter.request(ids[0], now);
    assert_eq!(limiter.request(ids[1], now), NOBODY);
    assert_eq!(limiter.request(ids[2], now), NOBODY);
    assert_eq!(limiter.cancel(ids[1], now), NOBODY, "it stood in line");
    assert_eq!(limiter.remove(ids[0], now), [ids[2]]);
    assert_eq!(limiter.remove(ids[2], now), NOBODY);
    assert_eq!(limiter.finish(ids[2], true, now), NOBODY, "it is gone");
    assert_eq!(limiter.request(ids[1], now), [ids[1]]);
}

proptest::proptest! {
    /// Instances of all kinds come, run, give up and go: never is more in use than there is, and whoever waits runs in the
    /// end, if executions end and time goes on.
    #[test]
    fn nothing_is_overused_and_everybody_runs(
        kinds in proptest::collection::vec((0u32..3, 0u32..3, 1u32..4, 0u32..2), 1..8),
        steps in proptest::collection::vec((0usize..8, 0u8..5, 0u64..400), 0..200),
    ) {
        let mut limiter = RateLimiter::new(amounts(&[("R", 4, None), ("G", 3, None)]));
        let ids: Vec<_> = kinds.iter().map(|&(own, global, priority, device)| {
            let text = format!(
                "resources {{ name: 'R' count: {own} }} resources {{ name: 'G' global: true count: {global} }}
                 priority: {priority}"
            );
            limiter.add(device, &needs(&text)).unwrap()
        }).collect();
        let mut now = Instant::now();
        for (which, what, millis) in steps {
            let id = ids[which % ids.len()];
            now += Duration::from_millis(millis);
            let admitted = match what {
                0 | 1 => limiter.request(id, now),
                2 => limiter.finish(id, true, now),
                3 => limiter.finish(id, false, now),
                _ => limiter.cancel(id, now),
            };
            assert!(admitted.iter().all(|id| limiter.may_run(*id)));
            assert!(limiter.resources.are_within_limits());
        }
        for id in &ids {
            limiter.request(*id, now);
        }
        let mut rounds = 0;
        while !limiter.waiting.is_empty() {
            for id in &ids {
                limiter.finish(*id, false, now);
                assert!(limiter.resources.are_within_limits());
            }
            rounds += 1;
            assert!(rounds <= ids.len(), "somebody never runs");
        }
        for id in &ids {
            limiter.finish(*id, false, now);
        }
        assert!(limiter.resources.are_free());
    }
}
