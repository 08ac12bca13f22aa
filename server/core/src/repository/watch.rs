//! Following the folder of one model from look to look, in poll mode: when what lies there is loaded, and when its model
//! goes. A folder that is being written is left alone until it has looked the same for a while, and one that cannot be read
//! says nothing.

use std::time::{Duration, Instant};

/// How long a folder has to look the same before it is loaded.
pub const SETTLE_TIME: Duration = Duration::from_millis(500);

/// How long after a failed load the same content is tried again; after each further failure twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(15);
const LAST_RETRY: Duration = Duration::from_secs(600);

/// What a look at a model's folder shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// It is there; equal digests mean equal content.
    There(u64),
    /// No repository has it, and all of them can be read.
    Gone,
    /// Several repositories have it.
    Ambiguous,
    /// It cannot be read now, or its repository cannot.
    Unknown,
}

/// What to do about a model after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Look at its folder again at that time: it has changed, and may be changing still.
    LookAgain(Instant),
    /// Load it, and tell [`Watch::ended`] what came of it. Until then it is left alone.
    Load,
    /// Unload it, and tell [`Watch::ended`]. Until then it is left alone.
    Unload,
}

/// What is known of one model's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// What was acted upon last.
    done: Sight,
    /// What was seen last, and since when it looks so.
    seen: Option<(Sight, Instant)>,
    /// A load or unload is under way.
    is_changing: bool,
    /// Loads of this content that have failed, and when the last one did.
    failures: Option<(u32, Instant)>,
}

impl Default for Watch {
    /// A folder of which nothing was loaded yet.
    fn default() -> Self {
        Self { done: Sight::Gone, seen: None, is_changing: false, failures: None }
    }
}

impl Watch {
    /// A folder whose content is being loaded.
    pub fn loading(content: Sight) -> Self {
        Self { done: content, is_changing: true, ..Self::default() }
    }

    /// What a look at `now` comes to.
    pub fn look(&mut self, sight: Sight, now: Instant) -> Step {
        if self.is_changing || sight == Sight::Unknown {
            self.seen = None;
            return Step::Nothing;
        }
        if sight == self.done {
            self.seen = None;
            let is_due = self.failures.is_some_and(|(count, at)| now.saturating_duration_since(at) >= retry(count));
            self.is_changing = is_due;
            return if is_due { Step::Load } else { Step::Nothing };
        }
        let since = match self.seen {
            Some((seen, since)) if seen == sight => since,
            _ => now,
        };
        self.seen = Some((sight, since));
        if now.saturating_duration_since(since) < SETTLE_TIME {
            return Step::LookAgain(since + SETTLE_TIME);
        }
        (self.done, self.seen, self.failures, self.is_changing) = (sight, None, None, true);
        if matches!(sight, Sight::There(_)) { Step::Load } else { Step::Unload }
    }

    /// The load or unload has ended at `now`.
    pub fn ended(&mut self, is_good: bool, now: Instant) {
        self.is_changing = false;
        let failures = self.failures.map_or(0, |(count, _)| count);
        let is_there = matches!(self.done, Sight::There(_)); // nothing else is worth another try
        self.failures = (is_there && !is_good).then_some((failures.saturating_add(1), now));
    }

    /// Whether the folder was gone and its model has been unloaded for that.
    pub fn is_over(&self) -> bool {
        self.done == Sight::Gone && self.seen.is_none() && !self.is_changing
    }
}

fn retry(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::{Sight::*, *};

    /// Looks at these moments, in milliseconds, each with what was seen and what comes of it. Loads end at once.
    #[track_caller]
    fn check(mut watch: Watch, is_good: bool, looks: &[(u64, Sight, &str)]) {
        let begin = Instant::now();
        for &(at, sight, expected) in looks {
            let now = begin + Duration::from_millis(at);
            let step = match watch.look(sight, now) {
                Step::Nothing => "nothing".to_owned(),
                Step::LookAgain(then) => format!("again at {}", (then - begin).as_millis()),
                Step::Load => {
                    watch.ended(is_good, now);
                    "load".into()
                }
                Step::Unload => {
                    watch.ended(true, now);
                    "unload".into()
                }
            };
            assert_eq!(step, expected, "at {at}");
        }
    }

    fn serving(content: u64) -> Watch {
        let mut watch = Watch::loading(There(content));
        watch.ended(true, Instant::now());
        watch
    }

    #[test]
    fn a_folder_is_loaded_when_it_has_looked_the_same_for_a_while() {
        check(
            Watch::default(),
            true,
            &[
                (0, There(1), "again at 500"),
                (300, There(1), "again at 500"),
                (500, There(1), "load"),
                (1000, There(1), "nothing"),
                (2000, There(2), "again at 2500"),
                (2500, There(3), "again at 3000"),
                (3000, There(4), "again at 3500"),
                (3500, There(4), "load"),
                (4000, There(4), "nothing"),
            ],
        );
    }

    #[test]
    fn a_change_that_is_taken_back_is_none() {
        check(
            serving(1),
            true,
            &[
                (0, There(2), "again at 500"),
                (500, There(1), "nothing"),
                (600, There(2), "again at 1100"),
                (700, Gone, "again at 1200"),
                (1300, There(1), "nothing"),
            ],
        );
    }

    #[test]
    fn a_folder_that_cannot_be_read_says_nothing() {
        check(
            serving(1),
            true,
            &[
                (0, Gone, "again at 500"),
                (500, Unknown, "nothing"),
                (5000, Gone, "again at 5500"),
                (5500, Gone, "unload"),
                (6000, There(1), "again at 6500"),
                (6500, There(1), "load"),
            ],
        );
    }

    #[test]
    fn a_second_folder_of_that_name_unloads_the_model_until_it_goes() {
        check(
            serving(1),
            true,
            &[
                (0, Ambiguous, "again at 500"),
                (500, Ambiguous, "unload"),
                (1000, Ambiguous, "nothing"),
                (2000, There(1), "again at 2500"),
                (2500, There(1), "load"),
            ],
        );
    }

    #[test]
    fn what_failed_is_tried_again_less_and_less_often_and_at_once_when_it_changes() {
        check(
            Watch::default(),
            false,
            &[
                (0, There(1), "again at 500"),
                (500, There(1), "load"),
                (15_000, There(1), "nothing"),
                (15_500, There(1), "load"),
                (45_000, There(1), "nothing"),
                (45_500, There(1), "load"),
                (46_000, There(2), "again at 46500"),
                (46_500, There(2), "load"),
                (61_500, There(2), "load"),
            ],
        );
        assert_eq!((retry(6), retry(7), retry(40), retry(u32::MAX)), (retry(6), LAST_RETRY, LAST_RETRY, LAST_RETRY));
    }

    #[test]
    fn a_model_that_is_changing_is_left_alone() {
        let now = Instant::now();
        let mut watch = Watch::loading(There(1));
        assert_eq!(watch.look(There(2), now), Step::Nothing);
        assert_eq!(watch.look(Gone, now + SETTLE_TIME), Step::Nothing);
        watch.ended(true, now);
        assert_eq!(watch.look(Gone, now), Step::LookAgain(now + SETTLE_TIME));
        assert_eq!(watch.look(Gone, now + SETTLE_TIME), Step::Unload);
        assert!(!watch.is_over());
        watch.ended(true, now);
        assert!(watch.is_over());
    }
}
