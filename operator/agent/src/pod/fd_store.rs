//! Keeps the server's sockets while its container is replaced: between two containers connections wait in the listen queue
//! and none is refused. The launcher hands the sockets over when it has opened them, and takes them back when it starts anew:
//! whichever of the two is replaced gets them from the other.
//!
//! What is said, over a Unix stream: the fd store begins with one byte, `KEPT` with the sockets or `NONE`; the launcher answers
//! with `KEPT` and the sockets it uses, with `CRASHED` for each server process that did, and with `LEAVING` before it ends on
//! purpose. One that ends without `LEAVING` crashed itself. The fd store answers `CRASHED` with `READY`, and begins, only when
//! the agent has prepared the repository for the next process.

use std::{
    convert::Infallible,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// Follows sockets.
const KEPT: u8 = b'k';
/// There are none.
const NONE: u8 = b'n';
/// The server crashed, and another one was started in its place.
const CRASHED: u8 = b'c';
/// The agent is prepared for the next server process.
const READY: u8 = b'r';
/// The launcher ends on purpose.
const LEAVING: u8 = b'l';

/// How long connections wait in the listen queue for a container that does not come back: the kubelet restarts one that was
/// well in a second or two. Beyond that they are refused, and callers may try elsewhere.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to reach the fd store.
const AGAIN: Duration = Duration::from_millis(200);
/// Crashes that are acknowledged while no agent is there to do so.
pub(super) const NOBODY: u32 = u32::MAX;
/// How long a server process waits for the agent to prepare its start.
const PREPARATION: Duration = Duration::from_secs(2);
/// Sockets handed over at once, at most.
const MOST: usize = 8;

// === the agent's side ===

/// What the agent has to know of server processes.
#[derive(Debug)]
pub(super) enum Notice {
    /// One is about to start; it waits until this is answered.
    Starting(oneshot::Sender<()>),
    /// One ended on purpose.
    Left,
}

/// Where launchers are expected. A socket of that name that an agent left behind is replaced.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Keeps sockets for the launchers that come, one after the other, and counts the crashes they report.
pub(super) async fn keep(listener: UnixListener, crashes: watch::Sender<u32>, notices: mpsc::UnboundedSender<Notice>) {
    let mut kept: Option<(Vec<OwnedFd>, Instant)> = None;
    loop {
        let until = kept.as_ref().map(|(_, until)| *until);
        let launcher = tokio::select! {
            came = listener.accept() => came,
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                tracing::warn!("the server has not come back: its sockets are closed");
                kept = None;
                continue;
            }
        };
        let launcher = match launcher {
            Ok((launcher, _)) => launcher,
            Err(error) => {
                tracing::warn!(%error, "cannot take the launcher's connection");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        kept = match attend(&launcher, kept.map(|(kept, _)| kept), &crashes, &notices).await {
            Ok(kept) => kept.map(|kept| (kept, Instant::now() + PATIENCE)),
            Err(error) => {
                tracing::warn!(%error, "the launcher cannot be understood");
                None
            }
        };
    }
}

/// Serves one launcher to its end. Returns what is to be kept for the next.
async fn attend(
    launcher: &UnixStream,
    before: Option<Vec<OwnedFd>>,
    crashes: &watch::Sender<u32>,
    notices: &mpsc::UnboundedSender<Notice>,
) -> io::Result<Option<Vec<OwnedFd>>> {
    prepared(notices).await;
    match before {
        Some(kept) => {
            tracing::info!("the server takes its sockets back");
            send(launcher, KEPT, &kept).await?;
        }
        None => send(launcher, NONE, &[]).await?,
    }
    let mut kept = None;
    loop {
        match receive(launcher).await? {
            Some((KEPT, sockets)) if !sockets.is_empty() => kept = Some(sockets),
            Some((CRASHED, _)) => {
                crashes.send_modify(|count| *count = count.saturating_add(1));
                prepared(notices).await;
                send(launcher, READY, &[]).await?;
            }
            Some((LEAVING, _)) => {
                let _ = notices.send(Notice::Left); // an agent that has ended needs no notice
                return Ok(None);
            }
            Some((other, _)) => return Err(io::Error::other(format!("it said {other}"))),
            None => return Ok(kept),
        }
    }
}

/// Waits until the agent has prepared the start of a server process, or does not come to it.
async fn prepared(notices: &mpsc::UnboundedSender<Notice>) {
    let (done, prepared) = oneshot::channel();
    if notices.send(Notice::Starting(done)).is_err() || tokio::time::timeout(PREPARATION, prepared).await.is_err() {
        tracing::warn!("the server starts before the agent has prepared it");
    }
}

// === the launcher's side ===

/// A connection to the fd store and the sockets it had, if it had any. `None` where nobody keeps.
pub(super) async fn ask(path: &Path) -> Option<(UnixStream, Vec<OwnedFd>)> {
    let store = UnixStream::connect(path).await.ok()?;
    match tokio::time::timeout(PATIENCE, receive(&store)).await {
        Ok(Ok(Some((_, sockets)))) => Some((store, sockets)),
        _ => None,
    }
}

/// Sees to it that the fd store has the sockets, whenever it is there, and reports crashes to it, which `crashes` counts;
/// `store` is the connection so far. `acknowledged` counts the crashes after which the agent has prepared another start; it is
/// [`NOBODY`] while no agent is there. Never returns.
pub(super) async fn hand_over(
    path: &Path,
    mut store: Option<UnixStream>,
    sockets: &[OwnedFd],
    mut crashes: watch::Receiver<u32>,
    acknowledged: &watch::Sender<u32>,
) -> Infallible {
    let mut sent = 0;
    loop {
        if let Some(store) = &store
            && send(store, KEPT, sockets).await.is_ok()
        {
            acknowledged.send_replace(sent);
            loop {
                tokio::select! {
                    () = more_than(&mut crashes, sent) => {
                        if send(store, CRASHED, &[]).await.is_err() {
                            break;
                        }
                        sent += 1;
                    }
                    word = receive(store) => match word {
                        Ok(Some((READY, _))) => drop(acknowledged.send_replace(sent)),
                        _ => break, // its end
                    },
                }
            }
        }
        acknowledged.send_replace(NOBODY);
        tokio::time::sleep(AGAIN).await;
        store = ask(path).await.map(|(store, _)| store);
    }
}

/// Waits until more than `sent` crashes are counted; for ever once nobody counts.
async fn more_than(crashes: &mut watch::Receiver<u32>, sent: u32) {
    if crashes.wait_for(|count| *count > sent).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until the agent has prepared the start after that many crashes, or does not come to it, or is not there.
pub(super) async fn acknowledged(crashes: u32, acknowledged: &watch::Sender<u32>) {
    let mut acknowledged = acknowledged.subscribe();
    let _ = tokio::time::timeout(PREPARATION, acknowledged.wait_for(|count| *count >= crashes)).await;
}

/// Reports to the fd store that the server has ended on purpose. To be called when nobody hands over any more: the fd store listens to
/// one launcher at a time.
pub(super) async fn leave(path: &Path) {
    if let Some((store, _)) = ask(path).await {
        let _ = send(&store, LEAVING, &[]).await;
    }
}

// === both ===

async fn send(stream: &UnixStream, word: u8, sockets: &[OwnedFd]) -> io::Result<()> {
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let work = || {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("too many sockets"));
        }
        Ok(sendmsg(stream, &[io::IoSlice::new(&[word])], &mut control, SendFlags::NOSIGNAL)?)
    };
    stream.async_io(Interest::WRITABLE, work).await.map(drop)
}

/// One word and the sockets that came with it; `None` at the end.
async fn receive(stream: &UnixStream) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let work = || {
        let mut word = [0];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(stream, &mut [io::IoSliceMut::new(&mut word)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let sockets: Vec<_> = sockets.flatten().collect();
        Ok((received.bytes > 0).then_some((word[0], sockets)))
    };
    match stream.async_io(Interest::READABLE, work).await {
        // it died with something unread: an end like any other
        Err(error) if Errno::from_io_error(&error) == Some(Errno::CONNRESET) => Ok(None),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpListener, TcpStream},
        sync::{Arc, Mutex},
    };

    use tokio::task::JoinHandle;

    use super::*;

    struct Harness {
        folder: tempfile::TempDir,
        store: JoinHandle<()>,
        /// As the launcher counts them, and as the fd store does.
        crashes: [watch::Sender<u32>; 2],
        acknowledged: watch::Sender<u32>,
        notices: (mpsc::UnboundedSender<Notice>, Arc<Mutex<Vec<&'static str>>>),
    }

    impl Harness {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let crashes = [watch::Sender::new(0), watch::Sender::new(0)];
            let (notices, mut inbox) = mpsc::unbounded_channel();
            let seen: Arc<Mutex<Vec<&'static str>>> = Arc::default();
            let log = Arc::clone(&seen);
            tokio::spawn(async move {
                while let Some(notice) = inbox.recv().await {
                    match notice {
                        Notice::Starting(done) => {
                            log.lock().unwrap().push("starting");
                            let _ = done.send(());
                        }
                        Notice::Left => log.lock().unwrap().push("left"),
                    }
                }
            });
            let store = start(&folder.path().join("sock"), &crashes[1], &notices);
            Self { folder, store, crashes, acknowledged: watch::Sender::new(NOBODY), notices: (notices, seen) }
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("sock")
        }

        /// A launcher with a socket of its own, once the fd store knows of it.
        async fn launcher(&self) -> (JoinHandle<Infallible>, SocketAddr) {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            let (path, (connection, kept)) = (self.path(), ask(&self.path()).await.unwrap());
            assert!(kept.is_empty());
            let (crashes, acknowledged) = (self.crashes[0].subscribe(), self.acknowledged.clone());
            let launcher = tokio::spawn(async move {
                hand_over(&path, Some(connection), &[socket.into()], crashes, &acknowledged).await
            });
            (launcher, address)
        }

        /// Waits until the launcher has handed its sockets over and had so many crashes acknowledged, or for [`NOBODY`] until it
        /// has seen that the fd store is gone.
        async fn acknowledges(&self, crashes: u32) {
            let mut acknowledged = self.acknowledged.subscribe();
            let reached = acknowledged.wait_for(|count| *count == crashes);
            tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap().unwrap();
        }

        /// What the next launcher is given. It comes once the last one has gone.
        async fn next(&self) -> Vec<OwnedFd> {
            ask(&self.path()).await.unwrap().1
        }
    }

    fn start(path: &Path, crashes: &watch::Sender<u32>, notices: &mpsc::UnboundedSender<Notice>) -> JoinHandle<()> {
        tokio::spawn(keep(listen(path).unwrap(), crashes.clone(), notices.clone()))
    }

    async fn end<T>(task: JoinHandle<T>) {
        task.abort();
        let _ = task.await;
    }

    #[tokio::test]
    async fn sockets_outlive_a_launcher_that_crashes() {
        let harness = Harness::new();
        let (launcher, address) = harness.launcher().await;
        harness.acknowledges(0).await;
        end(launcher).await;
        let mut in_line = TcpStream::connect(address).unwrap();
        let kept = harness.next().await;
        assert_eq!(kept.len(), 1);
        let listener = TcpListener::from(kept.into_iter().next().unwrap());
        assert_eq!(listener.local_addr().unwrap(), address);
        let (mut taken, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut taken, b"hello").unwrap();
        drop(taken);
        let mut said = String::new();
        std::io::Read::read_to_string(&mut in_line, &mut said).unwrap();
        assert_eq!(said, "hello");
    }

    #[tokio::test]
    async fn sockets_of_a_launcher_that_leaves_are_closed() {
        let harness = Harness::new();
        let (launcher, address) = harness.launcher().await;
        harness.acknowledges(0).await;
        end(launcher).await;
        leave(&harness.path()).await;
        assert!(harness.next().await.is_empty());
        assert!(TcpStream::connect(address).is_err());
        assert_eq!(harness.notices.1.lock().unwrap().as_slice(), ["starting", "starting", "left", "starting"]);
    }

    #[tokio::test]
    async fn an_agent_that_is_replaced_is_given_them_again() {
        let mut harness = Harness::new();
        let (launcher, address) = harness.launcher().await;
        harness.acknowledges(0).await;
        end(std::mem::replace(&mut harness.store, tokio::spawn(async {}))).await;
        harness.acknowledges(NOBODY).await;
        harness.store = start(&harness.path(), &harness.crashes[1], &harness.notices.0);
        harness.acknowledges(0).await;
        end(launcher).await;
        let kept = harness.next().await;
        assert_eq!(kept.len(), 1);
        TcpStream::connect(address).unwrap();
    }

    #[tokio::test]
    async fn crashes_are_counted_even_those_that_nobody_was_there_to_hear_of() {
        let mut harness = Harness::new();
        let (_launcher, _) = harness.launcher().await;
        harness.acknowledges(0).await;
        harness.crashes[0].send_replace(2);
        harness.acknowledges(2).await;
        assert_eq!(*harness.crashes[1].borrow(), 2);
        acknowledged(2, &harness.acknowledged).await;
        assert_eq!(harness.notices.1.lock().unwrap().as_slice(), ["starting"; 3]);
        end(std::mem::replace(&mut harness.store, tokio::spawn(async {}))).await;
        harness.acknowledges(NOBODY).await;
        harness.crashes[0].send_replace(3);
        harness.store = start(&harness.path(), &harness.crashes[1], &harness.notices.0);
        harness.acknowledges(3).await;
        assert_eq!(*harness.crashes[1].borrow(), 3);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_server_that_does_not_come_back() {
        let harness = Harness::new();
        let (launcher, address) = harness.launcher().await;
        harness.acknowledges(0).await;
        end(launcher).await;
        TcpStream::connect(address).unwrap();
        // time passes as soon as nobody has anything to do
        let begun = Instant::now();
        tokio::time::pause();
        while TcpStream::connect(address).is_ok() {
            assert!(begun.elapsed() < PATIENCE * 10, "the sockets are never closed");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::resume();
        assert!(begun.elapsed() >= PATIENCE, "callers wait for as long as a container may take");
        assert!(harness.next().await.is_empty());
    }

    #[tokio::test]
    async fn without_an_fd_store_there_is_nothing_to_take_back() {
        assert!(ask(&tempfile::tempdir().unwrap().path().join("sock")).await.is_none());
    }
}
