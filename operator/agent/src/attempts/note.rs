//! What is noted of a content: its attempt, and how server processes ended with it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Unexplained ends in whose company a content is no longer what a server starts with, if there is a newer one.
pub const UNEXPLAINED_MAX: u32 = 2;

/// What is noted of one content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Note {
    /// Server processes whose ends are held against it.
    #[serde(default)]
    pub(super) crashes: u32,
    /// How the last of them ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Crash>,
    /// The attempt that has not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) open: Option<Open>,
    /// Ends of server processes that had it loaded, for which nothing can be held responsible.
    #[serde(default)]
    pub(super) unexplained: u32,
    /// Contents with higher numbers were tried later for the first time.
    #[serde(default)]
    pub(super) number: u64,
}

/// An attempt that has not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Open {
    pub(super) stage: Stage,
    /// The content is in rollout: so many milliseconds its server has to live on with it after the load. None: it is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settle_ms: Option<u64>,
}

impl Open {
    /// An attempt that begins.
    pub(super) fn new(settle_time: Option<Duration>) -> Self {
        let settle_ms = settle_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Self { stage: Stage::Loading, settle_ms }
    }

    pub(super) fn is_unproven(self) -> bool {
        self.settle_ms.is_some()
    }

    /// How long its server has to live on with it after the load.
    pub(super) fn settle_time(self) -> Duration {
        self.settle_ms.map_or(Duration::ZERO, Duration::from_millis)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    Loading,
    Settling,
}

/// When a server process ended, as seen from the content it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Crash {
    /// While it loaded the content.
    WhileLoading,
    /// So many milliseconds after it had loaded the content; none: while the agent did not see it.
    AfterLoad(Option<u64>),
}

impl Crash {
    /// The end of the server in one sentence.
    pub fn sentence(self) -> String {
        match self {
            Self::WhileLoading => "the server ended while it loaded this content".to_owned(),
            Self::AfterLoad(None) => "the server ended after it had loaded this content".to_owned(),
            Self::AfterLoad(Some(ms)) => format!("the server ended {} after it had loaded this content", Seconds(ms)),
        }
    }
}

impl fmt::Display for Crash {
    /// When that was: the end of a sentence about a content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WhileLoading => f.write_str("while it loaded it"),
            Self::AfterLoad(None) => f.write_str("after it had loaded it"),
            Self::AfterLoad(Some(ms)) => write!(f, "{} after it had loaded it", Seconds(*ms)),
        }
    }
}

/// Milliseconds, for people.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} s", self.0 / 1000, self.0 % 1000 / 100)
    }
}
