//! How the operator tells others about the load of servers: the flags, and what they start.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use clap::Args;
use kube::Client;
use tokio::net::TcpListener;

use crate::{
    activators::{Activators, Servers},
    external_scaler::Scaler,
    health,
    metrics_api::{self, Place},
    scrape::Loads,
    watches::Watches,
};

/// Arguments of `run` about the load of servers.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Address at which to answer KEDA, as its external scaler over gRPC; by default it is not answered
    #[arg(long, value_name = "ADDRESS", env = "EXTERNAL_SCALER_ADDRESS")]
    external_scaler_address: Option<SocketAddr>,

    /// Address at which to serve custom.metrics.k8s.io over HTTPS to the API server; by default it is not served
    #[arg(long, value_name = "ADDRESS", env = "METRICS_API_ADDRESS")]
    metrics_api_address: Option<SocketAddr>,

    /// Name of the Service in front of that address, in the operator's namespace
    #[arg(long, value_name = "NAME", default_value = "triton-operator-metrics-api", env = "METRICS_API_SERVICE")]
    metrics_api_service: String,

    /// Folder with tls.crt and tls.key for that address; by default a certificate is made, and written into the APIService
    #[arg(long, value_name = "DIR", env = "METRICS_API_CERTIFICATES")]
    metrics_api_certificates: Option<PathBuf>,
}

/// Open ports, at which nobody is answered yet.
pub(crate) struct Ports {
    external_scaler: Option<TcpListener>,
    metrics_api: Option<(TcpListener, Place)>,
}

impl LoadArgs {
    /// Opens the ports that are asked for. `namespace`: the operator's.
    pub(crate) async fn open(self, namespace: Option<&str>) -> anyhow::Result<Ports> {
        let listen = async |address: Option<SocketAddr>| match address {
            Some(address) => {
                let listener = health::listen(address).await;
                listener.with_context(|| format!("cannot listen at {address}")).map(Some)
            }
            None => Ok(None),
        };
        let metrics_api = match (listen(self.metrics_api_address).await?, namespace) {
            (None, _) => None,
            (Some(_), None) => bail!("--metrics-api-address needs the operator's namespace: set --lease-namespace"),
            (Some(listener), Some(namespace)) => {
                let place = Place {
                    namespace: namespace.to_owned(),
                    service: self.metrics_api_service,
                    certificates: self.metrics_api_certificates,
                };
                Some((listener, place))
            }
        };
        Ok(Ports { external_scaler: listen(self.external_scaler_address).await?, metrics_api })
    }
}

impl Ports {
    /// Answers at each from now on.
    pub(crate) fn serve(self, client: &Client, loads: &Loads, watches: &Arc<Watches>, activators: &Activators) {
        if let Some(listener) = self.external_scaler {
            let servers = Servers { watches: Arc::clone(watches), activators: activators.clone() };
            tokio::spawn(Scaler::new(loads.clone(), Arc::new(servers)).serve(listener));
        }
        if let Some((listener, place)) = self.metrics_api {
            let watches: Arc<Watches> = Arc::clone(watches);
            tokio::spawn(metrics_api::serve(listener, place, client.clone(), loads.clone(), watches));
        }
    }
}
