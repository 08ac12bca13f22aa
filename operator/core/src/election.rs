//! Who of several operators leads. The lease is an object that the leader renews; whoever sees it stand still for its whole
//! length takes it. Times are those of the observer alone: clocks of other machines are never compared.

use std::time::Duration;

/// The rhythm of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// How long a lease stands without being renewed.
    pub lease: Duration,
    /// How long a leader goes on without having been able to renew it; shorter than `lease`, so that it has stopped when
    /// another begins.
    pub give_up: Duration,
    /// Pause between two attempts.
    pub retry: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), give_up: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// The lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who has it; none if it was given back.
    pub holder: Option<String>,
    /// Changes with every write of the lease.
    pub revision: String,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write the lease as its holder, on the condition that nobody has written it since it was read.
    Write,
    /// Somebody else leads.
    Wait,
    /// The lease could not be renewed in time: stop at once.
    StepDown,
}

/// One candidate's view of an election.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    rhythm: Rhythm,
    /// The newest lease seen, and when it was first seen so.
    seen: Option<(Lease, Duration)>,
    /// When the last write that succeeded was begun.
    held_since: Option<Duration>,
}

impl Election {
    /// A candidate.
    pub fn new(me: impl Into<String>, rhythm: Rhythm) -> Self {
        Self { me: me.into(), rhythm, seen: None, held_since: None }
    }

    /// Whether this candidate leads at `now`.
    pub fn leads(&self, now: Duration) -> bool {
        self.held_since.is_some_and(|since| now.saturating_sub(since) < self.rhythm.give_up)
    }

    /// The lease was read at `now`; none if there is no lease yet.
    pub fn read(&mut self, lease: Option<Lease>, now: Duration) -> Decision {
        let Some(lease) = lease else {
            self.seen = None;
            return Decision::Write;
        };
        let stood_since = match &self.seen {
            Some((before, since)) if *before == lease => *since,
            _ => now,
        };
        let holder = lease.holder.clone();
        self.seen = Some((lease, stood_since));
        match holder {
            None => Decision::Write,
            Some(holder) if holder == self.me => Decision::Write,
            Some(_) if self.held_since.is_some() => {
                self.held_since = None;
                Decision::StepDown
            }
            Some(_) if now.saturating_sub(stood_since) >= self.rhythm.lease => Decision::Write,
            Some(_) => Decision::Wait,
        }
    }

    /// The write begun at `begun` succeeded.
    pub fn wrote(&mut self, begun: Duration) {
        self.held_since = Some(begun);
    }

    /// The lease could not be read or written, at `now`.
    pub fn failed(&mut self, now: Duration) -> Decision {
        if self.held_since.is_some() && !self.leads(now) {
            self.held_since = None;
            return Decision::StepDown;
        }
        Decision::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, revision: u32) -> Option<Lease> {
        Some(Lease { holder: (!holder.is_empty()).then(|| holder.to_owned()), revision: revision.to_string() })
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken_at_once() {
        let mut election = Election::new("a", Rhythm::default());
        assert_eq!(election.read(None, at(0)), Decision::Write);
        assert!(!election.leads(at(0)), "before the write has succeeded");
        election.wrote(at(0));
        assert!(election.leads(at(9)));
        let mut other = Election::new("b", Rhythm::default());
        assert_eq!(other.read(lease("", 7), at(0)), Decision::Write);
    }

    #[test]
    fn invariant_17_a_lease_is_taken_only_after_it_stood_still_for_its_length() {
        let mut election = Election::new("b", Rhythm::default());
        assert_eq!(election.read(lease("a", 1), at(100)), Decision::Wait);
        assert_eq!(election.read(lease("a", 1), at(114)), Decision::Wait);
        assert_eq!(election.read(lease("a", 2), at(114)), Decision::Wait, "renewed");
        assert_eq!(election.read(lease("a", 2), at(128)), Decision::Wait);
        assert_eq!(election.read(lease("a", 2), at(129)), Decision::Write);
    }

    #[test]
    fn invariant_17_a_leader_stops_before_another_can_begin() {
        let rhythm = Rhythm::default();
        let mut election = Election::new("a", rhythm);
        election.read(None, at(0));
        election.wrote(at(0));
        assert_eq!(election.failed(at(5)), Decision::Wait);
        assert!(!election.leads(rhythm.give_up));
        assert_eq!(election.failed(rhythm.give_up), Decision::StepDown);
        assert!(rhythm.give_up + rhythm.retry < rhythm.lease);
    }

    #[test]
    fn a_leader_who_finds_another_holder_stops() {
        let mut election = Election::new("a", Rhythm::default());
        election.read(None, at(0));
        election.wrote(at(0));
        assert_eq!(election.read(lease("b", 2), at(4)), Decision::StepDown);
        assert!(!election.leads(at(4)));
    }
}
