//! What is read from a certificate: its public key, its dates, its signature. Of every version of X.509, since
//! `openssl x509 -req` made version 1 for decades, which the verifier of rustls does not read.

use std::time::Duration;

use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use x509_cert::{
    certificate::{CertificateInner, Raw, Version},
    der::{Decode, Encode, Error, referenced::OwnedToRef},
    spki::AlgorithmIdentifierOwned,
};

/// A certificate that was taken apart.
#[derive(Debug)]
pub(crate) struct Certificate(CertificateInner<Raw>);

impl Certificate {
    /// Reads one in DER.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Error> {
        CertificateInner::from_der(der).map(Self)
    }

    /// Whether it may say what it is for, and how its names are limited.
    pub(crate) fn is_version_3(&self) -> bool {
        self.0.tbs_certificate().version() == Version::V3
    }

    /// Its public key.
    pub(crate) fn public_key(&self) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
        self.0.tbs_certificate().subject_public_key_info().to_der().map(Into::into)
    }

    /// From when it holds, since 1970.
    pub(crate) fn not_before(&self) -> Duration {
        self.0.tbs_certificate().validity().not_before.to_unix_duration()
    }

    /// Until when, since 1970.
    pub(crate) fn not_after(&self) -> Duration {
        self.0.tbs_certificate().validity().not_after.to_unix_duration()
    }

    /// The same as text.
    pub(crate) fn end(&self) -> String {
        self.0.tbs_certificate().validity().not_after.to_string()
    }

    /// Whether `issuer` has signed it, with one of these algorithms.
    pub(crate) fn is_signed_by(&self, issuer: &Self, algorithms: &[&dyn SignatureVerificationAlgorithm]) -> bool {
        let (this, other) = (self.0.tbs_certificate(), issuer.0.tbs_certificate());
        if this.issuer() != other.subject() {
            return false;
        }
        let key = other.subject_public_key_info();
        let encoded = (parameters(&key.algorithm), parameters(self.0.signature_algorithm()), this.to_der());
        let (Ok(key_type), Ok(signed_with), Ok(message)) = encoded else { return false };
        // whole bytes only, as all signatures and keys have: bits left over would be an encoding of the same that nobody made
        let (Some(key), Some(signature)) = (key.subject_public_key.as_bytes(), self.0.signature().as_bytes()) else {
            return false;
        };
        let fitting = algorithms.iter().filter(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == key_type && algorithm.signature_alg_id().as_ref() == signed_with
        });
        fitting.into_iter().any(|algorithm| algorithm.verify_signature(key, &message, signature).is_ok())
    }
}

/// An algorithm as rustls names it: in DER, without the head of the sequence.
fn parameters(algorithm: &AlgorithmIdentifierOwned) -> Result<Vec<u8>, Error> {
    let algorithm = algorithm.owned_to_ref();
    let mut bytes = algorithm.oid.to_der()?;
    if let Some(parameters) = algorithm.parameters {
        bytes.extend(parameters.to_der()?);
    }
    Ok(bytes)
}

/// The public key in DER, and the algorithm that it is for, as rustls names it.
pub(crate) fn key_type(key: &SubjectPublicKeyInfoDer<'_>) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let key = x509_cert::spki::SubjectPublicKeyInfoOwned::from_der(key)?;
    Ok((parameters(&key.algorithm)?, key.subject_public_key.raw_bytes().to_vec()))
}
