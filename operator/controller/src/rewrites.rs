//! Statuses that somebody else writes as well, such as another operator that serves the same namespace: each would put its own words
//! back as soon as it sees those of the other, for ever. A status that was written already is therefore written again a few times,
//! and then once in a while only. Pure; the time comes from the caller.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// How often the same status is put back at once.
const AT_ONCE: u32 = 2;
/// When it may be put back as often again.
const AGAIN: Duration = Duration::from_secs(60);

/// How long a status that tells of progress only waits for the next one, counted from the one before, or from when there was something to
/// tell of a resource that has none.
const PROGRESS: Duration = Duration::from_secs(2);
/// The longest that it waits, however much there is to do.
const PROGRESS_MAX: Duration = Duration::from_secs(60);
/// Turns that a server needs from its first reconcile until its models serve.
const TURNS: u32 = 4;

/// From so many statuses on, those written long ago are forgotten.
const MANY: usize = 1024;

/// How long progress waits where a server waits so long for its turn: what more turns would bring in several statuses comes in one.
pub(crate) fn progress_hold(turn: Duration) -> Duration {
    (PROGRESS + turn * TURNS).min(PROGRESS_MAX)
}

/// What was written, by uid of the resource.
#[derive(Debug, Default)]
pub(crate) struct Rewrites {
    own: HashMap<String, Own>,
    /// Resources without a status of ours, since there is progress to tell of them.
    first: HashMap<String, Instant>,
}

/// What was written last.
#[derive(Debug)]
struct Own {
    words: [u8; 32],
    since: Instant,
    /// How often it was put back since then.
    count: u32,
}

impl Rewrites {
    /// Whether a status may be written now.
    pub(crate) fn allow(&self, uid: &str, status: &Value, now: Instant) -> bool {
        self.own.get(uid).is_none_or(|own| {
            own.count < AT_ONCE || now.saturating_duration_since(own.since) >= AGAIN || own.words != words(status)
        })
    }

    /// How long progress of a resource waits from now on, `hold` being how long it may wait in all.
    pub(crate) fn wait(&mut self, uid: &str, hold: Duration, now: Instant) -> Option<Duration> {
        if self.first.len() >= MANY && self.first.len().is_power_of_two() {
            self.first.retain(|_, since| now.saturating_duration_since(*since) < PROGRESS_MAX); // the others are gone
        }
        let since = match self.own.get(uid) {
            Some(own) => own.since,
            None => *self.first.entry(uid.to_owned()).or_insert(now),
        };
        hold.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())
    }

    /// A status was written.
    pub(crate) fn note(&mut self, uid: &str, status: &Value, now: Instant) {
        let words = words(status);
        self.first.remove(uid);
        if self.own.len() >= MANY && self.own.len().is_power_of_two() {
            self.own.retain(|_, own| now.saturating_duration_since(own.since) < AGAIN); // most are gone by now
        }
        match self.own.get_mut(uid).filter(|own| own.words == words) {
            Some(own) if now.saturating_duration_since(own.since) < AGAIN => own.count += 1,
            Some(own) => (own.since, own.count) = (now, 1),
            None => drop(self.own.insert(uid.to_owned(), Own { words, since: now, count: 0 })),
        }
    }
}

/// What a status says, whenever it says it.
fn words(status: &Value) -> [u8; 32] {
    fn without_times(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| name != "lastTransitionTime" && name != "time");
                fields.values_mut().for_each(without_times);
            }
            Value::Array(items) => items.iter_mut().for_each(without_times),
            _ => {}
        }
    }
    let mut status = status.clone();
    without_times(&mut status);
    Sha256::digest(status.to_string()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(message: &str, second: u64) -> Value {
        json!({ "conditions": [{ "type": "Ready", "message": message, "lastTransitionTime": second }] })
    }

    #[test]
    fn two_who_put_back_their_own_words_do_not_go_on_for_ever() {
        let (mut rewrites, begun) = (Rewrites::default(), Instant::now());
        let written = |rewrites: &mut Rewrites, millis: u64| {
            let (status, now) = (status("ours", millis), begun + Duration::from_millis(millis));
            let is_allowed = rewrites.allow("1", &status, now);
            if is_allowed {
                rewrites.note("1", &status, now);
            }
            is_allowed
        };
        // the other one answers each time within a tenth of a second
        let in_a_minute = (0..600).filter(|tenth| written(&mut rewrites, tenth * 100)).count();
        assert_eq!(in_a_minute, 1 + AT_ONCE as usize);
        let in_ten = (600..6000).filter(|tenth| written(&mut rewrites, tenth * 100)).count();
        assert!((9..=2 * 9).contains(&in_ten), "{in_ten}");
    }

    #[test]
    fn progress_waits_from_the_last_status_or_from_the_first_sight() {
        let (mut rewrites, begun) = (Rewrites::default(), Instant::now());
        let at = |second| begun + Duration::from_secs(second);
        let seconds =
            |rewrites: &mut Rewrites, second| rewrites.wait("1", PROGRESS, at(second)).map(|left| left.as_secs());
        assert_eq!((seconds(&mut rewrites, 0), seconds(&mut rewrites, 1)), (Some(2), Some(1)));
        assert_eq!((seconds(&mut rewrites, 2), seconds(&mut rewrites, 9)), (None, None), "until it is written");
        rewrites.note("1", &status("loading", 0), at(9));
        assert_eq!((seconds(&mut rewrites, 10), seconds(&mut rewrites, 11)), (Some(1), None));
        assert!(rewrites.first.is_empty(), "what has a status is not noted twice");
    }

    #[test]
    fn resources_that_went_before_they_had_a_status_are_forgotten() {
        let (mut rewrites, begun) = (Rewrites::default(), Instant::now());
        for number in 0..10 * MANY {
            rewrites.wait(&number.to_string(), PROGRESS, begun + Duration::from_secs(number as u64));
        }
        assert!(rewrites.first.len() <= 2 * MANY, "{}", rewrites.first.len());
    }

    #[test]
    fn the_more_there_is_to_do_the_longer_progress_waits() {
        assert_eq!(progress_hold(Duration::ZERO), PROGRESS);
        assert_eq!(progress_hold(Duration::from_secs(5)), Duration::from_secs(22));
        assert_eq!(progress_hold(Duration::from_secs(600)), PROGRESS_MAX);
    }

    #[test]
    fn what_changes_is_written_at_once_however_often() {
        let (mut rewrites, now) = (Rewrites::default(), Instant::now());
        for round in 0..100 {
            for words in ["ready", "not ready"] {
                assert!(rewrites.allow("1", &status(words, round), now));
                rewrites.note("1", &status(words, round), now);
            }
        }
    }
}
