//! Priority levels of one model: how many there are, and the rules of each. The number of levels is only a number:
//! a level takes memory while requests wait in it.
//!
//! Source: Triton model configuration, "Priority Levels" and "Queue Policy".

use std::{collections::BTreeMap, time::Duration};

use server_proto::inference::{ModelDynamicBatching, ModelQueuePolicy, model_queue_policy};

/// What happens to a request that waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// It is answered with an error.
    #[default]
    Reject,
    /// It is served after those of its level that are in time.
    Delay,
}

/// Rules of one priority level.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LevelPolicy {
    /// What happens after the timeout.
    pub timeout_action: TimeoutAction,
    /// Longest wait; `None` for any.
    pub default_timeout: Option<Duration>,
    /// Whether a request may shorten its wait. Where nothing limits it, nothing can be shortened.
    pub allow_timeout_override: bool,
    /// Most requests that wait; `None` leaves the queue's own bound.
    pub max_queue_size: Option<usize>,
}

/// Most requests a level holds when its policy names no limit: bounds memory, far above any useful backlog.
pub const DEFAULT_LIMIT: usize = 65_536;
/// Most requests all levels hold together, unless one policy allows more: levels without number must not do so either.
pub const DEFAULT_TOTAL_LIMIT: usize = 4 * DEFAULT_LIMIT;

/// The priority levels of a model, numbered from 1, the most urgent first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    /// How many there are, at least 1.
    pub count: u64,
    /// Level of requests that name none.
    pub default_level: u64,
    /// Rules of levels that have none of their own.
    pub default_policy: LevelPolicy,
    /// Rules by level.
    pub policies: BTreeMap<u64, LevelPolicy>,
}

impl Default for Levels {
    fn default() -> Self {
        Self { count: 1, default_level: 1, default_policy: LevelPolicy::default(), policies: BTreeMap::new() }
    }
}

impl Levels {
    /// Reads them from a normalised configuration.
    pub fn of(dynamic: &ModelDynamicBatching) -> Self {
        let policies = dynamic.priority_queue_policy.iter().map(|(&level, policy)| (level, policy.into())).collect();
        Self {
            count: dynamic.priority_levels.max(1),
            default_level: dynamic.default_priority_level.max(1),
            default_policy: dynamic.default_queue_policy.as_ref().map(LevelPolicy::from).unwrap_or_default(),
            policies,
        }
    }

    /// The level of a request: 0 and what is out of range mean the default level.
    pub fn level(&self, priority: u64) -> u64 {
        if (1..=self.count).contains(&priority) { priority } else { self.default_level.clamp(1, self.count) }
    }

    /// The rules of a level.
    pub fn policy(&self, level: u64) -> &LevelPolicy {
        self.policies.get(&level).unwrap_or(&self.default_policy)
    }

    /// Most requests that wait in all levels together.
    pub fn total_limit(&self) -> usize {
        let own = self.policies.range(1..=self.count).map(|(_, policy)| policy.limit());
        let (named, sum, largest) =
            own.fold((0, 0_usize, 0), |(n, sum, most), limit| (n + 1, sum.saturating_add(limit), most.max(limit)));
        let others = usize::try_from(self.count - named).unwrap_or(usize::MAX);
        let default = if others > 0 { self.default_policy.limit() } else { 0 };
        let sum = sum.saturating_add(others.saturating_mul(default));
        sum.min(largest.max(default).max(DEFAULT_TOTAL_LIMIT))
    }
}

impl LevelPolicy {
    /// Most requests that wait in a level of these rules.
    pub fn limit(&self) -> usize {
        self.max_queue_size.unwrap_or(DEFAULT_LIMIT)
    }

    /// How long a request may wait in a level of these rules; `None` for any time. Its own timeout counts where the rules
    /// allow it and it is shorter than theirs: with no default timeout it never does, as in Triton.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Duration> {
        let default = self.default_timeout?;
        let own = timeout.filter(|own| self.allow_timeout_override && !own.is_zero());
        Some(own.map_or(default, |own| own.min(default)))
    }
}

impl From<&ModelQueuePolicy> for LevelPolicy {
    fn from(policy: &ModelQueuePolicy) -> Self {
        let delays = policy.timeout_action() == model_queue_policy::TimeoutAction::Delay;
        let timeout = policy.default_timeout_microseconds;
        Self {
            timeout_action: if delays { TimeoutAction::Delay } else { TimeoutAction::Reject },
            default_timeout: (timeout > 0).then(|| Duration::from_micros(timeout)),
            allow_timeout_override: policy.allow_timeout_override,
            max_queue_size: (policy.max_queue_size > 0).then_some(policy.max_queue_size as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(limit: usize) -> LevelPolicy {
        LevelPolicy { max_queue_size: Some(limit), ..LevelPolicy::default() }
    }

    #[test]
    fn all_levels_together_are_bounded_however_many_there_are() {
        let total = |count, default_policy, policies: &[(u64, usize)]| {
            let policies = policies.iter().map(|&(level, limit)| (level, limited(limit))).collect();
            Levels { count, default_policy, policies, default_level: 1 }.total_limit()
        };
        assert_eq!(total(1, LevelPolicy::default(), &[]), DEFAULT_LIMIT);
        assert_eq!(total(1, limited(3), &[]), 3);
        assert_eq!(total(2, limited(3), &[(2, 5), (9, 100)]), 8);
        assert_eq!(total(1, limited(900_000), &[(1, 7)]), 7);
        assert_eq!(total(u64::MAX, LevelPolicy::default(), &[]), DEFAULT_TOTAL_LIMIT);
        assert_eq!(total(u64::MAX, limited(1), &[]), DEFAULT_TOTAL_LIMIT);
        assert_eq!(total(u64::MAX, limited(1), &[(4, 900_000)]), 900_000);
    }
}
