//! Follows the activators: which there are, by the EndpointSlices of their Service, and what each says.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use futures_util::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use operator_core::{
    activator::{DEMAND_PATH, DEMAND_PORT, Demand},
    labels,
};
use tokio::task::AbortHandle;

use super::{ActivatorService, Activators};
use crate::{long_poll::Follower, queue::Queue};

impl Activators {
    /// Follows the activators of `service`, if there is one.
    pub(crate) fn start(client: &Client, service: Option<&ActivatorService>, queue: &Queue) -> Self {
        let activators = Self::new(service.is_some(), queue);
        if let Some(service) = service {
            tokio::spawn(follow_service(client.clone(), service.clone(), activators.clone()));
        }
        activators
    }
}

/// Follows the activators of a Service, for ever.
async fn follow_service(client: Client, service: ActivatorService, activators: Activators) {
    let api: Api<EndpointSlice> = Api::namespaced(client, &service.namespace);
    let config = watcher::Config::default().labels(&format!("{}={}", labels::SERVICE_NAME, service.name));
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let (mut slices, mut listed) = (HashMap::new(), HashMap::new());
    let mut is_well = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                is_well = true;
                if !take(event, &mut slices, &mut listed) {
                    continue;
                }
            }
            Err(error) => {
                if is_well {
                    tracing::warn!(%error, service = service.name, "cannot watch where the activators are");
                }
                is_well = false;
                continue;
            }
        }
        let follow = |address| follow(address, &activators);
        activators.set(&addresses(slices.values()), follow);
    }
}

/// Takes an event in; `false` while a list is not complete.
fn take(
    event: Event<EndpointSlice>,
    slices: &mut HashMap<String, EndpointSlice>,
    listed: &mut HashMap<String, EndpointSlice>,
) -> bool {
    match event {
        Event::Apply(slice) => drop(slices.insert(slice.name_any(), slice)),
        Event::Delete(slice) => drop(slices.remove(&slice.name_any())),
        Event::InitDone => *slices = std::mem::take(listed),
        Event::Init => {
            listed.clear();
            return false;
        }
        Event::InitApply(slice) => {
            listed.insert(slice.name_any(), slice);
            return false;
        }
    }
    true
}

/// The activators in these slices, each with whether it may be sent requests. One that ends is in them as long as it answers: it may
/// hold some still.
fn addresses<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> BTreeMap<IpAddr, bool> {
    let mut all = BTreeMap::new();
    for endpoint in slices.flat_map(|slice| &slice.endpoints) {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let is_ready = conditions.ready != Some(false) && conditions.terminating != Some(true);
        if !is_ready && conditions.serving == Some(false) {
            continue;
        }
        let address = endpoint.addresses.first().and_then(|address| address.parse().ok());
        if let Some(address) = address {
            *all.entry(address).or_insert(false) |= is_ready;
        }
    }
    all
}

fn follow(address: IpAddr, activators: &Activators) -> AbortHandle {
    let activators = activators.clone();
    let following = async move {
        let uri = format!("http://{}{DEMAND_PATH}", SocketAddr::new(address, DEMAND_PORT));
        let Ok(uri) = uri.parse() else { return };
        let mut follower = Follower::new(uri);
        let mut is_well = true;
        loop {
            let read = match follower.next().await {
                Ok(document) => serde_json::from_slice::<Demand>(&document).map_err(|error| error.to_string()),
                Err(failure) => Err(failure.to_string()),
            };
            match read {
                Ok(demand) => {
                    is_well = true;
                    activators.note(address, demand);
                }
                Err(error) => {
                    if is_well {
                        tracing::warn!(%address, error, "an activator does not answer");
                    }
                    is_well = false;
                    activators.note(address, Demand::default());
                }
            }
        }
    };
    tokio::spawn(following).abort_handle()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, endpoints: serde_json::Value) -> EndpointSlice {
        let slice = json!({ "metadata": { "name": name }, "addressType": "IPv4", "endpoints": endpoints });
        serde_json::from_value(slice).unwrap()
    }

    #[test]
    fn activators_that_end_are_asked_and_get_nothing_new() {
        let slices = [
            slice(
                "a",
                json!([
                    { "addresses": ["10.0.0.1"], "conditions": { "ready": true, "serving": true, "terminating": false } },
                    { "addresses": ["10.0.0.2"], "conditions": { "ready": false, "serving": true, "terminating": true } },
                    { "addresses": ["10.0.0.3"], "conditions": { "ready": false, "serving": false, "terminating": false } },
                    { "addresses": ["junk"] },
                    { "addresses": [] },
                ]),
            ),
            slice("b", json!([{ "addresses": ["10.0.0.4"] }])),
        ];
        let all: Vec<_> = addresses(slices.iter()).into_iter().map(|(address, is)| (address.to_string(), is)).collect();
        let expect = [("10.0.0.1", true), ("10.0.0.2", false), ("10.0.0.4", true)];
        assert_eq!(all, expect.map(|(address, is_ready)| (address.to_owned(), is_ready)));
    }

    #[test]
    fn a_list_counts_once_it_is_complete() {
        let (mut slices, mut listed) = (HashMap::new(), HashMap::new());
        let mut names = |event| {
            let counts = take(event, &mut slices, &mut listed);
            let mut names: Vec<_> = slices.keys().cloned().collect();
            names.sort();
            (counts, names.join(","))
        };
        assert_eq!(names(Event::Apply(slice("a", json!([])))), (true, "a".into()));
        assert_eq!(names(Event::Init), (false, "a".into()));
        assert_eq!(names(Event::InitApply(slice("b", json!([])))), (false, "a".into()));
        assert_eq!(names(Event::InitDone), (true, "b".into()));
        assert_eq!(names(Event::Delete(slice("b", json!([])))), (true, String::new()));
    }
}
