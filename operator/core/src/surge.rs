//! How many pods a rollout may have above the replicas, and how many may be missing meanwhile, where each pod holds devices such as GPUs.
//!
//! With a spare device the new pod comes first, and an image that cannot be pulled ends nothing. Without one it would wait for ever for
//! the device of the pod it is to replace. Nobody knows before which it is, so the new pod is tried: only once the scheduler
//! has found no room for it, and room is what an old pod would give, the old pod ends first. Decided anew each time from the pods
//! there are and from what the Deployment was told last.

use std::collections::BTreeMap;

use crds::{TritonServerSpec, parts::gpu::Gpu};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{drift, replica};

/// How many pods may be above the replicas and how many may be missing while pods are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollingUpdate {
    /// Pods above the replicas.
    pub surge: i32,
    /// Pods that may be missing.
    pub unavailable: i32,
}

impl RollingUpdate {
    /// The numbers for `spec`. `has_no_room`: new pods do not fit while old ones are there ([`has_no_room`]). An old pod serves until a
    /// new one does, unless each holds what there is none to spare of: a device, or the claim with the model store.
    pub fn of(spec: &TritonServerSpec, has_no_room: bool) -> Self {
        let rollout = spec.rollout.clone().unwrap_or_default();
        let may_be_missing = rollout.max_unavailable != Some(0);
        // whoever says how many may be missing wants no spare device looked for
        let lacks_devices = holds_devices(spec) && (has_no_room || rollout.max_unavailable.is_some());
        let can_spare = !holds_store(spec) && !lacks_devices;
        let surge = rollout.max_surge.unwrap_or(i32::from(can_spare || !may_be_missing));
        Self { surge, unavailable: rollout.max_unavailable.unwrap_or(i32::from(surge == 0)) }
    }

    /// Whether an old pod ends first only because there is no room for both: nobody asked for it.
    pub fn gives_way(self, spec: &TritonServerSpec) -> bool {
        self != Self::of(spec, false)
    }
}

fn holds_store(spec: &TritonServerSpec) -> bool {
    spec.model_store.as_ref().is_some_and(|store| store.persistent_volume_claim.is_some())
}

fn holds_devices(spec: &TritonServerSpec) -> bool {
    let limits = spec.resources.iter().filter_map(|resources| resources.limits.as_ref());
    // a claim that all replicas share is never missing
    let has_own =
        |gpu: &Gpu| gpu.count.is_some() || gpu.resource_claims.iter().any(|claim| claim.resource_claim_name.is_none());
    spec.gpu.as_ref().is_some_and(has_own) || limits.flat_map(|limits| limits.keys()).any(|name| is_device(name))
}

/// Devices are extended resources, which have a domain.
fn is_device(resource: &str) -> bool {
    resource.contains('/')
}

/// Whether new pods of `deployment` do not fit while old ones are there. That is so once the scheduler has found too little for a new one,
/// an old one holds as many devices as it needs, and none is about to give its own up; and from then on until all pods are of one
/// template.
pub fn has_no_room<'a>(deployment: Option<&Deployment>, pods: impl IntoIterator<Item = &'a Pod>) -> bool {
    let (leaving, live): (Vec<&Pod>, Vec<&Pod>) = pods.into_iter().partition(|pod| replica::is_leaving(pod));
    let is_rolling = live.iter().any(|pod| template(pod) != template(live[0]));
    if is_rolling && deployment.is_some_and(gives_way_now) {
        return true;
    }
    let gives = |old: &Pod, new: &Pod| {
        is_placed(old)
            && template(old) != template(new)
            && !devices(new).is_empty()
            && covers(&devices(old), &devices(new))
    };
    let finds_no_room = |new: &&Pod| is_short_of_something(new) && live.iter().any(|old| gives(old, new));
    !leaving.iter().any(|pod| is_placed(pod) && !devices(pod).is_empty()) && live.iter().any(finds_no_room)
}

