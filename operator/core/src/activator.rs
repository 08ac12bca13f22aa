//! What the operator and an activator tell each other. The operator tells which server is reached at which port of the activator and
//! where its ready pods are ([`Routes`]); an activator tells for which servers it listens and which of them are wanted ([`Demand`]).
//! Each asks the other and changes nothing by asking, so that an activator needs no rights in the cluster, and nobody who reaches
//! either of them can lead requests elsewhere.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

/// Port at which the operator answers with [`Routes`].
pub const ROUTES_PORT: u16 = 8084;
/// Path of it.
pub const ROUTES_PATH: &str = "/routes";
/// Port at which an activator answers with [`Demand`].
pub const DEMAND_PORT: u16 = 8085;
/// Path of it.
pub const DEMAND_PATH: &str = "/demand";
/// Ports of an activator for servers, one each. Below those that a kernel gives to outgoing connections.
pub const SERVER_PORTS: RangeInclusive<u16> = 20000..=29999;

/// Where the requests of each server go, by the server's uid: one of the same name that comes later is another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// The servers that scale to zero.
    pub servers: BTreeMap<String, Route>,
}

/// Where the requests of one server go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Namespace of the server.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Port of the activator that its Service leads to.
    pub port: u16,
    /// Whether its Service leads there at present. If not, connections that are still open are to end.
    pub is_led_here: bool,
    /// Addresses of its ready pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<IpAddr>,
    /// Why none is ready, as its status says; empty where it says nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What an activator has to say, by the uid of each server that it listens for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// The servers it listens for.
    pub servers: BTreeMap<String, ServerDemand>,
}

/// Whether one server is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerDemand {
    /// Namespace of the server.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Requests for it are under way here, or the last one came a moment ago.
    pub is_wanted: bool,
}
