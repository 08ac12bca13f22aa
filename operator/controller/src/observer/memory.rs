//! What counts as said by a pod, given what came of asking it so far: a short silence is not a change. Pure; the time comes from the
//! caller.

use std::{sync::Arc, time::Duration};

use operator_core::replica::Report;
use tokio::time::Instant;

/// How long a pod that gets requests may be silent before that is reported: one that is busy may miss a question.
const SILENCE: Duration = Duration::from_secs(20);
/// The same for its agent while the server answers: only the agent knows the manifest and the reasons, so what the server says
/// in its place must not count before the agent has missed more than one question.
const AGENT_SILENCE: Duration = Duration::from_secs(6);

/// What came of asking a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) said: Said,
    /// Why something it said was not read.
    pub(super) unread: Option<String>,
    /// Why it cannot be reached, if it is not merely silent.
    pub(super) unreachable: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Said {
    /// Neither agent nor server said anything that was read.
    #[default]
    Nothing,
    /// The agent has nothing to add to what it said last.
    Unchanged,
    ByAgent(Arc<Report>),
    /// Its agent answered, and what it said is not read; the server's own word.
    ByServer(Arc<Report>),
    /// The server's own word, in place of an agent that is silent.
    InsteadOfAgent(Arc<Report>),
}

/// What is known of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// It has been asked at least once.
    pub(super) was_asked: bool,
    /// What it says.
    report: Option<Arc<Report>>,
    /// What it said before, and what counts for as long as it gets requests: it has been silent for a short while only.
    kept: Option<Arc<Report>>,
    pub(super) unread: Option<String>,
    pub(super) unreachable: Option<String>,
    /// Crashes of its server since it is followed.
    pub(super) crashes: u32,
}

impl Heard {
    /// What counts as said; `is_ready`: it gets requests.
    pub(super) fn counts(&self, is_ready: bool) -> Option<&Arc<Report>> {
        self.kept.as_ref().filter(|_| is_ready).or(self.report.as_ref())
    }
}

/// What is remembered of a pod.
#[derive(Debug, Default)]
pub(super) struct Memory {
    last: Option<Last>,
    crashes: u32,
}

/// What a pod said last.
#[derive(Debug)]
struct Last {
    report: Arc<Report>,
    /// The server said it, in place of a silent agent.
    is_instead_of_agent: bool,
    /// Neither agent nor server has answered since.
    silent_since: Option<Instant>,
    /// The agent has not answered since.
    agent_silent_since: Option<Instant>,
}

impl Last {
    fn new(report: Arc<Report>, is_instead_of_agent: bool) -> Self {
        Self { report, is_instead_of_agent, silent_since: None, agent_silent_since: None }
    }
}

impl Memory {
    /// Takes in what came of asking at `now`; returns what is known from then on.
    pub(super) fn note(&mut self, answer: Answer, now: Instant) -> Heard {
        let (report, kept) = self.take(answer.said, now);
        Heard {
            was_asked: true,
            report,
            kept,
            unread: answer.unread,
            unreachable: answer.unreachable,
            crashes: self.crashes,
        }
    }

    fn take(&mut self, said: Said, now: Instant) -> (Option<Arc<Report>>, Option<Arc<Report>>) {
        let is_over =
            |since: &mut Option<Instant>, limit| now.saturating_duration_since(*since.get_or_insert(now)) >= limit;
        match said {
            Said::Nothing => {
                let Some(last) = &mut self.last else { return (None, None) };
                last.agent_silent_since.get_or_insert(now); // for when the server answers first
                let is_over = is_over(&mut last.silent_since, SILENCE);
                (None, (!is_over).then(|| Arc::clone(&last.report)))
            }
            Said::Unchanged => {
                let report = self.last.as_ref().map(|last| Arc::clone(&last.report));
                self.last = report.clone().map(|report| Last::new(report, false));
                (report, None)
            }
            Said::ByAgent(report) => {
                let before = self.last.as_ref().and_then(|last| last.report.crashes);
                let more = report.crashes.zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
                self.crashes = self.crashes.saturating_add(more);
                self.last = Some(Last::new(Arc::clone(&report), false));
                (Some(report), None)
            }
            Said::ByServer(report) => {
                let report = self.with_crashes(report);
                self.last = Some(Last::new(Arc::clone(&report), false));
                (Some(report), None)
            }
            Said::InsteadOfAgent(report) => {
                let report = self.with_crashes(report);
                if let Some(last) = self.last.as_mut().filter(|last| !last.is_instead_of_agent) {
                    last.silent_since = None;
                    if !is_over(&mut last.agent_silent_since, AGENT_SILENCE) {
                        return (Some(report), Some(Arc::clone(&last.report)));
                    }
                }
                self.last = Some(Last::new(Arc::clone(&report), true));
                (Some(report), None)
            }
        }
    }

