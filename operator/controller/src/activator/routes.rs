//! Follows what the operator says of where each server is. While no operator answers, what was said last goes on.

use std::{net::Ipv6Addr, sync::Arc};

use anyhow::Context as _;
use hyper::Uri;
use operator_core::activator::{ROUTES_PATH, Routes};

use super::listeners::Listeners;
use crate::long_poll::Follower;

/// Where the routes are, at an operator of that HOST:PORT. An address of version 6 may stand without brackets, as the kubelet gives it.
pub(super) fn uri(operator: &str) -> anyhow::Result<Uri> {
    let authority = match operator.rsplit_once(':') {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]:{port}"),
        _ => operator.to_owned(),
    };
    let uri: Uri = format!("http://{authority}{ROUTES_PATH}")
        .parse()
        .with_context(|| format!("--operator: '{operator}' is not of the form HOST:PORT"))?;
    anyhow::ensure!(
        uri.path() == ROUTES_PATH && uri.port().is_some() && uri.host().is_some_and(|host| !host.is_empty()),
        "--operator: '{operator}' is not of the form HOST:PORT"
    );
    Ok(uri)
}

/// Opens and closes ports as the operator says, for ever.
pub(super) async fn follow(uri: Uri, listeners: Arc<Listeners>) {
    let mut follower = Follower::new(uri);
    let mut is_well = true;
    loop {
        let read = match follower.next().await {
            Ok(document) => serde_json::from_slice::<Routes>(&document).map_err(|error| error.to_string()),
            Err(failure) => Err(failure.to_string()),
        };
        match read {
            Ok(routes) => {
                if !is_well {
                    tracing::info!("the operator answers again");
                }
                is_well = true;
                listeners.set(routes);
            }
            Err(error) => {
                if is_well {
                    tracing::warn!(error, "the operator does not say where servers are: what it said last goes on");
                }
                is_well = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_named_by_host_and_port() {
        assert_eq!(uri("triton-operator.system.svc:8084").unwrap(), "http://triton-operator.system.svc:8084/routes");
        assert!(uri("[::1]:8084").is_ok());
        assert_eq!(uri("fd00::1:8084").unwrap(), "http://[fd00::1]:8084/routes");
        for wrong in ["", "host", "host:x", ":8084", "http://host:1", "host:1/x", "host:1?x", "a b:1"] {
            assert!(uri(wrong).is_err(), "{wrong:?}");
        }
    }
}
