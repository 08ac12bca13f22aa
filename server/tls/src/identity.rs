//! From the bytes of the files to how TLS is spoken: the server's certificate and key, checked to belong together, and whom
//! it asks for certificates. Pure, but for the cryptography.

use std::{sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    certificate::Certificate,
    client_verifier::ClientVerifier,
    files::{Contents, Files, LoadError, Problem},
    protocol::Protocol,
};

/// How TLS is spoken with these certificates.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    certificate: Certificate,
}

impl Identity {
    /// Builds it.
    ///
    /// Errors: what is wrong with which file.
    pub(crate) fn new(files: &Files, contents: &Contents, protocol: Protocol) -> Result<Self, LoadError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = files.certificate.certificates(&contents.certificate)?;
        let mut certificates = Vec::new();
        for certificate in &chain {
            let read = Certificate::read(certificate);
            let bad = |error| files.certificate.fails(Problem::BadCertificate(error));
            certificates.push(read.map_err(|error| bad(error.to_string()))?);
        }
        let certificate = certificates.swap_remove(0);
        let key = files.key.key(&contents.key)?;
        let key = provider.key_provider.load_private_key(key);
        let key = key.map_err(|error| files.key.fails(Problem::bad_key(error)))?;
        // rustls compares them too, but reads only certificates of version 3
        let public_key = certificate.public_key().ok();
        if public_key.is_none() || key.public_key().is_some_and(|key| Some(key) != public_key) {
            return Err(files.key.fails(Problem::OtherKey(files.certificate.clone())));
        }
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("AWS-LC offers all of TLS 1.2 and 1.3");
        let builder = match files.client_roots.as_ref().zip(contents.client_roots.as_ref()) {
            None => builder.with_no_client_auth(),
            Some((file, bytes)) => {
                let verifier = ClientVerifier::new(file.certificates(bytes)?, &provider);
                let verifier = verifier.map_err(|error| file.fails(Problem::BadRoot(error)))?;
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
        config.alpn_protocols = vec![protocol.name().to_vec()];
        Ok(Self { config: Arc::new(config), certificate })
    }

    /// Until when the certificate holds, as text, if that is over at `now`, counted from 1970.
    pub(crate) fn expired(&self, now: Duration) -> Option<String> {
        (self.certificate.not_after() < now).then(|| self.certificate.end())
    }
}
