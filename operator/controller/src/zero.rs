//! Gathers what is known of a server that may rest, has it decided (`core/src/scale_to_zero.rs`), and keeps the decision for the rest
//! of a reconcile.

use std::time::Duration;

use crds::TritonServer;
use kube::ResourceExt;
use operator_core::{
    kind::Kind,
    names,
    replica::Replica,
    scale_to_zero::{self, Decision, Facts, Rest, Way},
};

use crate::{
    activators::routes,
    context::{Context, now},
    dereference::current,
    queue::ServerKey,
};

/// What a reconcile does about a server that may rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Zero {
    /// The way to the activators, if the server may rest.
    pub(crate) way: Option<Way>,
    /// Why it does not rest though it is to.
    pub(crate) rests_not: Option<String>,
    pub(crate) decision: Decision,
}

/// What to do about `server`, whose Deployment has so many `replicas` to have.
pub(crate) async fn decide(
    context: &Context,
    key: &ServerKey,
    server: &TritonServer,
    replicas: Option<i32>,
    pods: &[Replica],
) -> Result<Zero, kube::Error> {
    let uid = server.uid().unwrap_or_default();
    let activators = &context.activators;
    let (after, is_ours) = match scale_to_zero::rest(&server.spec, activators.are_configured()) {
        Rest::Possible { after, is_ours } => (after, is_ours),
        rest => {
            activators.forget(key);
            let rests_not = match rest {
                Rest::Impossible(why) => Some(why),
                Rest::NotAsked | Rest::Possible { .. } => None,
            };
            // if it was at rest until now, it gets its replicas back as every server that does not rest (`operator_core::replicas`)
            return Ok(Zero { way: None, rests_not, decision: Decision::default() });
        }
    };
    let Some(port) = activators.port(key, &uid, || routes::ports(&context.watches)) else {
        let rests_not = "spec.autoscaling.minReplicas is 0 and one replica stays: the activators have no port left";
        return Ok(Zero { way: None, rests_not: Some(rests_not.to_owned()), decision: Decision::default() });
    };
    let slice = current(context, key, Kind::EndpointSlice, &names::activator_slice(&key.name)).await?;
    let attendance = activators.attendance(key, &uid, slice.as_ref().is_some_and(routes::is_led));
    // its pods are asked for their load from now on
    context.loads.want(key);
    let idle_since = context.loads.of(key).and_then(|load| load.idle_since);
    let now = now();
    let ready = pods.iter().filter(|pod| pod.is_ready && !pod.is_leaving);
    let ready_for = ready.filter_map(|pod| {
        let time = now.0.duration_since(pod.ready_since.as_ref()?.0);
        Some(Duration::try_from(time).unwrap_or_default())
    });
    let decision = scale_to_zero::decide(&Facts {
        after,
        is_ours,
        replicas,
        idle_for: idle_since.map(|since| context.loads.now().saturating_sub(since)),
        ready_for: ready_for.max(),
        is_wanted: attendance.is_wanted,
        unattended_for: attendance.unattended_for,
        led_for: attendance.led_for,
    });
    let is_missed = attendance.unattended_for.is_some_and(|time| time >= scale_to_zero::UNATTENDED);
    let rests_not = (is_ours && is_missed)
        .then(|| "spec.autoscaling.minReplicas is 0 and one replica stays: no activator listens for it".to_owned());
    // all activators of a cluster have addresses of one family, that of Services by default
    let is_ipv6 = attendance.addresses.first().is_some_and(|address| address.is_ipv6());
    let addresses = if decision.is_led { attendance.addresses } else { vec![] };
    let addresses = addresses.into_iter().filter(|address| address.is_ipv6() == is_ipv6).collect();
    Ok(Zero { way: Some(Way { port, is_ipv6, addresses }), rests_not, decision })
}
