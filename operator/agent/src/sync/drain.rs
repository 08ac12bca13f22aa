//! The server out of the Service for a while: not ready, so that callers go elsewhere before what serves is unloaded. It lasts until
//! it is released; should the agent end, the server is ready again once the lease is over.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::load::{CallError, DrainState, Server};

/// How long the server stays out if nothing is heard of the agent any more.
const LEASE: Duration = Duration::from_secs(15);
/// How often the lease is renewed, and what the server says looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long no request may have come, so that nobody sends any more.
const SILENCE: Duration = Duration::from_secs(2);
/// How long it is waited for callers who do not go.
const LONGEST: Duration = Duration::from_secs(30);

/// What the server says of its drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Nothing, so far.
    Nothing,
    Lasts(DrainState),
    /// It cannot drain: it is none of ours, or older.
    Refused,
}

/// Whether what serves may be unloaded, `elapsed` after that was asked. `least`: how long it takes until no new callers are sent.
fn may_unload(seen: Seen, elapsed: Duration, least: Duration) -> bool {
    let is_late = elapsed >= least + LONGEST;
    match seen {
        Seen::Refused => true,
        Seen::Lasts(state) => is_late || (state.lasts >= least && state.silence >= SILENCE),
        Seen::Nothing => is_late,
    }
}

/// The drain of the server beside us, if there is one.
#[derive(Debug)]
pub(super) struct Drains {
    server: Server,
    lease: Mutex<Option<Lease>>,
}

/// Lasts as long as it is held.
#[derive(Debug)]
struct Lease {
    seen: watch::Receiver<Seen>,
    _held: oneshot::Sender<()>,
}

impl Drains {
    pub(super) fn new(server: Server) -> Self {
        Self { server, lease: Mutex::new(None) }
    }

    /// Begins it, or joins the one there is, and waits until nobody sends requests any more, but not for ever.
    pub(super) async fn begin(&self, model: &str, least: Duration) {
        let begun = Instant::now();
        let mut seen = {
            let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
            lease.get_or_insert_with(|| Lease::take(self.server.clone())).seen.clone()
        };
        tracing::info!(model, "waiting for callers to go elsewhere");
        let deadline = begun + least + LONGEST;
        loop {
            let now = *seen.borrow_and_update();
            if may_unload(now, begun.elapsed(), least) {
                tracing::info!(model, elapsed_ms = begun.elapsed().as_millis(), last = ?now, "unloading what serves");
                return;
            }
            // late, or nobody renews it any more
            if !matches!(timeout_at(deadline, seen.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Ends it.
    pub(super) fn release(&self) {
        drop(self.lease.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Lease {
    fn take(server: Server) -> Self {
        let (states, seen) = watch::channel(Seen::Nothing);
        let (held, over) = oneshot::channel();
        tokio::spawn(renew(server, states, over));
        Self { seen, _held: held }
    }
}

/// Renews the lease until its holder is gone, and gives it back then. One call after the other: none that renews it comes late.
async fn renew(server: Server, states: watch::Sender<Seen>, mut over: oneshot::Receiver<()>) {
    loop {
        match server.drain(LEASE).await {
            Ok(state) => drop(states.send_replace(Seen::Lasts(state))),
            Err(CallError::Refused(reason)) => {
                tracing::info!(reason, "the server cannot leave its Service for a while");
                states.send_replace(Seen::Refused);
                let _ = over.await;
                return;
            }
            Err(_) => drop(states.send_replace(Seen::Nothing)),
        }
        if timeout(INTERVAL, &mut over).await.is_ok() {
            break;
        }
    }
    if let Err(error) = server.drain(Duration::ZERO).await {
        tracing::warn!(%error, "the server is ready again once its lease is over");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;
    use crate::load::Address;

    #[test]
    fn it_is_waited_for_silence_once_nobody_new_is_sent_but_not_for_ever() {
        let seconds = Duration::from_secs;
        let least = seconds(10);
        let lasts =
            |lasts, silence| Seen::Lasts(DrainState { lasts: seconds(lasts), requests: 1, silence: seconds(silence) });
        for (seen, elapsed, expect) in [
            (Seen::Nothing, 39, false),
            (Seen::Nothing, 40, true),
            (Seen::Refused, 0, true),
            (lasts(9, 9), 9, false),
            (lasts(10, 10), 10, true),
            (lasts(12, 1), 12, false),
            (lasts(13, 2), 13, true),
            // the server was started anew meanwhile
            (lasts(1, 1), 30, false),
            (lasts(40, 0), 40, true),
        ] {
            assert_eq!(may_unload(seen, seconds(elapsed), least), expect, "{seen:?} after {elapsed} s");
        }
    }

    /// A server that answers drains; with the lease that was asked for last.
    fn server(path: &Path, answer: &'static str) -> Arc<AtomicU64> {
        let listener = UnixListener::bind(path).unwrap();
        let asked = Arc::new(AtomicU64::new(u64::MAX));
        let last = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut text = Vec::new();
                while !text.ends_with(b"}") {
                    text.push(socket.read_u8().await.unwrap());
                }
                let text = String::from_utf8(text).unwrap();
                assert!(text.starts_with("POST /v2/health/drain "), "{text}");
                let lease = text.rsplit_once(':').unwrap().1.trim_end_matches('}').parse().unwrap();
                last.store(lease, Ordering::SeqCst);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        asked
    }

    async fn until(lease: &AtomicU64, expect: u64) {
        let all = async {
            while lease.load(Ordering::SeqCst) != expect {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), all).await.unwrap();
    }

    #[tokio::test]
    async fn it_lasts_until_it_is_released_and_is_given_back_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let answer = "HTTP/1.1 200 OK\r\n\r\n{\"lasts_ms\":9000,\"requests\":3,\"silence_ms\":2000}";
        let asked = server(&path, answer);
        let drains = Drains::new(Server::new(Address::Socket(path)));
        for model in ["a", "b"] {
            drains.begin(model, Duration::from_secs(5)).await;
        }
        assert_eq!(asked.load(Ordering::SeqCst), 15_000);
        drains.release();
        until(&asked, 0).await;
        drains.release();
        drains.begin("a", Duration::from_secs(5)).await;
        assert_eq!(asked.load(Ordering::SeqCst), 15_000);
        drop(drains); // as when the agent ends by itself
        until(&asked, 0).await;
    }

    #[tokio::test]
    async fn a_server_that_cannot_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let asked = server(&path, "HTTP/1.1 404 Not Found\r\n\r\n{\"error\":\"Not Found\"}");
        let drains = Drains::new(Server::new(Address::Socket(path)));
        timeout(Duration::from_secs(20), drains.begin("a", Duration::from_secs(600))).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 15_000);
    }
}
