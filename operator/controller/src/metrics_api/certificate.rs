//! The certificate that the metrics API shows. Either somebody gives it as files, or each process makes one for itself: its key never
//! leaves the memory of the process, so no Secret has to be written or guarded, and the API server is told which certificates to
//! believe (`publish.rs`). It is renewed long before it ends.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::{sync::watch, time::Instant};

use super::publish::{Publisher, Standing};

/// How long a certificate holds.
const HOLDS: Duration = Duration::from_secs(30 * 24 * 3600);
/// After which time another one is made.
const RENEWED: Duration = Duration::from_secs(20 * 24 * 3600);
/// By how much other clocks may be behind.
const SKEW: Duration = Duration::from_secs(3600);
/// How often it is looked whether the API server still believes the certificate, and whether files have changed.
const LOOK: Duration = Duration::from_secs(30);
/// The same after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// How long the API server may take until it believes a new certificate.
const SPREADS: Duration = Duration::from_secs(60);
/// Common name of certificates that are made here.
pub(super) const COMMON_NAME: &str = "triton-operator metrics API";

/// A certificate that was made here.
pub(super) struct Made {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) certificate: CertificateDer<'static>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, io::Error),
    #[error("{0} holds no {1} in PEM")]
    Malformed(String, &'static str),
    #[error("certificate and key do not belong together, or cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    #[error("no certificate can be made: {0}")]
    Unmakable(#[from] rcgen::Error),
}

impl Made {
    /// Makes one for these names, that holds from `now` on.
    pub(super) fn new(names: Vec<String>, now: Timestamp) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        let seconds = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + seconds.saturating_sub(SKEW);
        params.not_after = epoch + (seconds + HOLDS);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.self_signed(&key)?.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = CertifiedKey::from_der(vec![certificate.clone()], key, &aws_lc_rs::default_provider())?;
        Ok(Self { key: Arc::new(key), certificate })
    }
}

/// Where the service is, and what it encrypts with.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Namespace of the Service in front of it.
    pub(crate) namespace: String,
    /// Name of that Service.
    pub(crate) service: String,
    /// Folder with `tls.crt` and `tls.key`; without it, a certificate is made, and the API server told of it.
    pub(crate) certificates: Option<PathBuf>,
}

/// Names under which the API server calls a Service.
fn names(place: &Place) -> Vec<String> {
    let Place { service, namespace, .. } = place;
    vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local")]
}

/// Keeps a certificate in `identity`, for as long as it is polled.
pub(super) async fn keep(client: Client, place: Place, identity: watch::Sender<Option<Arc<CertifiedKey>>>) {
    let mut publisher = Publisher::new(client, place.namespace.clone(), place.service.clone());
    match &place.certificates {
        Some(folder) => {
            tokio::join!(follow_files(folder, &identity), watch_over(&mut publisher));
        }
        None => keep_made(&mut publisher, names(&place), &identity).await,
    }
}

/// Says where the API server is led; nothing is written there.
async fn watch_over(publisher: &mut Publisher) {
    loop {
        publisher.look(None).await;
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes a certificate, has it believed, and makes the next one in time.
async fn keep_made(publisher: &mut Publisher, names: Vec<String>, identity: &watch::Sender<Option<Arc<CertifiedKey>>>) {
    let mut is_first = true;
    loop {
        let made = match Made::new(names.clone(), Timestamp::now()) {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(%error, "the metrics API has no certificate");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let began = Instant::now();
        // the first one is shown at once, since there is no other; a later one when it is believed
        if is_first {
            identity.send_replace(Some(Arc::clone(&made.key)));
        }
        let mut believed_since = None;
        while began.elapsed() < RENEWED {
            let standing = publisher.look(Some(&made.certificate)).await;
            match standing {
                Standing::Ours => believed_since = believed_since.or_else(|| Some(Instant::now())),
                _ => believed_since = None,
            }
            if !is_first && believed_since.is_some_and(|since| since.elapsed() >= SPREADS) {
                identity.send_if_modified(|shown| {
                    let is_new = shown.as_ref().is_none_or(|shown| !Arc::ptr_eq(shown, &made.key));
                    *shown = Some(Arc::clone(&made.key));
                    is_new
                });
            }
            tokio::time::sleep(if standing == Standing::Ours { LOOK } else { RETRY }).await;
        }
        is_first = false;
    }
}

/// Takes certificate and key from files, and takes them anew when they change.
async fn follow_files(folder: &Path, identity: &watch::Sender<Option<Arc<CertifiedKey>>>) {
    let mut known = None;
    let mut was_well = true;
    loop {
        match read(folder) {
            Ok(files) if known.as_ref() == Some(&files) => {}
            Ok(files) => match certified(folder, &files) {
                Ok(key) => {
                    tracing::info!(folder = %folder.display(), "the metrics API has a certificate");
                    identity.send_replace(Some(Arc::new(key)));
                    known = Some(files);
                    was_well = true;
                }
                Err(error) => {
                    if std::mem::take(&mut was_well) {
                        tracing::warn!(%error, "the metrics API goes on with the certificate it has");
                    }
                }
            },
            Err(error) => {
                if std::mem::take(&mut was_well) {
                    tracing::warn!(%error, "the metrics API goes on with the certificate it has");
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Certificate and key, as they are in the files.
type Contents = (Vec<u8>, Vec<u8>);

fn read(folder: &Path) -> Result<Contents, CertificateError> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| CertificateError::Unreadable(path.display().to_string(), error))
    };
    Ok((read("tls.crt")?, read("tls.key")?))
}

fn certified(folder: &Path, (chain, key): &Contents) -> Result<CertifiedKey, CertificateError> {
    let malformed = |name: &str, what| CertificateError::Malformed(folder.join(name).display().to_string(), what);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| malformed("tls.crt", "certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| malformed("tls.key", "private key"))?;
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_as_they_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let take =
            || read(folder.path()).and_then(|files| certified(folder.path(), &files)).map_err(|it| it.to_string());
        assert!(take().unwrap_err().contains("tls.crt cannot be read"));
        let given = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        write("tls.crt", &given.cert.pem());
        write("tls.key", "junk");
        assert!(take().unwrap_err().contains("tls.key holds no private key in PEM"));
        write("tls.key", &other.signing_key.serialize_pem());
        assert!(take().unwrap_err().contains("do not belong together"));
        write("tls.key", &given.signing_key.serialize_pem());
        assert_eq!(take().unwrap().cert, [given.cert.der().clone()]);
        write("tls.crt", "");
        assert!(take().unwrap_err().contains("tls.crt holds no certificate in PEM"));
    }
}
