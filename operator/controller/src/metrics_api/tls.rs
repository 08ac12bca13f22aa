//! How connections to the metrics API are encrypted, and whether it is the API server that calls.

use std::{io, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::CertificateDer,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_cert::{
    certificate::{CertificateInner, Raw},
    der::Decode,
};

use super::front_proxy::FrontProxy;

/// Certificates of both sides.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    trust: Arc<FrontProxy>,
}

impl Tls {
    /// Shows `identity`, and asks callers for a certificate that `trust` knows.
    ///
    /// Errors: an authority whose certificate cannot be used.
    pub(super) fn new(identity: Arc<CertifiedKey>, trust: Arc<FrontProxy>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for root in &trust.roots {
            roots.add(root.clone())?;
        }
        // without a certificate, a caller may ask whether the process lives
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), trust })
    }

    /// How a front proxy says who asks.
    pub(super) fn trust(&self) -> Arc<FrontProxy> {
        Arc::clone(&self.trust)
    }

    /// Shakes hands. Whether it is a front proxy that calls comes with the stream.
    pub(super) async fn accept(&self, socket: TcpStream) -> io::Result<(TlsStream<TcpStream>, bool)> {
        let stream = self.acceptor.accept(socket).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let is_front_proxy = shown.is_some_and(|shown| self.trust.allows(&common_names(shown)));
        Ok((stream, is_front_proxy))
    }
}

/// The common names of a certificate.
fn common_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    const COMMON_NAME: &str = "2.5.4.3";
    let Ok(certificate) = CertificateInner::<Raw>::from_der(certificate) else { return vec![] };
    let names = certificate.tbs_certificate().subject().iter();
    let names = names.filter(|attribute| attribute.oid.to_string() == COMMON_NAME);
    names.filter_map(|attribute| std::str::from_utf8(attribute.value.value()).ok().map(str::to_owned)).collect()
}

/// Makes one of both sides whenever one of them changes, for as long as it is polled.
pub(super) async fn combine(
    mut trust: watch::Receiver<Option<Arc<FrontProxy>>>,
    mut identity: watch::Receiver<Option<Arc<CertifiedKey>>>,
    tls: watch::Sender<Option<Arc<Tls>>>,
) {
    loop {
        let both = (identity.borrow_and_update().clone(), trust.borrow_and_update().clone());
        if let (Some(identity), Some(trust)) = both {
            match Tls::new(identity, trust) {
                Ok(now) => drop(tls.send_replace(Some(Arc::new(now)))),
                Err(error) => tracing::warn!(%error, "the certificates of the metrics API cannot be used"),
            }
        }
        let changed = async {
            tokio::select! {
                changed = trust.changed() => changed,
                changed = identity.changed() => changed,
            }
        };
        if changed.await.is_err() {
            return; // the operator ends
        }
    }
}
