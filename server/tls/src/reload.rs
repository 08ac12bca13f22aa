//! Decides what a look at the files changes. Files are written one after another, so a pair that does not fit may only be
//! half written: it is complained about once it has stayed the same from one look to the next, and once.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tracing::{info, warn};

use crate::{
    files::{Contents, Files, LoadError},
    identity::Identity,
    protocol::Protocol,
};

/// What is in use, and what was found last.
pub struct Reloader {
    contents: Contents,
    identity: Identity,
    /// What was found instead and is no good.
    refused: Option<Refused>,
    has_warned_of_end: bool,
}

struct Refused {
    found: Result<Contents, LoadError>,
    has_complained: bool,
}

impl Reloader {
    /// With what is in use.
    pub(crate) fn new(contents: Contents, identity: Identity) -> Self {
        Self { contents, identity, refused: None, has_warned_of_end: false }
    }

    /// Judges what was found; returns what to use from now on, if that is something else.
    pub(crate) fn look(
        &mut self,
        files: &Files,
        protocol: Protocol,
        found: Result<Contents, LoadError>,
    ) -> Option<Arc<ServerConfig>> {
        if found.as_ref().is_ok_and(|found| *found == self.contents) {
            self.refused = None;
            return None;
        }
        let known = self.refused.as_mut().filter(|refused| refused.found == found);
        if known.as_ref().is_some_and(|refused| refused.has_complained) {
            return None;
        }
        let error = match found {
            Ok(found) => match Identity::new(files, &found, protocol) {
                Ok(identity) => {
                    info!("{} was read again: new connections have the new certificate", files.certificate);
                    let config = identity.config.clone();
                    *self = Self::new(found, identity);
                    return Some(config);
                }
                Err(error) => (Ok(found), error.to_string()),
            },
            Err(error) => {
                let text = error.to_string();
                (Err(error), text)
            }
        };
        match (known, error) {
            (Some(refused), (_, error)) => {
                refused.has_complained = true;
                warn!("{error}. The certificate that was read before stays in use");
            }
            (None, (found, _)) => self.refused = Some(Refused { found, has_complained: false }),
        }
        None
    }

    /// Warns, once for each certificate, when it has expired.
    pub(crate) fn warn_if_expired(&mut self, files: &Files, now: Duration) {
        if let Some(end) = self.identity.expired(now).filter(|_| !self.has_warned_of_end) {
            self.has_warned_of_end = true;
            warn!("{} has expired at {end}: clients refuse it. Replace the file; it is read again", files.certificate);
        }
    }

    /// Whether something was complained about that is still there.
    #[cfg(test)]
    fn has_complained(&self) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.has_complained)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::files::{PemFile, Problem};

    fn files() -> Files {
        let file = |flag| PemFile { flag, path: PathBuf::from(flag) };
        Files { certificate: file("server-cert"), key: file("server-key"), client_roots: None }
    }

    fn pair() -> (Vec<u8>, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name is enough");
        (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
    }

    fn contents((certificate, key): (Vec<u8>, Vec<u8>)) -> Contents {
        Contents { certificate, key, client_roots: None }
    }

    fn copy(contents: &Contents) -> Contents {
        Contents { certificate: contents.certificate.clone(), key: contents.key.clone(), client_roots: None }
    }

    fn reloader(first: &Contents) -> Reloader {
        let identity = Identity::new(&files(), first, Protocol::Http1).expect("a good pair");
        Reloader::new(copy(first), identity)
    }

    impl Reloader {
        fn finds(&mut self, found: Result<Contents, LoadError>) -> bool {
            self.look(&files(), Protocol::Http1, found).is_some()
        }
    }

    #[test]
    fn only_what_is_new_and_good_is_taken() {
        let (first, second) = (contents(pair()), contents(pair()));
        let mut reloader = reloader(&first);
        assert!(!reloader.finds(Ok(copy(&first))));
        assert!(reloader.finds(Ok(copy(&second))));
        assert!(!reloader.finds(Ok(copy(&second))));
        assert!(reloader.finds(Ok(first)), "and back");
    }

    #[test]
    fn a_pair_that_is_half_written_is_waited_for_in_silence() {
        let (first, second) = (contents(pair()), contents(pair()));
        let half = Contents { key: first.key.clone(), ..copy(&second) };
        let mut reloader = reloader(&first);
        assert!(!reloader.finds(Ok(half)));
        assert!(!reloader.has_complained());
        assert!(reloader.finds(Ok(second)));
        assert!(!reloader.has_complained());
    }

    #[test]
    fn what_stays_bad_is_complained_about_once() {
        let first = contents(pair());
        let gone = || Err(files().key.fails(Problem::Empty));
        let mut reloader = reloader(&first);
        assert!(!reloader.finds(gone()) && !reloader.has_complained());
        assert!(!reloader.finds(gone()) && reloader.has_complained());
        assert!(!reloader.finds(gone()) && reloader.has_complained());
        // something else that is bad is news
        let other = || Err(files().key.fails(Problem::NotAFile));
        assert!(!reloader.finds(other()) && !reloader.has_complained());
        assert!(!reloader.finds(Ok(copy(&first))));
        assert!(reloader.refused.is_none(), "what is in use is there again");
        assert!(reloader.finds(Ok(contents(pair()))));
    }

    #[test]
    fn an_expired_certificate_is_warned_of_once() {
        let mut reloader = reloader(&contents(pair()));
        reloader.warn_if_expired(&files(), Duration::from_secs(1_000_000_000));
        assert!(!reloader.has_warned_of_end);
        reloader.warn_if_expired(&files(), Duration::from_secs(1_000_000_000_000));
        assert!(reloader.has_warned_of_end);
    }
}
