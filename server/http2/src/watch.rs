//! What a connection waits for, and for how long: the handshake of its client, a client that reads, one that answers when it
//! is asked whether it is there. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// How exactly silence is measured: a client is pinged when it was silent for the time and up to this part of it longer.
const STEPS: u32 = 8;
/// Least time between two looks at a connection.
const MIN_STEP: Duration = Duration::from_millis(1);
/// How long a client may leave everything unread that was sent to it before its connection is closed; up to twice that.
/// Long, for a socket accepts more only once a good part of its buffer, some megabytes, is read.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client that is asked to leave may take to say that it has heard of it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(20);

/// Longer than any connection lasts.
const FAR: Duration = Duration::from_secs(1 << 30);

/// When clients are pinged.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// After how much silence.
    pub time: Duration,
    /// How long the answer may take; anything that comes is one.
    pub timeout: Duration,
    /// Whether clients without a call are pinged too.
    pub pings_without_calls: bool,
}

/// What is seen of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// How often something was read.
    pub(crate) reads: u64,
    pub(crate) is_handshake_received: bool,
    pub(crate) has_calls: bool,
    /// How many bytes were sent so far, if more wait for space in the socket.
    pub(crate) blocked_at: Option<u64>,
    /// Whether the client was asked to leave and has not answered.
    pub(crate) is_leaving: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// The client is to be pinged.
    Ping,
    /// It is not waited for any longer that the client says goodbye.
    Close,
    /// The connection is to be closed, for this reason.
    End(&'static str),
}

/// Watches one connection.
#[derive(Debug)]
pub(crate) struct Watch {
    rules: KeepAlive,
    /// Until when the handshake has to come; `None` when it has.
    handshake_end: Option<Instant>,
    /// When silence is looked for next, since when there was none, and until when a ping has to be answered.
    silence_look: Instant,
    silent_since: Instant,
    answer_end: Option<Instant>,
    reads: u64,
    unread_look: Instant,
    blocked_at: Option<u64>,
    goodbye_end: Option<Instant>,
}

impl Watch {
    pub(crate) fn new(rules: KeepAlive, handshake_end: Instant, now: Instant) -> Self {
        Self {
            rules,
            handshake_end: Some(handshake_end),
            silence_look: after(now, step(rules)),
            silent_since: now,
            answer_end: None,
            reads: 0,
            unread_look: now + UNREAD_TIMEOUT,
            blocked_at: None,
            goodbye_end: None,
        }
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Instant {
        let ends = [self.handshake_end, self.answer_end, self.goodbye_end].into_iter().flatten();
        ends.fold(self.silence_look.min(self.unread_look), Instant::min)
    }

    /// The client was asked to leave.
    pub(crate) fn leaves(&mut self, now: Instant) {
        self.goodbye_end = Some(now + GOODBYE_TIMEOUT);
    }

    /// Looks at the connection.
    pub(crate) fn look(&mut self, now: Instant, seen: Seen) -> Due {
        if seen.is_handshake_received {
            self.handshake_end = None;
        } else if self.handshake_end.is_some_and(|end| now >= end) {
            return Due::End("no HTTP/2 handshake came in time");
        }
        if now >= self.unread_look {
            self.unread_look = now + UNREAD_TIMEOUT;
            if seen.blocked_at.is_some() && seen.blocked_at == self.blocked_at {
                return Due::End("the client does not read");
            }
            self.blocked_at = seen.blocked_at;
        }
        if self.goodbye_end.is_some_and(|end| now >= end) {
            self.goodbye_end = None;
            if seen.is_leaving {
                return Due::Close;
            }
        }
        self.look_for_silence(now, seen)
    }

    fn look_for_silence(&mut self, now: Instant, seen: Seen) -> Due {
        if self.reads != seen.reads {
            self.reads = seen.reads;
            // since the last look, perhaps; the silence is longer than it seems then
            self.silent_since = now;
            self.answer_end = None;
        }
        if self.answer_end.is_some_and(|end| now >= end) {
            return Due::End("the client does not answer a keepalive ping");
        }
        if now < self.silence_look {
            return Due::Nothing;
        }
        self.silence_look = after(now, step(self.rules));
        let is_silent = now.duration_since(self.silent_since) >= self.rules.time;
        if !is_silent || self.answer_end.is_some() || !(self.rules.pings_without_calls || seen.has_calls) {
            return Due::Nothing;
        }
        self.answer_end = Some(after(now, self.rules.timeout));
        Due::Ping
    }
}

fn step(rules: KeepAlive) -> Duration {
    // what comes is looked for while an answer is waited for, too
    (rules.time / STEPS).max(MIN_STEP)
}

/// A time that may be given by a flag, and be beyond what a clock can show.
fn after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now + FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: KeepAlive =
        KeepAlive { time: Duration::from_secs(60), timeout: Duration::from_secs(20), pings_without_calls: false };
    const IDLE: Seen =
        Seen { reads: 1, is_handshake_received: true, has_calls: false, blocked_at: None, is_leaving: false };

