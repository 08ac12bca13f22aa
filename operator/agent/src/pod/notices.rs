//! What the launcher tells the agent beside it: that a server process is about to start, that one crashed, that one ended on purpose.
//! Each is one line over a Unix socket in scratch space, on a connection of its own; the agent answers with the same line once it has
//! acted upon it. A launcher whose agent is not there goes on without.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

/// How long a server process waits for the agent to prepare its start.
const PREPARATION: Duration = Duration::from_secs(2);
/// How long either side may take with a line.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts to report a crash, or to take a connection.
const AGAIN: Duration = Duration::from_millis(500);

/// What the launcher says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// A server process is about to start.
    Starting,
    /// One crashed, and another one is started in its place.
    Crashed,
    /// One ended on purpose.
    Left,
}

impl Word {
    const ALL: [Self; 3] = [Self::Starting, Self::Crashed, Self::Left];

    const fn line(self) -> &'static str {
        match self {
            Self::Starting => "starting\n",
            Self::Crashed => "crashed\n",
            Self::Left => "left\n",
        }
    }
}

// === the agent's side ===

/// What the agent has to act upon.
#[derive(Debug)]
pub(super) enum Notice {
    /// A server process is about to start; it waits until this is answered.
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

/// Hears launchers, one line after the other, and counts the crashes they report.
pub(super) async fn hear(listener: UnixListener, crashes: watch::Sender<u32>, notices: mpsc::UnboundedSender<Notice>) {
    loop {
        match listener.accept().await {
            Ok((launcher, _)) => {
                let heard = timeout(PATIENCE, attend(launcher, &crashes, &notices)).await;
                if let Err(error) = heard.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    tracing::warn!(%error, "the launcher cannot be understood");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take the launcher's connection");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn attend(
    mut launcher: UnixStream,
    crashes: &watch::Sender<u32>,
    notices: &mpsc::UnboundedSender<Notice>,
) -> io::Result<()> {
    let word = read(&mut launcher).await?;
    match word {
        Word::Starting => {
            let (done, prepared) = oneshot::channel();
            if notices.send(Notice::Starting(done)).is_err() || timeout(PREPARATION, prepared).await.is_err() {
                tracing::warn!("the server starts before the agent has prepared it");
            }
        }
        Word::Crashed => crashes.send_modify(|count| *count = count.saturating_add(1)),
        Word::Left => drop(notices.send(Notice::Left)), // an agent that has ended needs no notice
    }
    launcher.write_all(word.line().as_bytes()).await
}

// === the launcher's side ===

/// Says `word`, and waits until the agent has acted upon it.
///
/// Errors: no agent is there, or it does not answer.
pub(super) async fn tell(path: &Path, word: Word) -> io::Result<()> {
    let say = async {
        let mut agent = UnixStream::connect(path).await?;
        agent.write_all(word.line().as_bytes()).await?;
        match read(&mut agent).await? {
            answer if answer == word => Ok(()),
            answer => Err(io::Error::other(format!("the agent answers {answer:?} to {word:?}"))),
        }
    };
    timeout(PATIENCE, say).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reports each crash that `crashes` counts, also those of which nobody was there to hear. Never returns.
pub(super) async fn tell_crashes(path: &Path, mut crashes: watch::Receiver<u32>) -> std::convert::Infallible {
    let mut told = 0;
    loop {
        if crashes.wait_for(|count| *count > told).await.is_err() {
            std::future::pending::<()>().await; // nobody counts any more
        }
        match tell(path, Word::Crashed).await {
            Ok(()) => told += 1,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

// === both ===

/// One line. Whatever else comes is no word.
async fn read(stream: &mut UnixStream) -> io::Result<Word> {
    let longest = Word::ALL.iter().map(|word| word.line().len()).max().unwrap_or_default();
    let mut line = Vec::with_capacity(longest);
    while line.len() < longest && line.last() != Some(&b'\n') {
        line.push(stream.read_u8().await?);
    }
    let known = Word::ALL.into_iter().find(|word| word.line().as_bytes() == line);
    known.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, String::from_utf8_lossy(&line).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::{Arc, Mutex},
    };

    use tokio::task::JoinHandle;

    use super::*;

    struct Agent {
        _folder: tempfile::TempDir,
        path: PathBuf,
        hearing: JoinHandle<()>,
        crashes: watch::Sender<u32>,
        acted: Arc<Mutex<Vec<&'static str>>>,
        notices: mpsc::UnboundedSender<Notice>,
    }

    impl Agent {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("sock");
            let (notices, mut inbox) = mpsc::unbounded_channel();
            let acted: Arc<Mutex<Vec<_>>> = Arc::default();
            let log = Arc::clone(&acted);
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
            let crashes = watch::Sender::new(0);
            let hearing = tokio::spawn(hear(listen(&path).unwrap(), crashes.clone(), notices.clone()));
            Self { _folder: folder, path, hearing, crashes, acted, notices }
        }

        async fn stop(&mut self) {
            self.hearing.abort();
            let _ = (&mut self.hearing).await;
        }

        fn restart(&mut self) {
            self.hearing = tokio::spawn(hear(listen(&self.path).unwrap(), self.crashes.clone(), self.notices.clone()));
        }

        async fn has_counted(&self, crashes: u32) {
            let mut counted = self.crashes.subscribe();
            timeout(Duration::from_secs(30), counted.wait_for(|count| *count == crashes)).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_told_has_been_acted_upon() {
        let agent = Agent::new();
        tell(&agent.path, Word::Starting).await.unwrap();
        assert_eq!(*agent.acted.lock().unwrap(), ["starting"]);
        tell(&agent.path, Word::Crashed).await.unwrap();
        assert_eq!(*agent.crashes.borrow(), 1);
        tell(&agent.path, Word::Left).await.unwrap();
        tell(&agent.path, Word::Starting).await.unwrap();
        assert_eq!(*agent.acted.lock().unwrap(), ["starting", "left", "starting"]);
    }

    #[tokio::test]
    async fn crashes_are_counted_even_those_that_nobody_was_there_to_hear_of() {
        let mut agent = Agent::new();
        let crashes = watch::Sender::new(0);
        let (path, counted) = (agent.path.clone(), crashes.subscribe());
        let telling = tokio::spawn(async move { tell_crashes(&path, counted).await });
        crashes.send_replace(2);
        agent.has_counted(2).await;
        agent.stop().await;
        assert!(tell(&agent.path, Word::Starting).await.is_err(), "the next server does not wait for it");
        crashes.send_replace(3);
        tokio::task::yield_now().await;
        agent.restart();
        agent.has_counted(3).await;
        telling.abort();
    }

    #[tokio::test]
    async fn junk_and_silence_hold_up_nobody_for_long() {
        let agent = Agent::new();
        let _silent = UnixStream::connect(&agent.path).await.unwrap();
        for junk in [b"starting".as_slice(), b"crashed 9\n", &[0; 4096], b"\n"] {
            let mut stream = UnixStream::connect(&agent.path).await.unwrap();
            let _ = stream.write_all(junk).await;
        }
        let mut attempts = 0;
        while tell(&agent.path, Word::Starting).await.is_err() {
            attempts += 1;
            assert!(attempts < 10, "it hears nobody any more");
        }
        assert_eq!(*agent.crashes.borrow(), 0);
    }
}
