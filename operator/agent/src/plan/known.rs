//! What a plan is made of: all that is known at one moment, and when something is tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::verify::ContentHash;

/// Longest pause between two attempts.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// All that is known at one moment.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The models of the manifest.
    pub wanted: BTreeMap<String, Wanted>,
    /// Models on disk, in the ledger or in the server's hands that the manifest does not have; `true` while one is being unloaded.
    pub unwanted: BTreeMap<String, bool>,
    /// The server answers.
    pub server_is_live: bool,
    /// Contents nobody speaks of, and since when.
    pub unreferenced: BTreeMap<ContentHash, Instant>,
    /// How long such contents are kept.
    pub grace: Duration,
    /// What the server has of contents in rollout.
    pub trials: Trials,
}

/// One model of the manifest.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// When it is tried again.
    pub retry_policy: RetryPolicy,
    /// The content the manifest wants, if it was fetched.
    pub staged: Option<ContentHash>,
    /// What the server was last confirmed to serve.
    pub active: Option<ContentHash>,
    /// What the repository's folder is.
    pub linked: Option<ContentHash>,
    /// `active` is of an entry that this pod is not to follow (any more): it is not loaded again.
    pub is_withheld: bool,
    /// `staged` is in rollout.
    pub is_in_trial: bool,
    /// Of several such contents, those with lower numbers were tried earlier.
    pub number: u64,
    /// Servers end again and again that have `active` loaded, and nothing says why: what the manifest wants comes before it.
    pub active_ends_servers: bool,
    /// What the server says of it.
    pub served: Served,
    /// What serves is not what its folder says: somebody else has loaded it.
    pub is_overridden: bool,
    /// Failed fetches of what the manifest wants.
    pub fetches: Option<Tries>,
    /// Failed loads, by content.
    pub loads: BTreeMap<ContentHash, Tries>,
    /// Contents that ended server processes, or were loaded beside one that did: they are not put before one that starts.
    pub suspects: BTreeSet<ContentHash>,
    /// A fetch is under way.
    pub is_fetching: bool,
    /// A load is under way.
    pub is_loading: bool,
}

/// What the server has of contents in rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trials {
    /// Those it loads or has just loaded; `true` for those that ended a server before.
    pub open: BTreeMap<ContentHash, bool>,
    /// It is still loading what it started with.
    pub is_starting: bool,
}

/// How long and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// New attempts after the first.
    pub retries: u32,
    /// Pause before the first of them; it doubles each time.
    pub backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { retries: 5, backoff: Duration::from_secs(30) }
    }
}

/// Whether something that failed may be tried now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Now.
    Now,
    /// At that moment.
    At(Instant),
    /// Not until something changes.
    Never,
}

impl RetryPolicy {
    /// Whether another attempt is due.
    pub fn retry(&self, tries: Option<&Tries>, now: Instant) -> RetryDecision {
        let Some(tries) = tries else { return RetryDecision::Now };
        if tries.is_final || tries.count > self.retries {
            return RetryDecision::Never;
        }
        let pause = self.backoff.saturating_mul(1 << (tries.count.max(1) - 1).min(16)).min(LONGEST_PAUSE);
        match tries.last + pause {
            due if due <= now => RetryDecision::Now,
            due => RetryDecision::At(due),
        }
    }
}

/// What the server says of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Served {
    /// Nothing that takes requests.
    #[default]
    No,
    /// A version is being loaded or unloaded.
    Changing,
    /// A version takes requests.
    Yes,
}

/// Attempts that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// How many.
    pub count: u32,
    /// When the last one did.
    pub last: Instant,
    /// Another attempt cannot help.
    pub is_final: bool,
}
