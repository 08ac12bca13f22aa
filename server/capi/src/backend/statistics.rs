//! What libraries report of the time that requests, executions and responses took: counted as the server's own backends are.
//! A library that reports nothing is counted all the same, by what the server sees.

use parking_lot::Mutex;
use server_core::{
    completion::{ResponseMarks, ResponseOutcome},
    error::{Code, Error, Result},
};

use super::{clock::Moments, executions::Times, instance::Instance, request::Request, response::Factory};
use crate::abi::{Handle, Out, export::exports, handle::objects, numbers::ErrorCode, objects};

objects! { 11: ResponseStatistics => "TRITONBACKEND_ModelInstanceResponseStatistics" }

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
