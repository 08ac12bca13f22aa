//! What every reconcile shares: the client, the stores, what was written last. Nothing in it is an authority: all of it is made
//! anew when the operator starts again.

use std::sync::Arc;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::Client;
use operator_core::{decide::Settings, source_rules::AddressRange};

use crate::{
    activators::Activators, config_maps::ConfigMaps, events::Events, metrics::Metrics, observer::Observer,
    queue::Queue, scrape::Loads, secrets::Secrets, traces::Traces, watches::Watches, written::Written,
};

/// What every reconcile shares.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) watches: Arc<Watches>,
    pub(crate) queue: Queue,
    pub(crate) settings: Settings,
    pub(crate) events: Events,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Traces,
    pub(crate) observer: Observer,
    /// What the pods of autoscaled servers say of their load.
    pub(crate) loads: Loads,
    pub(crate) activators: Activators,
    pub(crate) config_maps: ConfigMaps,
    pub(crate) secrets: Secrets,
    /// Addresses that sources may have although they are refused otherwise.
    pub(crate) allowed_addresses: Vec<AddressRange>,
    pub(crate) written: Arc<Written>,
}

#[cfg(test)]
impl Context {
    /// That of an operator of the cluster behind `client`, with its stores filled.
    pub(crate) async fn for_tests(client: Client) -> Self {
        let (metrics, written) = (Arc::new(Metrics::new()), Arc::new(Written::default()));
        let (queue, _requests) = Queue::new();
        let watches = Watches::start(&client, &[], &queue, &metrics, &written);
        watches.filled().await;
        Self {
            watches,
            queue: queue.clone(),
            settings: Settings { image: "triton:1".into(), ..Settings::default() },
            events: Events::start(&client, "me".into(), &metrics),
            traces: Traces::default(),
            observer: Observer::new(&queue, &metrics),
            loads: Loads::new(&metrics),
            activators: Activators::start(&client, None, &queue),
            config_maps: ConfigMaps::default(),
            secrets: Secrets::new(true),
            allowed_addresses: vec![],
            client,
            metrics,
            written,
        }
    }
}

/// Now, in whole seconds, as the API server keeps times.
pub(crate) fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
