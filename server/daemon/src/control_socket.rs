//! The control socket: a Unix socket that only the server's own user can connect to. It lies in the file system, so it replaces
//! what a server left behind that was killed, and is removed at the end.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;
/// Who may connect: the user that the server runs as.
const MODE: u32 = 0o600;
/// Longest path of a Unix socket. Units: bytes. Source: unix(7), `sun_path` without its final zero.
const LONGEST_PATH: usize = 107;

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to start Control service: Unavailable - {0}")]
pub(crate) struct ControlSocketError(#[from] Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("Socket '{}' already in use: another server answers there. Give --control-socket another path", .0.display())]
    InUse(PathBuf),
    #[error("'{}' is there and is no socket: remove it, or give --control-socket another path", .0.display())]
    NoSocket(PathBuf),
    #[error("the path of a Unix socket has at most {LONGEST_PATH} bytes, '{}' has {}", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    #[error("Socket '{}' cannot be opened: its folder does not exist. Create it first", .0.display())]
    NoFolder(PathBuf),
    #[error("Socket '{}' cannot be opened: {error}", path.display())]
    Refused { path: PathBuf, error: io::Error },
}

/// The socket's file. Removed when this is dropped, unless another server has replaced it.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl ControlSocket {
    /// Opens the socket at that path. Call it within the runtime.
    ///
    /// Errors: something else is there, or a server that answers; there is no such folder; the path is too long.
    pub(crate) async fn open(path: &Path) -> Result<(Self, UnixListener), ControlSocketError> {
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(Cause::TooLong(path.to_owned()).into());
        }
        make_room(path).await?;
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Cause::NoFolder(path.to_owned()),
            _ => Cause::Refused { path: path.to_owned(), error },
        };
        Ok(Self::bind(path).map_err(refused)?)
    }

    fn bind(path: &Path) -> io::Result<(Self, UnixListener)> {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = Self { path: path.to_owned(), identity: identity(path) };
        // before it listens: until then nobody can connect
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        Ok((file, socket.listen(BACKLOG)?))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path); // the next server replaces it
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Removes the socket of a server that is gone.
async fn make_room(path: &Path) -> Result<(), Cause> {
    let refused = |error| Cause::Refused { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()), // nothing there, or opening tells why
        Ok(found) if !found.file_type().is_socket() => return Err(Cause::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        // the latter: it is there, and has more callers than it takes
        Ok(_) => Err(Cause::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Cause::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(refused),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    async fn refusal(path: &Path) -> String {
        ControlSocket::open(path).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_socket_is_the_users_own_and_goes_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (file, listener) = ControlSocket::open(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_killed_server_left_is_replaced_and_what_another_has_made_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(StdListener::bind(&path).unwrap()); // closing a socket leaves its file
        assert!(path.exists());
        let (file, _listener) = ControlSocket::open(&path).await.unwrap();
        assert!(UnixStream::connect(&path).await.is_ok());
        fs::remove_file(&path).unwrap();
        let _other = StdListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists(), "it is another server's");
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_named_with_the_cure_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let shown = path.display();
        let begin = "failed to start Control service: Unavailable - ";

        fs::write(&path, "mine").unwrap();
        let expect =
            format!("{begin}'{shown}' is there and is no socket: remove it, or give --control-socket another path");
        assert_eq!(refusal(&path).await, expect);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(&path).unwrap();

        let _alive = StdListener::bind(&path).unwrap();
        let expect = format!(
            "{begin}Socket '{shown}' already in use: another server answers there. Give --control-socket another path"
        );
        assert_eq!(refusal(&path).await, expect);

        let nowhere = folder.path().join("no/such/folder.sock");
        assert!(refusal(&nowhere).await.ends_with("its folder does not exist. Create it first"));
        let long = folder.path().join("x".repeat(107));
        let length = long.as_os_str().len();
        let text = refusal(&long).await;
        assert!(text.contains("has at most 107 bytes") && text.ends_with(&format!("has {length}")), "{text}");
        assert!(refusal(Path::new("/dev/null/control.sock")).await.contains("cannot be opened: Not a directory"));
    }
}
