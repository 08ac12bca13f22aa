//! For tests of the front ends: certificates, what encrypts a server with them, and clients that believe in them.

use std::{fs, net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use server_tls::{Acceptor, Files, PemFile, Protocol};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate that a server has and clients believe in.
#[derive(Clone)]
pub(crate) struct Encrypting {
    pub(crate) acceptor: Acceptor,
    connector: TlsConnector,
}

impl Encrypting {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = |flag, text: String| {
            let path = folder.path().join(flag);
            fs::write(&path, text).unwrap();
            PemFile { flag, path }
        };
        let files = Files {
            certificate: file("server-cert", made.cert.pem()),
            key: file("server-key", made.signing_key.serialize_pem()),
            client_roots: None,
        };
        let (acceptor, _) = Acceptor::load(files, protocol).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { acceptor, connector: TlsConnector::from(Arc::new(client)) }
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(address).await.unwrap();
        self.connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap()
    }
}
