//! Keeps a program running: starts it, waits for its end, starts it again as a policy says, stops it when ordered. Decisions are
//! in `restarts` and `stop`; what is started, when it is to stop and who hears of it, a [`Program`] says.

mod process;
mod restarts;
mod stop;

use std::{
    future::Future,
    io,
    process::ExitStatus,
    time::{Duration, Instant},
};

use rustix::process::Signal;

pub use self::{
    process::{Process, Reaping},
    restarts::{Backoff, Limit, Next, Policy, Restart},
    stop::{Order, Then},
};
use self::{restarts::Restarts, stop::Stopping};

/// A program to be kept running.
pub trait Program {
    /// Why it could not be started.
    type Error: Send + Sync;

    /// Starts it, after whatever has to come before. `None`: no process is wanted any more.
    ///
    /// Errors: it could not be started; the policy decides what follows.
    fn start(&mut self) -> impl Future<Output = Result<Option<Process>, Self::Error>> + Send;

    /// Waits until the process is to stop; called again while it is stopping. May be dropped and called again.
    fn order(&mut self) -> impl Future<Output = Order> + Send;

    /// A process has ended without an order, or could not be started, and `next` follows.
    fn ended(&mut self, end: &End<Self::Error>, next: Next) -> impl Future<Output = ()> + Send;

    /// A process has ended as ordered.
    fn stopped(&mut self, _stopped: &Stopped) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Waits until a pause before the next start has become pointless.
    fn cut_pause_short(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// How it came that no process runs, without an order.
#[derive(Debug)]
pub enum End<E> {
    /// It could not be started.
    NotStarted(E),
    /// It ended by itself, or nobody can say how it ended.
    Exited(io::Result<ExitStatus>),
}

/// The end of a process that was ordered to stop.
#[derive(Debug)]
pub struct Stopped {
    /// How it ended.
    pub exit: io::Result<ExitStatus>,
    /// It did not end in time, or was ordered to end at once.
    pub was_killed: bool,
}

/// Why a program is not kept running any more.
#[derive(Debug)]
pub enum Outcome<E> {
    /// No process was wanted when the next one was to be started.
    NotWanted,
    /// It was stopped.
    Stopped(Stopped),
    /// The policy allows no other start.
    GaveUp(End<E>),
}

/// Keeps the program running until it is stopped, or the policy gives it up. Dropping this kills the process.
pub async fn supervise<P: Program + Send>(program: &mut P, policy: Policy) -> Outcome<P::Error> {
    let mut restarts = Restarts::new(policy);
    loop {
        let (end, exit, ran) = match program.start().await {
            Ok(None) => return Outcome::NotWanted,
            Err(error) => (End::NotStarted(error), None, Duration::ZERO),
            Ok(Some(mut process)) => {
                let (exit, stopping) = until_ended(program, &mut process).await;
                if let Some(Stopping { then, was_killed, .. }) = stopping {
                    let stopped = Stopped { exit, was_killed };
                    program.stopped(&stopped).await;
                    match then {
                        Then::Finish => return Outcome::Stopped(stopped),
                        Then::Replace => restarts.replaced(),
                    }
                    continue;
                }
                let status = exit.as_ref().ok().copied();
                (End::Exited(exit), status, process.age())
            }
        };
        let next = restarts.next(exit, ran, Instant::now());
        program.ended(&end, next).await;
        match next {
            Next::GiveUp => return Outcome::GaveUp(end),
            Next::Restart(pause) if pause.is_zero() => {}
            Next::Restart(pause) => tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = program.cut_pause_short() => {}
            },
        }
    }
}

/// Waits for the end of the process, and passes orders on to it.
async fn until_ended<P: Program + Send>(
    program: &mut P,
    process: &mut Process,
) -> (io::Result<ExitStatus>, Option<Stopping>) {
    let mut stopping: Option<Stopping> = None;
    loop {
        // nothing resists SIGKILL
        let was_killed = stopping.is_some_and(|it| it.was_killed);
        let order = tokio::select! {
            exit = process.exit() => return (exit, stopping),
            then = deadline(stopping), if !was_killed => Order { signal: Signal::KILL, limit: None, then },
            order = program.order(), if !was_killed => order,
        };
        stopping = Some(Stopping::after(stopping, order, Instant::now()));
        process.signal(order.signal);
    }
}

/// Waits until the time for stopping is over; for ever if there is no limit.
async fn deadline(stopping: Option<Stopping>) -> Then {
    match stopping {
        Some(Stopping { then, deadline: Some(deadline), .. }) => {
            tokio::time::sleep_until(deadline.into()).await;
            then
        }
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
