//! The state of the agent: one value, published whole through a watch channel and served as JSON to whoever
//! asks. It holds facts and reasons, no decisions.

use std::collections::{BTreeMap, BTreeSet};

use operator_core::Reason;
use serde::{Deserialize, Serialize};

use crate::verify::ContentHash;

/// Where every model of the manifest stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Hash of the manifest this state is about.
    pub manifest_hash: String,
    /// The server answers on its port.
    pub server_is_live: bool,
    /// The server says that traffic may come.
    pub server_is_ready: bool,
    /// Nothing is under way and nothing will be tried again: each model serves what the manifest wants, or has failed for good.
    pub is_settled: bool,
    /// How often the server crashed and was started again in its container, as far as this agent has seen.
    #[serde(default)]
    pub server_crashes: u32,
    /// By which signal it did so last, and what it was executing, as far as it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_crash: Option<String>,
    /// The contents in rollout that the pod's annotation allows it to serve, as the agent read it last; absent where it serves
    /// whatever the manifest has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopts: Option<BTreeSet<String>>,
    /// Loads that somebody else had the server do, and that were undone.
    #[serde(default, skip_serializing_if = "ForeignLoads::is_empty")]
    pub foreign_loads: ForeignLoads,
    /// By name: the models of the manifest, and those that are ending.
    pub models: BTreeMap<String, ModelState>,
}

/// Loads by others: of models that the manifest does not have, or of a configuration or files that their folders do not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignLoads {
    /// How many this agent has seen.
    pub count: u32,
    /// What the last one was, in one sentence.
    pub last: String,
}

impl ForeignLoads {
    const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Where one model stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelState {
    /// The entry of the manifest that the agent follows, be it the one in rollout or the former one: its content hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Server processes whose ends are held against that entry.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// What is known of the last of these ends, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<String>,
    /// `false`: the server has loaded it, and has yet to show that it lives on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<bool>,
    /// Servers that have it loaded end again and again, and nothing else can be held responsible.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_servers: bool,
    /// What happens to the content of that entry.
    #[serde(flatten)]
    pub phase: Phase,
    /// What the manifest wants, once it was fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<ContentHash>,
    /// What the server runs; it differs from `wanted` while a new version is on its way or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<ContentHash>,
    /// Version numbers that take requests.
    pub versions: Vec<u64>,
    /// The most it was seen to hold in memory since this content serves, rounded up; absent if the server cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// How long the last load took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
}

/// Memory that a model holds. Units: bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// On the host.
    #[serde(default)]
    pub cpu: u64,
    /// On GPUs, all of the pod's together.
    #[serde(default)]
    pub gpu: u64,
}

impl Memory {
    /// The larger of each, in steps of about an eighth and not below 1 MiB: a state that changed with each page would be sent for ever.
    pub fn most(self, before: Option<Self>) -> Self {
        let Self { cpu, gpu } = before.unwrap_or_default();
        Self { cpu: coarse(self.cpu).max(cpu), gpu: coarse(self.gpu).max(gpu) }
    }
}

fn coarse(bytes: u64) -> u64 {
    if bytes == 0 {
        return 0;
    }
    let step = (1 << 20).max(1 << bytes.ilog2().saturating_sub(3));
    bytes.div_ceil(step).saturating_mul(step)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The stages a model's content goes through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// Waits for its turn or for the server.
    #[default]
    Pending,
    /// On its way into the store.
    Downloading {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all, where the source says.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// Checked against its checksum and laid out.
    Verifying,
    /// Handed to the server, which has not answered yet.
    Loading,
    /// Serves what the manifest wants.
    Ready,
    /// Could not be brought into service; what served before goes on.
    Failed(Failure),
    /// No longer in the manifest, finishing what it runs.
    Unloading,
}

/// Why a model could not be brought into service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// One word for programs.
    pub reason: Reason,
    /// One sentence for people; for a failed load, the server's own.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
    /// It will be tried again without anybody doing anything.
    pub will_retry: bool,
}

impl ModelState {
    /// The failure, if the model has failed.
    pub const fn failure(&self) -> Option<&Failure> {
        match &self.phase {
            Phase::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl State {
    /// Every model serves what the manifest wants, and the server says that traffic may come.
    pub fn is_ready(&self) -> bool {
        self.server_is_ready && self.models.values().all(|model| model.phase == Phase::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_plain_json_for_the_one_who_polls_it() {
        let failure = Failure {
            reason: Reason::LoadFailed,
            message: "load failed for model 'a'".into(),
            attempts: 2,
            will_retry: true,
        };
        let state = State {
            manifest_hash: "sha256:ab".into(),
            server_is_live: true,
            models: BTreeMap::from([
                ("a".into(), ModelState { phase: Phase::Failed(failure), versions: vec![1], ..Default::default() }),
                (
                    "b".into(),
                    ModelState { phase: Phase::Downloading { bytes: 5, total: Some(10) }, ..Default::default() },
                ),
            ]),
            ..Default::default()
        };
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "manifestHash": "sha256:ab", "serverIsLive": true, "serverIsReady": false, "isSettled": false, "serverCrashes": 0,
                "models": {
                    "a": { "phase": "Failed", "reason": "LoadFailed", "message": "load failed for model 'a'",
                           "attempts": 2, "willRetry": true, "versions": [1] },
                    "b": { "phase": "Downloading", "bytes": 5, "total": 10, "versions": [] },
                },
            })
        );
        assert_eq!(serde_json::from_value::<State>(json).unwrap(), state);
    }

    #[test]
    fn memory_is_kept_at_its_most_and_in_steps() {
        let memory = |cpu, gpu| Memory { cpu, gpu };
        assert_eq!(memory(0, 1).most(None), memory(0, 1 << 20));
        assert_eq!(memory((100 << 20) + 1, 0).most(None), memory(104 << 20, 0));
        let before = memory(104 << 20, 9 << 30);
        for cpu in [1, 97 << 20, 104 << 20] {
            assert_eq!(
                memory(cpu, 1 << 30).most(Some(before)),
                before,
                "less than before, or within a step, is no change"
            );
        }
        assert_eq!(memory(105 << 20, 0).most(Some(before)).cpu, 112 << 20);
        for bytes in (0..64).map(|bit| 1 << bit).chain([u64::MAX, 12_345_678_901]) {
            let rounded = coarse(bytes);
            assert!(rounded >= bytes && rounded <= bytes.saturating_add(bytes / 8).max(1 << 20), "{bytes} {rounded}");
        }
    }
}
