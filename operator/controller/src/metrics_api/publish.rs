//! Tells the API server which certificates of the metrics API to believe: they stand in the APIService that leads there. Several
//! operators add theirs side by side; what has ended is taken out. An APIService that leads somewhere else is somebody else's and
//! not touched.

use k8s_openapi::{ByteString, jiff::Timestamp, kube_aggregator::pkg::apis::apiregistration::v1::APIService};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use operator_core::{labels, metrics_api::API_SERVICE};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use x509_cert::{
    certificate::{CertificateInner, Raw},
    der::Decode,
};

/// Most certificates that are believed at the same time: of operators that run, that were updated, and that are to be renewed.
const MOST: usize = 16;

/// How the API server stands to the metrics API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It asks here, and believes the certificate.
    Ours,
    /// It was not told where metrics are served.
    Absent,
    /// It asks somebody else.
    Taken(String),
    /// It cannot be asked or told.
    Unknown(String),
}

/// Looks after the APIService.
pub(super) struct Publisher {
    api: Api<APIService>,
    namespace: String,
    service: String,
    standing: Option<Standing>,
}

impl Publisher {
    /// For the Service of that namespace and name.
    pub(super) fn new(client: Client, namespace: String, service: String) -> Self {
        Self { api: Api::all(client), namespace, service, standing: None }
    }

    /// Looks where the API server is led, and sees to it that it believes `certificate`, if there is one.
    pub(super) async fn look(&mut self, certificate: Option<&CertificateDer<'static>>) -> Standing {
        let now = self.stand(certificate).await.unwrap_or_else(|error| Standing::Unknown(error.to_string()));
        if self.standing.replace(now.clone()).as_ref() != Some(&now) {
            self.tell(&now);
        }
        now
    }

    async fn stand(&self, certificate: Option<&CertificateDer<'static>>) -> Result<Standing, kube::Error> {
        let Some(found) = self.api.get_opt(API_SERVICE).await? else { return Ok(Standing::Absent) };
        let spec = found.spec.unwrap_or_default();
        let service = spec.service.unwrap_or_default();
        let (namespace, name) = (service.namespace.unwrap_or_default(), service.name.unwrap_or_default());
        if (&namespace, &name) != (&self.namespace, &self.service) {
            return Ok(Standing::Taken(format!("{namespace}/{name}")));
        }
        let before = spec.ca_bundle.unwrap_or_default().0;
        let Some(bundle) = certificate.and_then(|own| with(&before, own, Timestamp::now())) else {
            return Ok(Standing::Ours);
        };
        // on the condition that no other operator has added its own meanwhile
        let patch = json!({
            "metadata": { "resourceVersion": found.metadata.resource_version },
            "spec": { "caBundle": ByteString(bundle) },
        });
        let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
        self.api.patch(API_SERVICE, &params, &Patch::Merge(&patch)).await?;
        Ok(Standing::Ours)
    }

    fn tell(&self, standing: &Standing) {
        let Self { namespace, service, .. } = self;
        match standing {
            Standing::Ours => {
                tracing::info!(api_service = API_SERVICE, "the API server asks this operator for metrics of pods")
            }
            Standing::Absent => tracing::warn!(
                api_service = API_SERVICE,
                "the API server does not know where to ask for metrics: there is no such APIService; it belongs to the operator's chart"
            ),
            Standing::Taken(other) => tracing::warn!(
                api_service = API_SERVICE,
                other,
                "the API server asks somebody else for metrics of pods, not Service {namespace}/{service}: of such an API there can be one only; \
                 servers can be scaled by engine PrometheusAdapter or KEDA"
            ),
            Standing::Unknown(error) => {
                tracing::warn!(api_service = API_SERVICE, error, "the APIService cannot be read or written")
            }
        }
    }
}

/// The bundle with another certificate in it, without those that have ended and without the oldest where there are too many. Nothing
/// if it is in there.
fn with(bundle: &[u8], own: &CertificateDer<'static>, now: Timestamp) -> Option<Vec<u8>> {
    let mut known: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok).filter(|it| !has_ended(it, now)).collect();
    if known.contains(own) {
        return None;
    }
    known.push(own.clone());
    let kept = known.len().saturating_sub(MOST);
    Some(known[kept..].iter().map(pem).collect::<String>().into_bytes())
}

/// Whether a certificate holds no longer, or cannot be read.
fn has_ended(certificate: &CertificateDer<'_>, now: Timestamp) -> bool {
    let Ok(certificate) = CertificateInner::<Raw>::from_der(certificate) else { return true };
    let ends = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    i64::try_from(ends.as_secs()).is_ok_and(|ends| ends < now.as_second())
}

/// In PEM, as RFC 7468 writes it.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::{super::certificate::Made, *};

    fn made(second: i64) -> CertificateDer<'static> {
        Made::new(vec!["a.b.svc".into()], Timestamp::from_second(second).unwrap()).unwrap().certificate
    }

    fn read(bundle: &[u8]) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(bundle).map(Result::unwrap).collect()
    }

    #[test]
    fn operators_add_their_certificates_side_by_side_and_those_that_ended_go() {
        let day = 24 * 3600;
        let now = |day_number: i64| Timestamp::from_second(day_number * day).unwrap();
        let (one, other, late) = (made(100 * day), made(101 * day), made(131 * day));
        let bundle = with(b"", &one, now(100)).unwrap();
        assert_eq!(read(&bundle), std::slice::from_ref(&one));
        assert_eq!(with(&bundle, &one, now(100)), None, "it is in there");
        let bundle = with(&bundle, &other, now(101)).unwrap();
        assert_eq!(read(&bundle), [one.clone(), other.clone()]);
        let bundle = with(&bundle, &late, now(130) + std::time::Duration::from_secs(3600)).unwrap();
        assert_eq!(read(&bundle), [other, late], "the first one has ended");
        assert_eq!(
            read(
                &with(b"junk\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &one, now(100)).unwrap()
            ),
            [one]
        );
    }

    #[test]
    fn of_too_many_the_oldest_go() {
        let mut bundle = vec![];
        let all: Vec<_> = (0..MOST + 3).map(|_| made(1_000_000)).collect();
        for one in &all {
            bundle = with(&bundle, one, Timestamp::from_second(1_000_000).unwrap()).unwrap();
        }
        assert_eq!(read(&bundle), all[3..]);
    }
}
