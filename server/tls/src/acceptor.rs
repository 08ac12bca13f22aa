//! Makes encrypted streams of sockets.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::{
    Stream,
    encrypted::Encrypted,
    files::{Files, LoadError},
    identity::Identity,
    protocol::Protocol,
    reload::Reloader,
    transport::Transport,
};

/// The first byte of everything a client of TLS sends first: the type of a handshake record.
const HANDSHAKE: u8 = 0x16;

/// Why a socket did not become an encrypted stream.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// What came is not TLS, and is still to be read.
    #[error("the client does not speak TLS")]
    NotTls(TcpStream),
    /// The handshake failed.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// Accepts encrypted connections to one front end. Clones share the certificates.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    files: Files,
    protocol: Protocol,
    current: ArcSwap<ServerConfig>,
}

impl Acceptor {
    /// Reads the files. What [`Self::follow`] does with the second value is to look for changes of them.
    ///
    /// Errors: what is wrong with which file. A certificate that has expired is taken, with a warning: most clients refuse it.
    pub fn load(files: Files, protocol: Protocol) -> Result<(Self, Reloader), LoadError> {
        let contents = files.read()?;
        let identity = Identity::new(&files, &contents, protocol)?;
        let current = ArcSwap::new(identity.config.clone());
        let acceptor = Self(Arc::new(Shared { files, protocol, current }));
        let mut reloader = Reloader::new(contents, identity);
        reloader.warn_if_expired(&acceptor.0.files, since_1970());
        Ok((acceptor, reloader))
    }

    /// Takes one client's handshake. How long it may take is for the caller to decide: dropping the future drops the socket.
    ///
    /// Errors: the client does not speak TLS, has no certificate that is asked for, or is gone.
    pub async fn accept(&self, socket: TcpStream) -> Result<Stream, AcceptError> {
        let mut first = [HANDSHAKE];
        socket.peek(&mut first).await?;
        if first != [HANDSHAKE] {
            return Err(AcceptError::NotTls(socket));
        }
        let acceptor = TlsAcceptor::from(self.0.current.load_full());
        let stream = acceptor.accept(Transport::new(socket)).await?;
        Ok(Stream::Tls(Box::new(Encrypted(stream))))
    }

    /// Looks at the files again and again, and uses what they hold for the connections that come, once it is good. Never
    /// ends. Connections that are there stay as they are.
    pub async fn follow(self, mut reloader: Reloader, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let shared = self.0.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let contents = shared.files.read();
                if let Some(config) = reloader.look(&shared.files, shared.protocol, contents) {
                    shared.current.store(config);
                }
                reloader.warn_if_expired(&shared.files, since_1970());
                reloader
            });
            match looked.await {
                Ok(back) => reloader = back,
                Err(error) => return tracing::error!("certificates are no longer followed: {error}"),
            }
        }
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acceptor").field(&self.0.files).field(&self.0.protocol).finish()
    }
}
