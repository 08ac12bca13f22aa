//! The API server's front proxy: with which certificate it shows itself, and how it says who asks. Both stand in a ConfigMap of the
//! cluster, which is followed, since authorities change.
//!
//! Source: "Configure the Aggregation Layer" of Kubernetes.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::StreamExt;
use hyper::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;

/// Where the cluster says how its front proxy is recognised.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// How a front proxy is recognised and read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FrontProxy {
    /// Who has signed its certificate.
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// Common names it may have; none: any.
    names: Vec<String>,
    user_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// Why nobody can be recognised.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unrecognisable {
    #[error(
        "ConfigMap {NAMESPACE}/{NAME} has no requestheader-client-ca-file: the API server's aggregation layer is off"
    )]
    NoRoots,
    #[error("{0} of ConfigMap {NAMESPACE}/{NAME} cannot be read")]
    Malformed(&'static str),
}

impl FrontProxy {
    /// Reads what the cluster says.
    pub(super) fn read(data: &BTreeMap<String, String>) -> Result<Self, Unrecognisable> {
        const ROOTS: &str = "requestheader-client-ca-file";
        let roots = data.get(ROOTS).filter(|text| !text.trim().is_empty()).ok_or(Unrecognisable::NoRoots)?;
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(roots.as_bytes()).collect();
        let roots = roots.ok().filter(|roots| !roots.is_empty()).ok_or(Unrecognisable::Malformed(ROOTS))?;
        let list = |key: &'static str| match data.get(key).filter(|text| !text.trim().is_empty()) {
            Some(text) => serde_json::from_str::<Vec<String>>(text).map_err(|_| Unrecognisable::Malformed(key)),
            None => Ok(vec![]),
        };
        Ok(Self {
            roots,
            names: list("requestheader-allowed-names")?,
            user_headers: list("requestheader-username-headers")?,
            group_headers: list("requestheader-group-headers")?,
            extra_prefixes: list("requestheader-extra-headers-prefix")?,
        })
    }

    /// Whether one of these common names is a front proxy's. Its certificate is of the right authority already.
    pub(super) fn allows(&self, common_names: &[String]) -> bool {
        self.names.is_empty() || common_names.iter().any(|name| self.names.contains(name))
    }

    /// Who asks, as the front proxy says; none if it does not say.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<User> {
        let text = |value: &hyper::header::HeaderValue| value.to_str().ok().map(str::to_owned);
        let values = |name: &String| headers.get_all(name.as_str()).into_iter().filter_map(text).collect::<Vec<_>>();
        let name = self.user_headers.iter().flat_map(values).find(|name| !name.is_empty())?;
        let mut extra = BTreeMap::<String, Vec<String>>::new();
        for (header, value) in headers {
            let prefixes = self.extra_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase());
            let key = prefixes.into_iter().find_map(|prefix| header.as_str().strip_prefix(&prefix).map(str::to_owned));
            if let (Some(key), Some(value)) = (key.filter(|key| !key.is_empty()), text(value)) {
                extra.entry(key).or_default().push(value);
            }
        }
        Some(User { name, groups: self.group_headers.iter().flat_map(values).collect(), extra })
    }
}

/// Follows what the cluster says, for as long as it is polled. What cannot be read leaves what was known before.
pub(super) async fn follow(client: Client, trust: watch::Sender<Option<Arc<FrontProxy>>>) {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let mut found = std::pin::pin!(watch_object(api, NAME).default_backoff());
    while let Some(event) = found.next().await {
        let config_map = match event {
            Ok(config_map) => config_map.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "ConfigMap {NAMESPACE}/{NAME} cannot be read: the metrics API does not recognise the API server");
                continue;
            }
        };
        match FrontProxy::read(&config_map.data.unwrap_or_default()) {
            Ok(now) => {
                trust.send_if_modified(|before| {
                    let is_new = before.as_deref() != Some(&now);
                    *before = Some(Arc::new(now));
                    is_new
                });
            }
            Err(error) => tracing::warn!(%error, "the metrics API does not recognise the API server"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(names: &str) -> BTreeMap<String, String> {
        let certificate = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem();
        [
            ("requestheader-client-ca-file", certificate.as_str()),
            ("requestheader-allowed-names", names),
            ("requestheader-username-headers", "[\"X-Remote-User\"]"),
            ("requestheader-group-headers", "[\"X-Remote-Group\"]"),
            ("requestheader-extra-headers-prefix", "[\"X-Remote-Extra-\"]"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn who_asks_is_read_as_the_cluster_says() {
        let proxy = FrontProxy::read(&config_map("[\"front-proxy-client\"]")).unwrap();
        assert!(proxy.allows(&["front-proxy-client".to_owned()]));
        assert!(!proxy.allows(&["admin".to_owned()]) && !proxy.allows(&[]));
        assert!(
            FrontProxy::read(&config_map("[]")).unwrap().allows(&[]),
            "an empty list allows everybody of the authority"
        );
        let user = proxy.user(&headers(&[
            ("x-remote-user", "jane"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-scopes", "a"),
            ("x-other", "b"),
        ]));
        let expected = User {
            name: "jane".into(),
            groups: vec!["dev".into(), "ops".into()],
            extra: [("scopes".to_owned(), vec!["a".to_owned()])].into(),
        };
        assert_eq!(user, Some(expected));
        assert_eq!(proxy.user(&headers(&[("x-remote-group", "system:masters")])), None);
        assert_eq!(proxy.user(&headers(&[("x-remote-user", "")])), None);
    }

    #[test]
    fn a_cluster_that_does_not_say_is_not_guessed_at() {
        assert_eq!(FrontProxy::read(&BTreeMap::new()), Err(Unrecognisable::NoRoots));
        for key in ["requestheader-client-ca-file", "requestheader-allowed-names", "requestheader-username-headers"] {
            let mut data = config_map("[]");
            data.insert(key.to_owned(), "junk".to_owned());
            assert_eq!(FrontProxy::read(&data), Err(Unrecognisable::Malformed(key)));
        }
        let mut data = config_map("[]");
        data.remove("requestheader-username-headers");
        let proxy = FrontProxy::read(&data).unwrap();
        assert_eq!(proxy.user(&headers(&[("x-remote-user", "jane")])), None, "no header is one of the front proxy's");
    }
}
