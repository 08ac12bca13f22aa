//! One execution context of a repeat model, and its thread, which answers the requests that `execute` has taken.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    task::Context,
    thread,
    time::{Duration, Instant},
};

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    buffer::Buffer,
    completion::{Completion, Marks, ResponseMarks},
    error::{Error, Result},
    request::InferRequest,
    response::Outputs,
    tensor::{DataType, Name, Shape, Tensor, shape_text},
};
use smallvec::smallvec;

use crate::timed::{Job, Next, Sent, Timed, Unsent};

/// Most responses that one request gets before it is another's turn.
const BURST: usize = 64;

/// Repeats the values of its requests.
pub(super) struct RepeatInstance {
    timed: Timed<Repeating>,
    names: Names,
}

/// What is wrong if values and delays do not pair up.
pub(super) fn shapes_differ(values: &[i64], delays: &[i64]) -> String {
    format!("expected IN and DELAY shape to match, got {} and {}", shape_text(values), shape_text(delays))
}

#[derive(Clone)]
struct Names {
    out: Name,
    idx: Name,
}

impl RepeatInstance {
    pub(super) fn start(name: &str) -> Result<Self> {
        Ok(Self { timed: Timed::start(name)?, names: Names { out: "OUT".into(), idx: "IDX".into() } })
    }

    /// Hands the request to the thread, and waits for as long as it asks.
    fn take(&self, pending: Pending, start: Instant) {
        let Pending { request, mut completion } = pending;
        let (values, delays, wait) = match read(&request) {
            Ok(read) => read,
            Err(error) => return completion.finish(Some(Err(error)), &Marks::at(start, Instant::now())),
        };
        let taken_at = Instant::now();
        let (answered, end) = channel();
        self.timed.add(Repeating {
            completion,
            due: taken_at + delay(&delays, 0),
            values,
            delays,
            next: 0,
            names: self.names.clone(),
            start,
            sent_at: taken_at,
            unsent: None,
            answered: Some(answered),
        });
        drop(request); // what is left of it is in the job
        match end.recv_timeout(wait) {
            Ok(()) => thread::sleep(wait.saturating_sub(taken_at.elapsed())),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {} // late, or cancelled
        }
    }
}

impl Instance for RepeatInstance {
    fn execute(&mut self, batch: Batch) {
        let (pending, execution) = batch.into_pending();
        let start = execution.start();
        pending.into_iter().for_each(|pending| self.take(pending, start));
        execution.ended(&Marks::at(start, Instant::now()));
    }
}

/// A request that is being answered.
struct Repeating {
    completion: Completion,
    values: Buffer,
    delays: Buffer,
    /// The response that is next.
    next: usize,
    names: Names,
    start: Instant,
    due: Instant,
    /// When the response before was sent.
    sent_at: Instant,
    /// A response for which there was no room.
    unsent: Option<Unsent>,
    /// Says that all responses are sent; dropped before, the request was cancelled.
    answered: Option<Sender<()>>,
}

impl Job for Repeating {
    fn advance(&mut self, now: Instant, context: &mut Context<'_>) -> Next {
        for _ in 0..BURST {
            if self.completion.is_cancelled() {
                self.completion.cancel(&ResponseMarks { start: now, output_start: now, end: now });
                return Next::Over;
            }
            let Some(value) = four_bytes(&self.values, self.next) else {
                self.completion.finish(None, &Marks::at(self.start, now));
                if let Some(answered) = self.answered.take() {
                    let _ = answered.send(()); // or its instance waits no more
                }
                return Next::Over;
            };
            if now < self.due {
                let is_cancelled = self.completion.poll_cancelled(context).is_ready();
                return if is_cancelled { Next::At(now) } else { Next::At(self.due) };
            }
            let unsent = self.unsent.take().unwrap_or_else(|| {
                let marks = ResponseMarks { start: self.sent_at, output_start: now, end: now };
                Unsent::new(Ok(self.response(value)), marks, now)
            });
            match unsent.send(&mut self.completion, now, context) {
                Sent::Yes => {
                    self.next += 1;
                    self.sent_at = now;
                    self.due = now + delay(&self.delays, self.next);
                }
                Sent::Abandoned => {} // seen in the next round
                Sent::Later(unsent, next) => {
                    self.unsent = Some(*unsent);
                    return next;
                }
                Sent::GivenUp => return Next::Over,
            }
        }
        Next::At(now)
    }
}

impl Repeating {
    fn response(&self, value: [u8; 4]) -> Outputs {
        let index = u32::try_from(self.next).unwrap_or(u32::MAX).to_le_bytes();
        let tensor = |name: &Name, data_type, data: [u8; 4]| Tensor {
            name: name.clone(),
            data_type,
            shape: Shape::from_slice(&[1]),
            data: data.to_vec().into(),
        };
        let tensors = smallvec![
            tensor(&self.names.out, DataType::Int32, value),
            tensor(&self.names.idx, DataType::Uint32, index),
        ];
        Outputs { tensors, ..Outputs::default() }
    }
}

/// Values, delays, and how long the instance waits.
fn read(request: &InferRequest) -> Result<(Buffer, Buffer, Duration)> {
    let input = |name: &str| {
        let input = request.inputs.iter().find(|tensor| &*tensor.name == name);
        input.ok_or_else(|| Error::invalid_argument(format!("expected input {name}")))
    };
    let (values, delays, wait) = (input("IN")?, input("DELAY")?, input("WAIT")?);
    if values.shape != delays.shape {
        return Err(Error::invalid_argument(shapes_differ(&values.shape, &delays.shape)));
    }
    let wait = four_bytes(&wait.data, 0);
    let wait = wait.ok_or_else(|| Error::invalid_argument("unexpected size for WAIT input"))?;
    Ok((values.data.clone(), delays.data.clone(), Duration::from_millis(u32::from_le_bytes(wait).into())))
}

fn four_bytes(buffer: &Buffer, index: usize) -> Option<[u8; 4]> {
    buffer.as_host()?.get(4 * index..)?.first_chunk().copied()
}

/// How long before that response.
fn delay(delays: &Buffer, index: usize) -> Duration {
    Duration::from_millis(four_bytes(delays, index).map_or(0, u32::from_le_bytes).into())
}
