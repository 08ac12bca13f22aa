//! Pings of the server: whether a client that is silent is still there.
//!
//! Here and not in the library that speaks HTTP/2, which would ping clients without a call too.

use std::{future::poll_fn, task::Poll, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{dispatch::Calls, socket::WriteBuffer};

/// How exactly silence is measured: a client is pinged when it was silent for the time and up to this part of it longer.
const STEPS: u32 = 8;
/// Least time between two looks at a connection.
const MIN_STEP: Duration = Duration::from_millis(1);

/// When clients are pinged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeepAlive {
    /// After how much silence.
    pub(crate) time: Duration,
    /// How long the answer may take; anything that comes is one.
    pub(crate) timeout: Duration,
    /// Whether clients without a call are pinged too.
    pub(crate) pings_without_calls: bool,
}

/// Pings a client when it is silent; completes when it does not answer.
pub(crate) async fn unanswered(write_buffer: &WriteBuffer, calls: &Calls, rules: KeepAlive) {
    let step = (rules.time / STEPS).max(MIN_STEP);
    let mut reads = write_buffer.reads();
    let mut silent = Duration::ZERO;
    loop {
        sleep(step).await;
        let now = write_buffer.reads();
        silent = if now == reads { silent.saturating_add(step) } else { Duration::ZERO };
        reads = now;
        if silent < rules.time || !(rules.pings_without_calls || calls.are_open()) {
            continue;
        }
        write_buffer.ping();
        poll_fn(|context| {
            let _ = write_buffer.poll_send(context); // the driver learns of an error
            Poll::Ready(())
        })
        .await;
        let end = Instant::now() + rules.timeout;
        while write_buffer.reads() == reads {
            if Instant::now() >= end {
                return;
            }
            sleep_until((Instant::now() + step).min(end)).await;
        }
        reads = write_buffer.reads();
        silent = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::socket::tests::pair;

    const RULES: KeepAlive =
        KeepAlive { time: Duration::from_secs(60), timeout: Duration::from_secs(20), pings_without_calls: false };
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0keepaliv";

    #[tokio::test(start_paused = true)]
    async fn a_client_without_a_call_is_not_pinged() {
        let (client, _socket, write_buffer) = pair().await;
        let calls = Calls::default();
        tokio::select! {
            () = unanswered(&write_buffer, &calls, RULES) => panic!("it was pinged"),
            () = sleep(RULES.time * 100) => {}
        }
        assert!(client.try_read(&mut [0; 100]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_pinged_when_it_is_silent_and_not_sooner() {
        let (mut client, _socket, write_buffer) = pair().await;
        let calls = Calls::default();
        let rules = KeepAlive { pings_without_calls: true, ..RULES };
        let begun = Instant::now();
        unanswered(&write_buffer, &calls, rules).await;
        let waited = begun.elapsed();
        assert!((RULES.time + RULES.timeout..RULES.time * 2 + RULES.timeout).contains(&waited), "{waited:?}");
        let mut read = [0; PING.len()];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, PING);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_comes_is_an_answer() {
        let (mut client, mut socket, write_buffer) = pair().await;
        let (calls, rules) = (Calls::default(), KeepAlive { pings_without_calls: true, ..RULES });
        let talks = async {
            for _ in 0..50 {
                sleep(RULES.time + RULES.timeout / 2).await;
                client.write_all(b"x").await.unwrap();
                socket.read_exact(&mut [0; 1]).await.unwrap();
            }
        };
        tokio::select! {
            () = unanswered(&write_buffer, &calls, rules) => panic!("it has answered"),
            () = talks => {}
        }
    }
}
