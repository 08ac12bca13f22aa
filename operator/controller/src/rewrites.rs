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

/// How long a status stands before one that tells of progress only takes its place.
pub(crate) const PROGRESS: Duration = Duration::from_secs(2);

/// From so many statuses on, those written long ago are forgotten.
const MANY: usize = 1024;

/// What was written, by uid of the resource.
#[derive(Debug, Default)]
pub(crate) struct Rewrites(HashMap<String, Own>);

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
        self.0.get(uid).is_none_or(|own| {
            own.count < AT_ONCE || now.saturating_duration_since(own.since) >= AGAIN || own.words != words(status)
        })
    }

    /// Whether the status of a resource was written a moment ago.
    pub(crate) fn is_recent(&self, uid: &str, now: Instant) -> bool {
        self.0.get(uid).is_some_and(|own| now.saturating_duration_since(own.since) < PROGRESS)
    }

    /// A status was written.
    pub(crate) fn note(&mut self, uid: &str, status: &Value, now: Instant) {
        let words = words(status);
        if self.0.len() >= MANY && self.0.len().is_power_of_two() {
            self.0.retain(|_, own| now.saturating_duration_since(own.since) < AGAIN); // most are gone by now
        }
        match self.0.get_mut(uid).filter(|own| own.words == words) {
            Some(own) if now.saturating_duration_since(own.since) < AGAIN => own.count += 1,
            Some(own) => (own.since, own.count) = (now, 1),
            None => drop(self.0.insert(uid.to_owned(), Own { words, since: now, count: 0 })),
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
    fn a_status_is_recent_for_a_moment() {
        let (mut rewrites, now) = (Rewrites::default(), Instant::now());
        assert!(!rewrites.is_recent("1", now));
        rewrites.note("1", &status("loading", 0), now);
        assert!(
            rewrites.is_recent("1", now) && !rewrites.is_recent("2", now) && !rewrites.is_recent("1", now + PROGRESS)
        );
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
