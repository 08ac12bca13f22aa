//! The supervisor with programs made of a line of shell.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

use super::*;

/// Longest time anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// A pause or limit that no test waits for.
const LONG: Duration = Duration::from_secs(600);
/// Says that it has begun, and ends only when killed.
const RESISTS: &str = "trap '' TERM; echo; while :; do sleep 0.01; done";
/// Says that it has begun, and ends well when asked to.
const OBEYS: &str = "trap 'exit 0' TERM; echo; while :; do sleep 0.01; done";

/// Scripts to be started one after the other, and what became of them.
struct Scripts {
    scripts: VecDeque<&'static str>,
    /// Each with the number of the process it is for.
    orders: VecDeque<(usize, Order)>,
    cut_short: bool,
    starts: usize,
    ends: Vec<(Option<i32>, Next)>,
    stops: Vec<bool>,
}

impl Scripts {
    fn new(scripts: &[&'static str], orders: &[(usize, Order)]) -> Self {
        let scripts = scripts.iter().copied().collect();
        let orders = orders.iter().copied().collect();
        Self { scripts, orders, cut_short: false, starts: 0, ends: vec![], stops: vec![] }
    }

    async fn run(&mut self, policy: Policy) -> Outcome<String> {
        tokio::time::timeout(DEADLINE, supervise(self, policy)).await.unwrap()
    }
}

impl Program for Scripts {
    type Error = String;

    async fn start(&mut self) -> Result<Option<Process>, String> {
        let Some(script) = self.scripts.pop_front() else { return Ok(None) };
        self.starts += 1;
        let mut command = Command::new(if script.is_empty() { "/no/such/program" } else { "/bin/sh" });
        command.arg("-c").arg(script).stdout(Stdio::piped());
        let mut process = Process::start(&mut command, Reaping::Own).map_err(|error| error.to_string())?;
        if script.contains("echo") {
            let mut line = String::new();
            BufReader::new(process.take_output().0.unwrap()).read_line(&mut line).unwrap();
        }
        Ok(Some(process))
    }

    async fn order(&mut self) -> Order {
        match self.orders.pop_front_if(|(start, _)| *start == self.starts) {
            Some((_, order)) => order,
            None => std::future::pending().await,
        }
    }

    async fn ended(&mut self, end: &End<String>, next: Next) {
        let raw = match end {
            End::NotStarted(_) => None,
            End::Exited(exit) => Some(exit.as_ref().unwrap().into_raw()),
        };
        self.ends.push((raw, next));
    }

    async fn stopped(&mut self, stopped: &Stopped) {
        self.stops.push(stopped.was_killed);
    }

    async fn cut_pause_short(&mut self) {
        if !self.cut_short {
            std::future::pending().await
        }
    }
}

fn policy(restart: Restart, pause: Option<Duration>) -> Policy {
    let backoff = pause.map(|first| Backoff { first, longest: LONG, healthy_after: LONG });
    Policy { restart, backoff, limit: None }
}

fn order(signal: Signal, limit: Option<Duration>, then: Then) -> Order {
    Order { signal, limit, then }
}

#[tokio::test]
async fn a_program_is_started_again_whatever_its_end() {
    let pause = Duration::from_millis(1);
    let mut scripts = Scripts::new(&["exit 7", "", "kill -SEGV $$"], &[]);
    let outcome = scripts.run(policy(Restart::Always, Some(pause))).await;
    assert!(matches!(outcome, Outcome::NotWanted), "{outcome:?}");
    let pauses = [pause, pause * 2, pause * 4].map(Next::Restart);
    assert_eq!(scripts.ends, [(Some(7 << 8), pauses[0]), (None, pauses[1]), (Some(11), pauses[2])]);
}

#[tokio::test]
async fn an_end_that_the_policy_does_not_restart_is_the_last() {
    let mut scripts = Scripts::new(&["kill -SEGV $$", "exit 3", "exit 0"], &[]);
    let outcome = scripts.run(policy(Restart::OnSignal, None)).await;
    assert!(matches!(outcome, Outcome::GaveUp(End::Exited(Ok(exit))) if exit.code() == Some(3)), "{outcome:?}");
    assert_eq!(scripts.ends, [(Some(11), Next::Restart(Duration::ZERO)), (Some(3 << 8), Next::GiveUp)]);

    let outcome = Scripts::new(&["", "exit 0"], &[]).run(policy(Restart::OnSignal, None)).await;
    assert!(matches!(outcome, Outcome::GaveUp(End::NotStarted(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_pause_can_be_cut_short() {
    let mut scripts = Scripts::new(&["exit 1", "exit 1"], &[]);
    scripts.cut_short = true;
    scripts.run(policy(Restart::Always, Some(LONG))).await;
    assert_eq!(scripts.starts, 2);
}

#[tokio::test]
async fn a_program_is_asked_to_end_and_another_takes_over() {
    let orders =
        [(1, Then::Replace), (2, Then::Finish)].map(|(start, then)| (start, order(Signal::TERM, Some(LONG), then)));
    let mut scripts = Scripts::new(&[OBEYS, OBEYS, OBEYS], &orders);
    let outcome = scripts.run(policy(Restart::Always, Some(LONG))).await;
    let Outcome::Stopped(Stopped { exit, was_killed: false }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((exit.unwrap().code(), scripts.starts), (Some(0), 2));
    assert_eq!((scripts.stops, scripts.ends), (vec![false, false], vec![]));
}

#[tokio::test]
async fn a_program_that_does_not_end_in_time_is_killed() {
    let mut scripts = Scripts::new(&[RESISTS], &[(1, order(Signal::TERM, Some(Duration::ZERO), Then::Finish))]);
    let outcome = scripts.run(policy(Restart::Always, None)).await;
    let Outcome::Stopped(Stopped { exit, was_killed: true }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((exit.unwrap().signal(), scripts.stops), (Some(9), vec![true]));
}

#[tokio::test]
async fn a_second_order_can_end_the_time_a_program_has() {
    let orders = [(Signal::TERM, Some(LONG)), (Signal::KILL, None)]
        .map(|(signal, limit)| (1, order(signal, limit, Then::Finish)));
    let outcome = Scripts::new(&[RESISTS], &orders).run(policy(Restart::Always, None)).await;
    assert!(matches!(outcome, Outcome::Stopped(Stopped { was_killed: true, .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_program_does_not_outlive_its_supervisor() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo; exec sleep 600"]).stdout(Stdio::piped());
    let mut process = Process::start(&mut command, Reaping::Own).unwrap();
    let mut output = BufReader::new(process.take_output().0.unwrap());
    output.read_line(&mut String::new()).unwrap();
    drop(process);
    // the end of its output is the end of it
    let read = tokio::task::spawn_blocking(move || output.read_line(&mut String::new()));
    assert_eq!(tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap().unwrap(), 0);
}
