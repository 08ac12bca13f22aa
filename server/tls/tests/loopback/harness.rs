//! A folder with certificates, an acceptor that uses them, and clients of rustls.

use std::{fs, io, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use server_tls::{AcceptError, Acceptor, Files, LoadError, PemFile, Protocol, Reloader, Stream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate authority.
pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "root of the tests");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What a certificate says, before somebody signs it.
pub(crate) fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn issue(authority: &Authority, params: &CertificateParams) -> Pair {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// A pair of the folder `fixtures`, of version 1 as `openssl x509 -req` makes them.
pub(crate) fn fixture(name: &str) -> Pair {
    let read = |end| fs::read_to_string(format!("{}/tests/loopback/fixtures/{name}.{end}", env!("CARGO_MANIFEST_DIR")));
    Pair { certificate: read("crt").unwrap(), key: read("key").unwrap_or_default() }
}

/// Files `server.crt`, `server.key` and, if there are roots, `root.crt`.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    pub(crate) fn with(pair: &Pair) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("server.crt", &pair.certificate);
        folder.write("server.key", &pair.key);
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn files(&self) -> Files {
        let file = |flag, name| PemFile { flag, path: self.path(name) };
        let roots = self.path("root.crt").exists().then(|| file("root-cert", "root.crt"));
        Files {
            certificate: file("server-cert", "server.crt"),
            key: file("server-key", "server.key"),
            client_roots: roots,
        }
    }

    pub(crate) fn load(&self) -> Result<(Acceptor, Reloader), LoadError> {
        Acceptor::load(self.files(), Protocol::Http1)
    }

    /// What is wrong with the files, without the name of the folder.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        let error = self.load().err().expect("something is wrong with the files");
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

/// How clients speak to the server: whom they believe, and who they are.
pub(crate) fn client(
    root: &str,
    identity: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(Pair { certificate, key }) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap();
            // not compared with the certificate: some clients lie
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
        }
    }
}

/// The ends of a new connection.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// One handshake, as both ends see it.
pub(crate) async fn handshake(
    acceptor: &Acceptor,
    client: ClientConfig,
) -> (io::Result<TlsStream<TcpStream>>, Result<Stream, AcceptError>) {
    let (ours, theirs) = sockets().await;
    let name = ServerName::try_from("localhost").unwrap();
    tokio::join!(TlsConnector::from(Arc::new(client)).connect(name, ours), acceptor.accept(theirs))
}