/// What the Deployment was told last.
fn gives_way_now(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
    strategy.is_some_and(|rolling| rolling.max_surge == Some(IntOrString::Int(0)))
}

/// Which template a pod was made of: the Deployment's controller labels it so.
fn template(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get("pod-template-hash").map(String::as_str)
}

fn is_placed(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

/// The scheduler's words for too few devices: extended resources, and those of claims.
const SHORT: [&str; 2] = ["Insufficient ", "cannot allocate all claims"];

/// The scheduler misses an amount of something. What else keeps a pod from a node, such as a label that none has, an old pod cannot
/// give.
fn is_short_of_something(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref().is_some_and(|message| SHORT.iter().any(|words| message.contains(words)))
    })
}

/// What devices are counted by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Device<'a> {
    Resource(&'a str),
    /// Claims of one template: each pod has its own.
    ClaimOf(&'a str),
}

/// The devices a pod holds or needs.
fn devices(pod: &Pod) -> BTreeMap<Device<'_>, i128> {
    let mut devices = BTreeMap::new();
    let Some(spec) = &pod.spec else { return devices };
    let limits = spec.containers.iter().filter_map(|container| container.resources.as_ref()?.limits.as_ref()).flatten();
    for (name, count) in limits.filter(|(name, _)| is_device(name)) {
        let count = drift::quantity(&count.0.as_str().into()).unwrap_or(0);
        *devices.entry(Device::Resource(name)).or_default() += count;
    }
    for claim in spec.resource_claims.iter().flatten() {
        if let Some(template) = &claim.resource_claim_template_name {
            *devices.entry(Device::ClaimOf(template)).or_default() += 1;
        }
    }
    devices
}

fn covers(old: &BTreeMap<Device<'_>, i128>, new: &BTreeMap<Device<'_>, i128>) -> bool {
    new.iter().all(|(device, count)| old.get(device).is_some_and(|held| held >= count))
}

#[cfg(test)]
mod tests {
    use crds::parts::rollout::Rollout;
    use serde_json::{Value, json};

    use super::*;

    fn spec(has_gpu: bool, max_surge: Option<i32>, max_unavailable: Option<i32>) -> TritonServerSpec {
        let gpu = has_gpu.then(|| Gpu { count: Some(1), ..Default::default() });
        let rollout = Some(Rollout { max_surge, max_unavailable, ..Default::default() });
        TritonServerSpec { gpu, rollout, ..Default::default() }
    }

    #[track_caller]
    fn check_of(spec: &TritonServerSpec, has_no_room: bool, expect: (i32, i32)) {
        let rolling_update = RollingUpdate::of(spec, has_no_room);
        assert_eq!((rolling_update.surge, rolling_update.unavailable), expect);
        assert_eq!(rolling_update.gives_way(spec), has_no_room && RollingUpdate::of(spec, false) != rolling_update);
    }

    #[test]
    fn an_old_pod_serves_until_a_new_one_does_where_there_is_room_for_both() {
        for has_gpu in [false, true] {
            check_of(&spec(has_gpu, None, None), false, (1, 0));
        }
        check_of(&spec(false, None, None), true, (1, 0));
        check_of(&spec(true, None, None), true, (0, 1));
    }

    #[test]
    fn what_the_user_says_stands() {
        for has_no_room in [false, true] {
            check_of(&spec(false, Some(0), None), has_no_room, (0, 1));
            check_of(&spec(true, Some(2), None), has_no_room, (2, 0));
            check_of(&spec(false, None, Some(2)), has_no_room, (1, 2));
            check_of(&spec(true, None, Some(2)), has_no_room, (0, 2));
            check_of(&spec(true, None, Some(0)), has_no_room, (1, 0));
        }
    }

    const TOO_FEW: &str = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.";

