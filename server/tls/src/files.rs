//! The files with certificates and keys, and every reason why they cannot be used.

use std::{fmt, fs::File, io::Read, path::PathBuf};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error as PemError, PemObject},
};

/// Largest file read, in bytes: bundles of roots have some hundred kilobytes.
const MAX_LENGTH: u64 = 4 << 20;

/// A file, and the flag that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemFile {
    /// Without the dashes.
    pub flag: &'static str,
    /// Where it is. It is looked up anew at each look, so it may be a link that is changed.
    pub path: PathBuf,
}

impl fmt::Display for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} '{}'", self.flag, self.path.display())
    }
}

/// Where the certificates of one front end are, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate of the server, and after it those that lead to its root, if there are any.
    pub certificate: PemFile,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PemFile,
    /// Roots of the certificates that clients must bring; `None` asks clients for none.
    pub client_roots: Option<PemFile>,
}

/// What the files hold, compared to know whether they have changed.
#[derive(PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) client_roots: Option<Vec<u8>>,
}

/// Why certificates cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} {problem}")]
pub struct LoadError {
    pub(crate) file: PemFile,
    pub(crate) problem: Problem,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("is not a file: give the path of a file in PEM")]
    NotAFile,
    #[error("is empty: expected PEM")]
    Empty,
    #[error("has more than {MAX_LENGTH} bytes: give a file with certificates only")]
    TooLarge,
    #[error("holds no {0}: expected PEM with a line '-----BEGIN {1}-----'")]
    NothingInside(&'static str, &'static str),
    #[error("is not PEM: {0}")]
    NotPem(String),
    #[error("holds a certificate that cannot be read: {0}")]
    BadCertificate(String),
    #[error("holds a key that is encrypted: write it without a password, e.g. with openssl pkey -in FILE -out NEW")]
    EncryptedKey,
    #[error(
        "holds a key that cannot be used: {0}. Expected RSA of 2048 to 8192 bits, ECDSA of P-256, P-384 or P-521, or Ed25519"
    )]
    BadKey(String),
    #[error("holds a key that does not belong to the certificate in {0}: give the two that were made together")]
    OtherKey(PemFile),
    #[error("holds a root certificate that cannot be used: {0}")]
    BadRoot(String),
}

impl Problem {
    fn not_pem(error: PemError) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Self::NotPem(match error {
            PemError::MissingSectionEnd { end_marker } => {
                format!("a section '{}' has no end: the file was cut", text(&end_marker))
            }
            PemError::IllegalSectionStart { line } => format!("'{}' begins no section", text(&line)),
            other => other.to_string(),
        })
    }

    pub(crate) fn bad_key(error: rustls::Error) -> Self {
        Self::BadKey(match error {
            rustls::Error::General(text) => text,
            other => other.to_string(),
        })
    }
}

impl PemFile {
    pub(crate) fn fails(&self, problem: Problem) -> LoadError {
        LoadError { file: self.clone(), problem }
    }

    /// Errors: not a file, too large, empty, or not readable.
    fn read(&self) -> Result<Vec<u8>, LoadError> {
        let read = || {
            let file = File::open(&self.path)?;
            if !file.metadata()?.is_file() {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            file.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        };
        match read() {
            Err(error) => Err(self.fails(Problem::Unreadable(std::io::Error::to_string(&error)))),
            Ok(None) => Err(self.fails(Problem::NotAFile)),
            Ok(Some(bytes)) if bytes.is_empty() => Err(self.fails(Problem::Empty)),
            Ok(Some(bytes)) if bytes.len() as u64 > MAX_LENGTH => Err(self.fails(Problem::TooLarge)),
            Ok(Some(bytes)) => Ok(bytes),
        }
    }

    /// Every certificate in these bytes, in order: at least one.
    pub(crate) fn certificates(&self, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, LoadError> {
        let found: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(bytes).collect();
        match found {
            Ok(found) if found.is_empty() => Err(self.fails(Problem::NothingInside("certificate", "CERTIFICATE"))),
            Ok(found) => Ok(found),
            Err(error) => Err(self.fails(Problem::not_pem(error))),
        }
    }

    /// The first private key in these bytes.
    pub(crate) fn key(&self, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, LoadError> {
        let contains = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        if contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED") {
            return Err(self.fails(Problem::EncryptedKey));
        }
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
            self.fails(match error {
                PemError::NoItemsFound => Problem::NothingInside("private key", "PRIVATE KEY"),
                error => Problem::not_pem(error),
            })
        })
    }
}

impl Files {
    /// Reads all of them.
    ///
    /// Errors: the first that cannot be read.
    pub(crate) fn read(&self) -> Result<Contents, LoadError> {
        Ok(Contents {
            certificate: self.certificate.read()?,
            key: self.key.read()?,
            client_roots: self.client_roots.as_ref().map(PemFile::read).transpose()?,
        })
    }
}
