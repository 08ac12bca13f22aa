//! Whom the server believes to be a client of its own. Certificates of version 3 are judged by webpki. It refuses two kinds
//! that OpenSSL, and with it Triton, takes: those of version 1, and a root that a client brings as its own certificate.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::certificate::{Certificate, key_type};

/// Believes clients whose certificate leads to a root.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    roots: Vec<(CertificateDer<'static>, Certificate)>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// Errors: a root cannot be used.
    pub(crate) fn new(roots: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(|error| error.to_string())?;
        }
        let webpki = WebPkiClientVerifier::builder_with_provider(store.into(), provider.clone())
            .build()
            .map_err(|error: VerifierBuilderError| error.to_string())?;
        let readable = |root: CertificateDer<'static>| Some((root.clone(), Certificate::read(&root).ok()?));
        Ok(Self {
            webpki,
            roots: roots.into_iter().filter_map(readable).collect(),
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bad = |error| Error::InvalidCertificate(error);
        let certificate = Certificate::read(end_entity).map_err(|_| bad(CertificateError::BadEncoding))?;
        let is_root = self.roots.iter().any(|(root, _)| root == end_entity);
        if certificate.is_version_3() && !is_root {
            return self.webpki.verify_client_cert(end_entity, intermediates, now);
        }
        if !is_root && !self.roots.iter().any(|(_, root)| certificate.is_signed_by(root, self.algorithms.all)) {
            return Err(bad(CertificateError::UnknownIssuer));
        }
        if now.as_secs() > certificate.not_after().as_secs() {
            return Err(bad(CertificateError::Expired));
        }
        if now.as_secs() < certificate.not_before().as_secs() {
            return Err(bad(CertificateError::NotValidYet));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(key) = key_of_old(certificate)? else {
            return verify_tls12_signature(message, certificate, signed, &self.algorithms);
        };
        let (key_type, key) = key_type(&key).map_err(|_| CertificateError::BadEncoding)?;
        let mapped = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = mapped.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let fitting = algorithms.iter().filter(|algorithm| algorithm.public_key_alg_id().as_ref() == key_type);
        fitting
            .into_iter()
            .any(|algorithm| algorithm.verify_signature(&key, message, signed.signature()).is_ok())
            .then(HandshakeSignatureValid::assertion)
            .ok_or_else(|| CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match key_of_old(certificate)? {
            None => verify_tls13_signature(message, certificate, signed, &self.algorithms),
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// The key of a certificate that webpki does not read; `None` if it does.
fn key_of_old(certificate: &CertificateDer<'_>) -> Result<Option<SubjectPublicKeyInfoDer<'static>>, Error> {
    let certificate = Certificate::read(certificate).map_err(|_| CertificateError::BadEncoding)?;
    if certificate.is_version_3() {
        return Ok(None);
    }
    Ok(Some(certificate.public_key().map_err(|_| CertificateError::BadEncoding)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::{crypto::aws_lc_rs, pki_types::pem::PemObject};

    use super::*;

    const ROOT: &[u8] = include_bytes!("../tests/loopback/fixtures/ca.crt");
    /// Of version 1, signed by the root.
    const CLIENT: &[u8] = include_bytes!("../tests/loopback/fixtures/client.crt");
    /// Within the time for which both hold.
    const NOW: Duration = Duration::from_secs(1_900_000_000);

    fn judge(verifier: &ClientVerifier, der: &[u8]) -> bool {
        let now = UnixTime::since_unix_epoch(NOW);
        verifier.verify_client_cert(&CertificateDer::from(der), &[], now).is_ok()
    }

    #[test]
    fn an_old_certificate_that_was_changed_or_cut_anywhere_is_refused() {
        let roots = vec![CertificateDer::from_pem_slice(ROOT).expect("the fixture")];
        let verifier = ClientVerifier::new(roots, &Arc::new(aws_lc_rs::default_provider())).expect("a root");
        let good = CertificateDer::from_pem_slice(CLIENT).expect("the fixture").to_vec();
        assert!(judge(&verifier, &good));
        for length in 0..good.len() {
            assert!(!judge(&verifier, &good[..length]), "cut after {length} bytes");
        }
        for position in 0..good.len() {
            for bit in 0..8 {
                let mut changed = good.clone();
                changed[position] ^= 1 << bit;
                assert!(!judge(&verifier, &changed), "bit {bit} of byte {position}");
            }
        }
        assert!(!judge(&verifier, &[good.as_slice(), b"x"].concat()));
    }
}