    /// What only the agent counts is not forgotten while the server answers in its place.
    fn with_crashes(&self, report: Arc<Report>) -> Arc<Report> {
        let crashes = self.last.as_ref().and_then(|last| last.report.crashes);
        match crashes {
            Some(crashes) => Arc::new(Report { crashes: Some(crashes), ..(*report).clone() }),
            None => report,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks at that second; what counts for a pod that gets requests, and for one that does not.
    fn at(memory: &mut Memory, begun: Instant, second: u64, said: Said) -> [Option<Report>; 2] {
        let heard = memory.note(Answer { said, ..Answer::default() }, begun + Duration::from_secs(second));
        [true, false].map(|is_ready| heard.counts(is_ready).map(|report| (**report).clone()))
    }

    #[test]
    fn a_pod_that_misses_a_question_is_believed_for_a_while() {
        let (mut memory, begun) = (Memory::default(), Instant::now());
        let mut at = |second, said| at(&mut memory, begun, second, said);
        let report = |hash: &str| Report { manifest_hash: Some(hash.into()), ..Report::default() };
        let says = |hash: &str| Said::ByAgent(Arc::new(report(hash)));
        let (a, b) = (Some(report("a")), Some(report("b")));
        assert_eq!(at(0, Said::Nothing), [None, None], "it never said anything");
        assert_eq!(at(10, says("a")), [a.clone(), a.clone()]);
        assert_eq!(at(70, Said::Nothing), [a.clone(), None], "the silence begins when it is first noticed");
        assert_eq!(at(85, Said::Nothing), [a.clone(), None]);
        assert_eq!(at(90, Said::Nothing), [None, None]);
        assert_eq!(at(95, says("b")), [b.clone(), b.clone()]);
        assert_eq!(at(100, Said::Nothing), [b.clone(), None], "a new silence");
        assert_eq!(at(105, Said::Unchanged), [b.clone(), b.clone()]);
        assert_eq!(at(119, Said::Nothing), [b, None], "and another one");
    }

    #[test]
    fn an_agent_that_misses_a_question_is_believed_for_a_while() {
        let (mut memory, begun) = (Memory::default(), Instant::now());
        let mut at = |second, said| at(&mut memory, begun, second, said);
        let by_agent = Report { manifest_hash: Some("a".into()), crashes: Some(2), ..Report::default() };
        let by_server = Report { manifest_hash: Some(String::new()), ..Report::default() };
        let agent = || Said::ByAgent(Arc::new(by_agent.clone()));
        let server = || Said::InsteadOfAgent(Arc::new(by_server.clone()));
        let instead = Some(Report { crashes: Some(2), ..by_server.clone() });
        let (a, s) = (Some(by_agent.clone()), Some(by_server.clone()));
        assert_eq!(at(0, server()), [s.clone(), s], "the agent never said anything");
        assert_eq!(at(1, agent()), [a.clone(), a.clone()]);
        assert_eq!(at(60, server()), [a.clone(), instead.clone()], "the silence begins when it is first noticed");
        assert_eq!(at(65, server())[0], a);
        assert_eq!(at(66, server())[0], instead, "more than one question was missed");
        assert_eq!(at(67, server())[0], instead, "and it stays so until the agent is back");
        assert_eq!(at(70, agent()), [a.clone(), a.clone()]);
        assert_eq!(at(82, Said::Nothing)[0], a, "a silence of both is one of the agent too");
        assert_eq!(at(86, server())[0], a);
        assert_eq!(at(88, server())[0], instead);
    }

    #[test]
    fn each_crash_counts_once_and_those_before_it_was_followed_do_not() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let mut crashes = |said| memory.note(Answer { said, ..Answer::default() }, now).crashes;
        let agent = |crashes| Said::ByAgent(Arc::new(Report { crashes: Some(crashes), ..Report::default() }));
        let server = || Said::InsteadOfAgent(Arc::new(Report::default()));
        assert_eq!([crashes(agent(3)), crashes(agent(3)), crashes(agent(5))], [0, 0, 2]);
        assert_eq!([crashes(Said::Nothing), crashes(server()), crashes(agent(6))], [2, 2, 3]);
        assert_eq!(
            [crashes(agent(0)), crashes(agent(1))],
            [3, 4],
            "an agent that was started anew counts from nothing"
        );
    }
}
