//! Makes connections to Redis: TCP, TLS if it is asked for, the password, the number of the database.

use std::{fs, path::Path, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, RedisConnectionInfo, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::super::settings::{RedisSettings, TlsSettings};

/// What a connection is made with.
pub(super) struct Connector {
    host: String,
    port: u16,
    connect_timeout: Duration,
    info: RedisConnectionInfo,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    /// Reads the files that are needed.
    ///
    /// Errors: one cannot be read, or is not what it should be: named.
    pub(super) fn new(settings: RedisSettings) -> Result<Self, String> {
        let RedisSettings { host, port, user, password, db, connect_timeout, tls, .. } = settings;
        let mut info = RedisConnectionInfo::default().set_db(db).set_skip_set_lib_name();
        if let Some(user) = &user {
            info = info.set_username(user);
        }
        if let Some(password) = &password {
            info = info.set_password(password);
        }
        let tls = tls.map(|tls| Self::tls(&host, &tls)).transpose()?;
        Ok(Self { host, port, connect_timeout, info, tls })
    }

    fn tls(host: &str, settings: &TlsSettings) -> Result<(TlsConnector, ServerName<'static>), String> {
        let name = settings.sni.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("'{name}' is no name that a certificate can have: give one with 'sni'"))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots(settings)?);
        let config = match (&settings.cert, &settings.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("'key' '{key}': {error}"))?;
                let with_cert = builder.with_client_auth_cert(chain, key);
                with_cert.map_err(|error| format!("'cert' '{cert}' and its 'key': {error}"))?
            }
            _ => return Err("'cert' and 'key' belong together: give both or none".into()),
        };
        Ok((TlsConnector::from(Arc::new(config)), name))
    }

    /// A connection that answers.
    ///
    /// Errors: there is none in time, as a sentence.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let Self { host, port, .. } = self;
        match timeout(self.connect_timeout, self.try_to_connect()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(format!("Redis at {host}:{port}: {error}")),
            Err(_) => Err(format!("Redis at {host}:{port}: no answer within {} ms", self.connect_timeout.as_millis())),
        }
    }

    async fn try_to_connect(&self) -> Result<MultiplexedConnection, String> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut connection = match &self.tls {
            None => self.begin(socket).await?,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), socket).await.map_err(|error| error.to_string())?;
                self.begin(stream).await?
            }
        };
        let answer = connection.req_packed_command(&cmd("PING")).await.and_then(Value::extract_error);
        match answer {
            // other refusals pass: it may be reading its files
            Err(error) if error.code() == Some("NOAUTH") => Err(format!("{error} (give a 'password')")),
            Err(error) if error.is_io_error() || error.is_unrecoverable_error() => Err(error.to_string()),
            _ => Ok(connection),
        }
    }

    async fn begin<S>(&self, stream: S) -> Result<MultiplexedConnection, String>
    where
        S: Unpin + AsyncRead + AsyncWrite + Send + 'static,
    {
        // Whoever asks bounds the time.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let begun = MultiplexedConnection::new_with_config(&self.info, stream, config).await;
        let (connection, driver) = begun.map_err(|error| error.to_string())?;
        tokio::spawn(driver); // until the last clone of the connection is dropped
        Ok(connection)
    }
}

/// The authorities that Redis's certificate may come from: those given, or else the machine's.
fn roots(settings: &TlsSettings) -> Result<RootCertStore, String> {
    let mut certificates_found = Vec::new();
    if let Some(file) = &settings.cacert {
        certificates_found.extend(certificates(file)?);
    }
    if let Some(folder) = &settings.cacert_dir {
        let entries = fs::read_dir(folder).map_err(|error| format!("'cacert_dir' '{folder}': {error}"))?;
        for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
            // other files may lie there
            certificates_found.extend(certificates(entry.path()).unwrap_or_default());
        }
    }
    let is_given = settings.cacert.is_some() || settings.cacert_dir.is_some();
    if !is_given {
        certificates_found = rustls_native_certs::load_native_certs().certs;
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates_found);
    if added == 0 {
        return Err("no certificate of an authority was found: give one with 'cacert' or 'cacert_dir'".into());
    }
    Ok(roots)
}

/// The certificates in a file; at least one.
fn certificates(file: impl AsRef<Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let file = file.as_ref();
    let failed = |why: String| format!("certificate '{}': {why}", file.display());
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() { Err(failed("there is none in it".into())) } else { Ok(certificates) }
}