    fn pod(template: &str, gpus: u32, node: Option<&str>, unschedulable: Option<&str>) -> Pod {
        let condition = unschedulable.map(|message| {
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message })
        });
        let limits = json!({ "memory": "1Gi", "nvidia.com/gpu": gpus.to_string() });
        serde_json::from_value(json!({
            "metadata": { "labels": { "pod-template-hash": template } },
            "spec": { "nodeName": node, "containers": [{ "name": "server", "resources": { "limits": limits } }] },
            "status": { "conditions": condition.into_iter().collect::<Vec<_>>() },
        }))
        .unwrap()
    }

    fn leaving(mut pod: Pod) -> Pod {
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        pod
    }

    fn old() -> Pod {
        pod("old", 1, Some("kn1"), None)
    }

    fn waiting() -> Pod {
        pod("new", 1, None, Some(TOO_FEW))
    }

    fn deployment(surge: i32) -> Deployment {
        let rolling = json!({ "maxSurge": surge, "maxUnavailable": 1 - surge });
        serde_json::from_value(json!({
            "spec": { "selector": {}, "template": {}, "strategy": { "type": "RollingUpdate", "rollingUpdate": rolling } },
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(surge: i32, pods: &[Pod], expect: bool) {
        assert_eq!(has_no_room(Some(&deployment(surge)), pods), expect);
    }

    #[test]
    fn a_new_pod_for_which_there_is_no_device_gets_that_of_an_old_one() {
        check(1, &[old(), waiting()], true);
        check(1, &[old(), pod("new", 1, Some("kn2"), None)], false);
        check(1, &[old(), pod("new", 1, None, None)], false);
    }

    #[test]
    fn devices_of_claims_are_short_in_other_words() {
        let words = "0/2 nodes are available: 2 cannot allocate all claims. preemption: 0/2 nodes are available.";
        let pod = |template: &str, claims: Value, node: Option<&str>| {
            let unschedulable = node.is_none().then_some(words);
            let mut pod = pod(template, 0, node, unschedulable);
            let spec = pod.spec.as_mut().unwrap();
            spec.containers[0].resources = None;
            spec.resource_claims = serde_json::from_value(claims).unwrap();
            pod
        };
        let own = |name: &str| json!([{ "name": "gpu", "resourceClaimTemplateName": name }]);
        let shared = json!([{ "name": "gpu", "resourceClaimName": "ours" }]);
        check(1, &[pod("old", own("one"), Some("kn1")), pod("new", own("one"), None)], true);
        check(1, &[pod("old", own("one"), Some("kn1")), pod("new", own("two"), None)], false);
        check(1, &[pod("old", shared.clone(), Some("kn1")), pod("new", shared, None)], false);
        let rolling_update = |claim: Value| {
            RollingUpdate::of(&serde_json::from_value(json!({ "gpu": { "resourceClaims": [claim] } })).unwrap(), true)
        };
        assert_eq!(rolling_update(json!({ "name": "gpu", "resourceClaimTemplateName": "one" })).surge, 0);
        assert_eq!(rolling_update(json!({ "name": "gpu", "resourceClaimName": "ours" })).surge, 1);
    }

    #[test]
    fn an_old_pod_does_not_end_for_what_it_cannot_give() {
        check(1, &[old(), pod("new", 2, None, Some(TOO_FEW))], false);
        check(1, &[old(), pod("new", 1, None, Some("2 node(s) didn't match Pod's node affinity/selector."))], false);
        check(1, &[waiting()], false);
        check(1, &[pod("old", 1, None, Some(TOO_FEW)), waiting()], false);
        assert!(!has_no_room(None, &[]));
    }

    #[test]
    fn a_device_that_is_about_to_be_free_is_waited_for() {
        check(1, &[leaving(old()), old(), waiting()], false);
        check(1, &[leaving(old()), waiting()], false);
    }

    #[test]
    fn it_stays_so_until_all_pods_are_of_one_template() {
        let placed = || pod("new", 1, Some("kn1"), None);
        check(0, &[old(), placed()], true);
        check(0, &[old(), leaving(old()), waiting()], true);
        check(0, &[placed(), placed()], false);
        check(0, &[leaving(old()), placed()], false);
        check(1, &[old(), placed()], false);
    }
}
