//! Countable resources that instances hold while they run: how much each needs, how much there is, how much is in use.
//!
//! Source: Triton model configuration, "Rate Limiter Configuration", and `--rate-limit-resource`.

use std::collections::BTreeMap;

use server_proto::inference::ModelInstanceGroup;

use crate::{
    error::{Error, Result},
    tensor::Name,
};

/// Amounts of the command line: `--rate-limit-resource=<name>:<count>[:<device>]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<Name, BTreeMap<Option<u32>, u64>>);

impl Amounts {
    /// There are `count` of that resource on that device, or on each device. The last word about one counts.
    pub fn set(&mut self, name: &str, count: u64, device: Option<u32>) {
        self.0.entry(name.into()).or_default().insert(device, count);
    }

    /// How much there is of that resource; `None` if no amount of anything was given, for then there is what instances
    /// need. Once one is given, there is nothing of what is not named. A resource that all devices share has no device: any
    /// amount given for it counts.
    fn get(&self, key: &Key) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        let amount = self.0.get(&key.name).and_then(|amounts| {
            let anywhere = amounts.get(&None);
            match key.device {
                Some(_) => amounts.get(&key.device).or(anywhere),
                None => anywhere.or_else(|| amounts.values().max()),
            }
        });
        Some(amount.copied().unwrap_or(0))
    }
}

/// What the instances of one group need to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    resources: Vec<Need>,
    pub(super) priority: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    name: Name,
    is_global: bool,
    count: u64,
}

impl Needs {
    /// Reads `rate_limiter` of an instance group.
    pub fn of(group: &ModelInstanceGroup) -> Self {
        let limiter = group.rate_limiter.as_ref();
        let resources = limiter.map(|limiter| limiter.resources.as_slice()).unwrap_or_default();
        let need = |resource: &server_proto::inference::model_rate_limiter::Resource| Need {
            name: resource.name.as_str().into(),
            is_global: resource.global,
            count: u64::from(resource.count),
        };
        Self {
            resources: resources.iter().filter(|resource| resource.count > 0).map(need).collect(),
            priority: limiter.map_or(1, |limiter| u64::from(limiter.priority).max(1)),
        }
    }

    /// Weight of one execution, at least 1: an instance of priority 2 gets half the turns of one of priority 1.
    pub fn priority(&self) -> u64 {
        self.priority
    }

    /// Whether it needs nothing: such instances never wait for others.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// What an instance on that device holds while it runs. A resource listed twice is needed twice.
    pub(super) fn on(&self, device: u32) -> BTreeMap<Key, u64> {
        let mut amounts = BTreeMap::new();
        for need in &self.resources {
            let key = Key { device: (!need.is_global).then_some(device), name: need.name.clone() };
            let amount: &mut u64 = amounts.entry(key).or_default();
            *amount = amount.saturating_add(need.count);
        }
        amounts
    }
}

/// A resource of one device, or of all together. Those of all come first, as where Triton looks for one that is too small.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    device: Option<u32>,
    name: Name,
}

/// How much there is and how much is in use.
#[derive(Debug, Default)]
pub(super) struct Resources {
    declared: Amounts,
    limits: BTreeMap<Key, u64>,
    in_use: BTreeMap<Key, u64>,
}

impl Resources {
    pub(super) fn new(declared: Amounts) -> Self {
        Self { declared, ..Self::default() }
    }

    /// There is what was declared and nothing else; if nothing was, as much of each as the most demanding instance needs.
    /// `needs` are those of all instances.
    ///
    /// Errors: `InvalidArgument` if an instance could never run, or else if a resource is both of a device and of all; all
    /// stays as it was.
    pub(super) fn set_limits<'a>(&mut self, needs: impl Iterator<Item = &'a BTreeMap<Key, u64>>) -> Result<()> {
        let mut limits: BTreeMap<Key, u64> = BTreeMap::new();
        for (key, &count) in needs.flatten() {
            let limit = limits.entry(key.clone()).or_default();
            *limit = count.max(*limit);
        }
        for (key, required) in &mut limits {
            match self.declared.get(key) {
                Some(declared) if declared < *required => {
                    return Err(Error::invalid_argument(format!(
                        "Resource count for \"{}\" is limited to {declared} which will prevent scheduling of one or \
                         more model instances, the minimum required count is {required}",
                        key.name
                    )));
                }
                Some(declared) => *required = declared,
                None => {}
            }
        }
        for key in limits.keys().filter(|key| key.device.is_none()) {
            if limits.keys().any(|other| other.name == key.name && other.device.is_some()) {
                return Err(Error::invalid_argument(format!(
                    "Resource \"{}\" is present as both global and device-specific resource in the model configuration.",
                    key.name
                )));
            }
        }
        self.limits = limits;
        Ok(())
    }

    /// Whether that much is free.
    pub(super) fn fit(&self, amounts: &BTreeMap<Key, u64>) -> bool {
        self.lacking(amounts).next().is_none()
    }

    /// Those of which less is free.
    pub(super) fn lacking(&self, amounts: &BTreeMap<Key, u64>) -> impl Iterator<Item = Key> {
        amounts.iter().filter_map(|(key, count)| {
            let limit = self.limits.get(key).copied().unwrap_or(0);
            (self.used(key).saturating_add(*count) > limit).then(|| key.clone())
        })
    }

    pub(super) fn take(&mut self, amounts: &BTreeMap<Key, u64>) {
        for (key, count) in amounts {
            *self.in_use.entry(key.clone()).or_default() += count;
        }
    }

    pub(super) fn give_back(&mut self, amounts: &BTreeMap<Key, u64>) {
        for (key, count) in amounts {
            let left = self.used(key).saturating_sub(*count);
            if left == 0 {
                self.in_use.remove(key)
            } else {
                self.in_use.insert(key.clone(), left)
            };
        }
    }

    fn used(&self, key: &Key) -> u64 {
        self.in_use.get(key).copied().unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn are_within_limits(&self) -> bool {
        self.in_use.iter().all(|(key, used)| *used <= self.limits.get(key).copied().unwrap_or(0))
    }

    #[cfg(test)]
    pub(super) fn are_free(&self) -> bool {
        self.in_use.is_empty()
    }
}
