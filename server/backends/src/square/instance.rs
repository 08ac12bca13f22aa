//! One execution context of a square model, and its thread, which answers the requests that `execute` has taken.

use std::{task::Context, time::Instant};

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    completion::{Completion, Marks, ResponseMarks},
    error::{Code, Error, Result},
    request::InferRequest,
    responder::Reply,
    response::Outputs,
    tensor::{DataType, Name, Shape, Tensor},
};
use smallvec::smallvec;

use super::custom::{Custom, Outcome};
use crate::timed::{Job, Next, Sent, Timed, Unsent};

/// Most steps of one request before it is another's turn.
const BURST: usize = 128;

/// Answers its requests.
pub(super) struct SquareInstance {
    timed: Timed<Squaring>,
    custom: Custom,
    name: Name,
}

impl SquareInstance {
    pub(super) fn start(name: &str, custom: Custom) -> Result<Self> {
        Ok(Self { timed: Timed::start(name)?, custom, name: "OUT".into() })
    }
}

impl Instance for SquareInstance {
    fn execute(&mut self, batch: Batch) {
        let (pending, execution) = batch.into_pending();
        let start = execution.start();
        for Pending { request, mut completion } in pending {
            match read(&request) {
                Ok((value, shape)) => self.timed.add(Squaring {
                    completion,
                    custom: self.custom,
                    output: Tensor {
                        name: self.name.clone(),
                        data_type: DataType::Int32,
                        shape,
                        data: value.to_le_bytes().to_vec().into(),
                    },
                    count: u64::try_from(value).unwrap_or(0),
                    next: 0,
                    start,
                    step: Step::Begin,
                    unsent: None,
                }),
                Err(error) => completion.finish(Some(Err(error)), &Marks::at(start, Instant::now())),
            }
        }
        execution.ended(&Marks::at(start, Instant::now()));
    }
}

/// What is being done for a request.
enum Step {
    /// The next response, or the end.
    Begin,
    /// A response is computed.
    Compute { since: Instant },
    /// Its output is made.
    Output { since: Instant, output_start: Instant },
    /// It is sent.
    Send,
    /// The caller has left.
    CleanUp { since: Instant },
}

/// A request that is being answered.
struct Squaring {
    completion: Completion,
    custom: Custom,
    output: Tensor,
    /// Responses in all.
    count: u64,
    /// The response that is next.
    next: u64,
    start: Instant,
    step: Step,
    /// The response that is sent.
    unsent: Option<Unsent>,
}

impl Job for Squaring {
    fn advance(&mut self, now: Instant, context: &mut Context<'_>) -> Next {
        for _ in 0..BURST {
            let (step, due) = match std::mem::replace(&mut self.step, Step::Begin) {
                Step::Begin if self.completion.is_cancelled() => (Step::CleanUp { since: now }, now),
                Step::Begin if self.next == self.count => {
                    self.completion.finish(None, &Marks::at(self.start, now));
                    return Next::Over;
                }
                Step::Begin => (Step::Compute { since: now }, now),
                Step::Compute { since } if now < since + self.custom.infer_delay => {
                    (Step::Compute { since }, since + self.custom.infer_delay)
                }
                Step::Compute { since } if self.custom.outcome(self.next, self.count) == Outcome::Empty => {
                    self.completion.skip(&ResponseMarks { start: since, output_start: now, end: now });
                    self.next += 1;
                    (Step::Begin, now)
                }
                Step::Compute { since } => (Step::Output { since, output_start: now }, now),
                Step::Output { since, output_start } if now < output_start + self.custom.output_delay => {
                    (Step::Output { since, output_start }, output_start + self.custom.output_delay)
                }
                Step::Output { since, output_start } => {
                    let marks = ResponseMarks { start: since, output_start, end: now };
                    self.unsent = Some(Unsent::new(self.reply(), marks, now));
                    (Step::Send, now)
                }
                Step::Send => match self.unsent.take().map(|unsent| unsent.send(&mut self.completion, now, context)) {
                    None | Some(Sent::Yes | Sent::Abandoned) => {
                        self.next += 1;
                        (Step::Begin, now)
                    }
                    Some(Sent::Later(unsent, next)) => {
                        self.unsent = Some(*unsent);
                        self.step = Step::Send;
                        return next;
                    }
                    Some(Sent::GivenUp) => return Next::Over,
                },
                Step::CleanUp { since } if now < since + self.custom.cancel_delay => {
                    (Step::CleanUp { since }, since + self.custom.cancel_delay)
                }
                Step::CleanUp { since } => {
                    self.completion.cancel(&ResponseMarks { start: since, output_start: now, end: now });
                    return Next::Over;
                }
            };
            self.step = step;
            if due > now {
                return Next::At(due);
            }
        }
        Next::At(now)
    }
}

impl Squaring {
    fn reply(&self) -> Reply {
        match self.custom.outcome(self.next, self.count) {
            Outcome::Fail => Err(Error::new(Code::Unknown, "simulated failure")),
            _ => Ok(Outputs { tensors: smallvec![self.output.clone()], ..Outputs::default() }),
        }
    }
}

/// The value, and the shape of its responses.
fn read(request: &InferRequest) -> Result<(i32, Shape)> {
    let input = request.inputs.iter().find(|tensor| &*tensor.name == "IN");
    let value = input.and_then(|input| Some((input, input.data.as_host()?.first_chunk()?)));
    match value {
        Some((input, value)) if input.shape.iter().all(|&extent| extent == 1) => {
            Ok((i32::from_le_bytes(*value), input.shape.clone()))
        }
        _ => Err(Error::invalid_argument("unexpected shape for IN input")),
    }
}
