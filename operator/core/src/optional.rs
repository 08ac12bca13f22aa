//! Objects of kinds that a cluster may not have, since other projects bring them: whether one is made, and what to say where
//! it should be and cannot. Which kinds there are is asked for again and again, so what is decided here follows a
//! cluster that comes to know a kind, or to know it no more.

use std::collections::{BTreeMap, BTreeSet};

use crds::parts::Switch;

use crate::kind::Kind;

/// What a cluster has of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// It does not know it.
    #[default]
    Absent,
    /// It knows it, and does not let the operator watch it.
    Denied,
    /// It knows it, and the operator watches it.
    Known,
}

/// Which objects of optional kinds are made for a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    made: BTreeSet<Kind>,
    /// What is missing although it was asked for, in sentences.
    pub remarks: Vec<String>,
}

impl Choice {
    /// Decides about one kind.
    ///
    /// `switch` is what the server says of it, and `cure` how its owner does without, such as "remove spec.routes.http".
    pub fn add(&mut self, kind: Kind, switch: Switch, cure: &str, kinds: &BTreeMap<Kind, Availability>) {
        let resource = kind.api_resource();
        let availability = kinds.get(&kind).copied().unwrap_or_default();
        let why = match (switch, availability) {
            (Switch::Never, _) | (Switch::Auto, Availability::Absent | Availability::Denied) => return,
            (Switch::Auto | Switch::Always, Availability::Known) => {
                self.made.insert(kind);
                return;
            }
            (Switch::Always, Availability::Absent) => {
                let provider = kind.provider().unwrap_or("what brings it");
                format!("the cluster does not know {} (install {provider}", resource.api_version)
            }
            (Switch::Always, Availability::Denied) => {
                format!(
                    "the operator has no right to watch {}.{} (set rbac.create among the values of its chart",
                    resource.plural, resource.group
                )
            }
        };
        self.remarks.push(format!("no {} is made: {why}, or {cure})", resource.kind));
    }

    /// Whether an object of `kind` is made.
    pub fn makes(&self, kind: Kind) -> bool {
        self.made.contains(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(switch: Switch, availability: Option<Availability>, expect: Result<bool, &str>) {
        let kinds = availability.map(|availability| (Kind::ServiceMonitor, availability)).into_iter().collect();
        let mut choice = Choice::default();
        choice.add(Kind::ServiceMonitor, switch, "set spec.x to Auto", &kinds);
        let found = match choice.remarks.first() {
            Some(remark) => Err(remark.as_str()),
            None => Ok(choice.makes(Kind::ServiceMonitor)),
        };
        assert_eq!(found, expect);
        assert!(choice.remarks.is_empty() || !choice.makes(Kind::ServiceMonitor));
    }

    #[test]
    fn a_kind_is_used_where_it_is_known_and_missed_only_where_it_was_asked_for() {
        check(Switch::Auto, None, Ok(false));
        check(Switch::Auto, Some(Availability::Absent), Ok(false));
        check(Switch::Auto, Some(Availability::Denied), Ok(false));
        check(Switch::Auto, Some(Availability::Known), Ok(true));
        check(Switch::Always, Some(Availability::Known), Ok(true));
        check(Switch::Never, Some(Availability::Known), Ok(false));
        check(
            Switch::Always,
            None,
            Err(
                "no ServiceMonitor is made: the cluster does not know monitoring.coreos.com/v1 (install the Prometheus operator, \
                 or set spec.x to Auto)",
            ),
        );
        check(
            Switch::Always,
            Some(Availability::Denied),
            Err(
                "no ServiceMonitor is made: the operator has no right to watch servicemonitors.monitoring.coreos.com (set \
                 rbac.create among the values of its chart, or set spec.x to Auto)",
            ),
        );
    }
}
