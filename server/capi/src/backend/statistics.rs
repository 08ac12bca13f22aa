//! What libraries report of the time that requests, executions and responses took: counted as the server's own backends are.
//! A library that reports nothing is counted all the same, by what the server sees.

use std::time::Instant;

use parking_lot::Mutex;
use server_core::{
    completion::{Marks, Reporter, ResponseMarks, ResponseOutcome},
    error::{Code, Error, Result},
};

use super::{clock::Moments, instance::Instance, request::Request, response::Factory};
use crate::abi::{Handle, Out, export::exports, handle::objects, numbers::ErrorCode, objects};

objects! { 11: ResponseStatistics => "TRITONBACKEND_ModelInstanceResponseStatistics" }

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
    fn report(&self, rows: u64, times: Times) {
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
struct Times {
    start: u64,
    compute_start: u64,
    compute_end: u64,
    end: u64,
}

impl Times {
    fn marks(&self, earliest: Instant) -> Marks {
        let moments = Moments::until_now();
        let start = moments.at(self.start, earliest);
        let input_end = moments.at(self.compute_start, start);
        let output_start = moments.at(self.compute_end, input_end);
        Marks { start, input_end, output_start, end: moments.at(self.end, output_start) }
    }
}

/// What a library says of one response.
#[derive(Default)]
pub(crate) struct ResponseStatistics(Mutex<Said>);

#[derive(Default)]
struct Said {
    instance: Option<Handle<Instance>>,
    factory: Option<Handle<Factory>>,
    start: u64,
    output_start: u64,
    end: u64,
    error: Option<ErrorCode>,
}

impl Said {
    /// Errors: something is missing.
    fn report(&self) -> Result<()> {
        let missing = |what: &str| Error::invalid_argument(format!("response statistics have no {what}"));
        self.instance.ok_or_else(|| missing("model instance"))?.get()?;
        let factory = self.factory.ok_or_else(|| missing("response factory"))?.get()?;
        for (what, moment) in [("response start", self.start), ("response end", self.end)] {
            if moment == 0 {
                return Err(missing(what));
            }
        }
        let outcome = match self.error {
            Some(code) if code.to_core() == Code::Cancelled => ResponseOutcome::Cancelled,
            Some(_) => ResponseOutcome::Fail,
            None if self.output_start == 0 => ResponseOutcome::Empty,
            None => ResponseOutcome::Success,
        };
        let earliest = factory.answering.reporter().record().received_at;
        let moments = Moments::until_now();
        let start = moments.at(self.start, earliest);
        let end = moments.at(self.end, start);
        // an error may have none, and nothing was made of what is empty
        let output_start = if self.output_start == 0 { end } else { moments.at(self.output_start, start).min(end) };
        factory.answering.report_response(outcome, &ResponseMarks { start, output_start, end });
        Ok(())
    }
}

exports! {
    /// Reports how long a request took. The library still has it.
    fn TRITONBACKEND_ModelInstanceReportStatistics(
        instance: Handle<Instance>,
        request: Handle<Request>,
        success: bool,
        exec_start_ns: u64,
        compute_start_ns: u64,
        compute_end_ns: u64,
        exec_end_ns: u64,
    ) {
        instance.get()?;
        let request = request.get()?;
        let answering = &request.answering;
        let times =
            Times { start: exec_start_ns, compute_start: compute_start_ns, compute_end: compute_end_ns, end: exec_end_ns };
        answering.report(success, &times.marks(answering.reporter().record().queued_at));
        Ok(())
    }

    /// Reports how long an execution took, and how many rows it had.
    fn TRITONBACKEND_ModelInstanceReportBatchStatistics(
        instance: Handle<Instance>,
        batch_size: u64,
        exec_start_ns: u64,
        compute_start_ns: u64,
        compute_end_ns: u64,
        exec_end_ns: u64,
    ) {
        let instance = instance.get()?;
        let times =
            Times { start: exec_start_ns, compute_start: compute_start_ns, compute_end: compute_end_ns, end: exec_end_ns };
        instance.executions.report(batch_size, times);
        Ok(())
    }

    /// What is to be said of a response.
    fn TRITONBACKEND_ModelInstanceResponseStatisticsNew(statistics: Out<Handle<ResponseStatistics>>) {
        statistics.give(ResponseStatistics::default())
    }

    /// Deletes it, and nothing that was set.
    fn TRITONBACKEND_ModelInstanceResponseStatisticsDelete(statistics: Handle<ResponseStatistics>) {
        statistics.take().map(drop)
    }

    /// Which instance made the response.
    fn TRITONBACKEND_ModelInstanceResponseStatisticsSetModelInstance(
        statistics: Handle<ResponseStatistics>,
        instance: Handle<Instance>,
    ) {
        statistics.get()?.0.lock().instance = Some(instance);
        Ok(())
    }

    /// Which request it is a response to.
    fn TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseFactory(
        statistics: Handle<ResponseStatistics>,
        factory: Handle<Factory>,
    ) {
        statistics.get()?.0.lock().factory = Some(factory);
        Ok(())
    }

    /// When it was begun.
    fn TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseStart(
        statistics: Handle<ResponseStatistics>,
        response_start: u64,
    ) {
        statistics.get()?.0.lock().start = response_start;
        Ok(())
    }

    /// When its outputs were computed; 0 for an empty one.
    fn TRITONBACKEND_ModelInstanceResponseStatisticsSetComputeOutputStart(
        statistics: Handle<ResponseStatistics>,
        compute_output_start: u64,
    ) {
        statistics.get()?.0.lock().output_start = compute_output_start;
        Ok(())
    }

    /// When it was made.
    fn TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseEnd(
        statistics: Handle<ResponseStatistics>,
        response_end: u64,
    ) {
        statistics.get()?.0.lock().end = response_end;
        Ok(())
    }

    /// The error that it is, or null; the error is the caller's.
    fn TRITONBACKEND_ModelInstanceResponseStatisticsSetError(
        statistics: Handle<ResponseStatistics>,
        error: Handle<objects::Error>,
    ) {
        let error = if error.is_null() { None } else { Some(error.get()?.code) };
        statistics.get()?.0.lock().error = error;
        Ok(())
    }

    /// Counts the response.
    fn TRITONBACKEND_ModelInstanceReportResponseStatistics(statistics: Handle<ResponseStatistics>) {
        let statistics = statistics.get()?;
        let said = statistics.0.lock();
        said.report()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use server_core::{
        completion::{Completion, EndedRequest, RequestEvents, RequestRecord},
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