    /// Looks at a connection whenever that is due, for so long: what was to be done, and after how many seconds.
    fn run(rules: KeepAlive, seconds: u64, mut seen: impl FnMut(u64) -> Seen) -> Vec<(u64, Due)> {
        let begun = Instant::now();
        let mut watch = Watch::new(rules, begun + Duration::from_secs(20), begun);
        let mut all = Vec::new();
        let mut now = begun;
        while now < begun + Duration::from_secs(seconds) {
            now = watch.next();
            let second = now.duration_since(begun).as_secs();
            match watch.look(now, seen(second)) {
                Due::Nothing => {}
                due => {
                    all.push((second, due));
                    if matches!(due, Due::End(_)) {
                        break;
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_client_that_sends_no_handshake_is_noticed() {
        let seen = Seen { is_handshake_received: false, ..IDLE };
        assert_eq!(run(RULES, 1000, |_| seen), [(20, Due::End("no HTTP/2 handshake came in time"))]);
    }

    #[test]
    fn a_client_that_reads_nothing_is_noticed_and_one_that_reads_slowly_is_not() {
        let blocked = |at| Seen { blocked_at: Some(at), ..IDLE };
        assert_eq!(run(RULES, 10_000, |_| blocked(7)), [(600, Due::End("the client does not read"))]);
        assert_eq!(run(RULES, 10_000, |second| blocked(second / 200)), []);
        assert_eq!(run(RULES, 10_000, |_| IDLE), []);
    }

    #[test]
    fn a_client_is_pinged_when_it_is_silent_and_not_sooner() {
        let rules = KeepAlive { pings_without_calls: true, ..RULES };
        let due = run(rules, 1000, |_| IDLE);
        let [(pinged, Due::Ping), (ended, Due::End("the client does not answer a keepalive ping"))] = due[..] else {
            panic!("{due:?}")
        };
        assert!((60..75).contains(&pinged) && (20..=21).contains(&(ended - pinged)), "{pinged} {ended}");
        // the same with a call, and nothing without one
        assert_eq!(run(RULES, 1000, |_| Seen { has_calls: true, ..IDLE }), due);
        assert_eq!(run(RULES, 10_000, |_| IDLE), []);
    }

    #[test]
    fn whatever_comes_is_an_answer() {
        let rules = KeepAlive { pings_without_calls: true, ..RULES };
        let due = run(rules, 10_000, |second| Seen { reads: second / 78, ..IDLE });
        assert!(due.len() > 50 && due.iter().all(|(_, due)| *due == Due::Ping), "{due:?}");
        // one that always says something is never asked
        assert_eq!(run(rules, 10_000, |second| Seen { reads: second, ..IDLE }), []);
    }

    #[test]
    fn a_client_that_does_not_say_goodbye_is_not_waited_for() {
        let begun = Instant::now();
        let mut watch = Watch::new(RULES, begun, begun);
        watch.leaves(begun);
        let end = begun + GOODBYE_TIMEOUT;
        assert_eq!(watch.look(end - MIN_STEP, Seen { is_leaving: true, ..IDLE }), Due::Nothing);
        assert_eq!(watch.look(end, Seen { is_leaving: true, ..IDLE }), Due::Close);
        assert_eq!(watch.look(end, Seen { is_leaving: true, ..IDLE }), Due::Nothing);
    }
}
