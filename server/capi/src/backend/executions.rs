//! The executions of an instance: each is counted once, as its library reports it, or else by what the server sees.

use std::time::Instant;

use parking_lot::Mutex;
use server_core::completion::{Marks, Reporter};

use super::clock::Moments;

/// The executions of an instance, which its library may report while they run, later, or never.
#[derive(Default)]
pub(crate) struct Executions(Mutex<State>);

#[derive(Default)]
struct State {
    /// Who counts: of the execution that began last.
    reporter: Option<Reporter>,
    /// When that began.
    start: Option<Instant>,
    /// It has not returned.
    is_running: bool,
    /// The library has reported one since then.
    is_reported: bool,
    /// Executions that were counted without a report, which may still come.
    unreported: u64,
}

impl Executions {
    /// An execution begins.
    pub(crate) fn begin(&self, reporter: Option<Reporter>, start: Instant) {
        let mut state = self.0.lock();
        *state =
            State { reporter, start: Some(start), is_running: true, is_reported: false, unreported: state.unreported };
    }

    /// The execution of so many rows that began last has returned: counts it, unless the library has reported it.
    pub(crate) fn end(&self, rows: u64) {
        let mut state = self.0.lock();
        state.is_running = false;
        if state.is_reported {
            return;
        }
        state.unreported += 1;
        if let (Some(reporter), Some(start)) = (&state.reporter, state.start) {
            reporter.executed(rows, &Marks::at(start, reporter.now()));
        }
    }

    /// The library reports an execution.
    pub(super) fn report(&self, rows: u64, times: Times) {
        let mut state = self.0.lock();
        let Some(start) = state.start else { return }; // none has begun
        let is_of_running = state.is_running && !state.is_reported;
        if !is_of_running && state.unreported > 0 {
            state.unreported -= 1; // it comes late, and is counted
            return;
        }
        state.is_reported |= is_of_running;
        if let Some(reporter) = &state.reporter {
            reporter.executed(rows, &times.marks(start));
        }
    }
}

/// Moments of an execution, in nanoseconds.
pub(super) struct Times {
    pub(super) start: u64,
    pub(super) compute_start: u64,
    pub(super) compute_end: u64,
    pub(super) end: u64,
}

impl Times {
    pub(super) fn marks(&self, earliest: Instant) -> Marks {
        let moments = Moments::until_now();
        let start = moments.at(self.start, earliest);
        let input_end = moments.at(self.compute_start, start);
        let output_start = moments.at(self.compute_end, input_end);
        Marks { start, input_end, output_start, end: moments.at(self.end, output_start) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use server_core::{
        completion::{Completion, EndedRequest, RequestEvents, RequestRecord, ResponseMarks, ResponseOutcome},
        error::Result,
        responder::Reply,
        stats::FailureReason,
    };

    use super::*;

    /// Rows of the executions that were counted.
    #[derive(Default)]
    struct Rows(Mutex<Vec<u64>>);

    impl RequestEvents for Rows {
        fn batch_ended(&self, _: &[server_core::batch::Pending], _: &[Reply], _: &Marks) {}
        fn executed(&self, rows: u64, _: &Marks) {
            self.0.lock().push(rows);
        }
        fn responded(&self, _: &RequestRecord, _: u32, _: ResponseOutcome, _: &ResponseMarks) {}
        fn ended(&self, _: EndedRequest<'_>, _: Result<(), FailureReason>, _: Option<&Marks>, _: Instant) {}
        fn released(&self, _: usize) {}
        fn rescheduled(&self, _: server_core::batch::Pending, _: Option<&Marks>) {}
        fn now(&self) -> Instant {
            Instant::now()
        }
    }

    /// What is counted when executions begin (`b`), end (`e`), and are reported (`r`), of 1, 2, 3 ... rows.
    #[track_caller]
    fn check(calls: &str, expected: &[u64]) {
        let rows = Arc::new(Rows::default());
        let now = Instant::now();
        let record = RequestRecord { received_at: now, queued_at: now, batch_size: 1 };
        let (completion, _replies) = Completion::new(record, rows.clone(), 1);
        let executions = Executions::default();
        let (mut begun, mut reported) = (0, 10);
        for call in calls.chars() {
            match call {
                'b' => {
                    begun += 1;
                    executions.begin(Some(completion.reporter()), now);
                }
                'e' => executions.end(begun),
                _ => {
                    reported += 1;
                    executions.report(reported, Times { start: 0, compute_start: 0, compute_end: 0, end: 0 });
                }
            }
        }
        assert_eq!(*rows.0.lock(), expected, "{calls}");
    }

    #[test]
    fn each_execution_is_counted_once_whenever_it_is_reported() {
        check("brebre", &[11, 12]);
        check("bebe", &[1, 2]);
        check("berbre", &[1, 12]);
        check("berber", &[1, 2]);
        check("bebrer", &[1, 11]);
        check("brre", &[11, 12]);
        check("r", &[]);
    }
}
