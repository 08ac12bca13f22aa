//! One execution context that counts down. What is left of a request is in its `INPUT` while it waits for its next turn.

use std::{
    task::{Context, Waker},
    time::Instant,
};

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    completion::{Marks, ResponseMarks},
    error::{Error, Result},
    responder::Reply,
    response::Outputs,
    tensor::{DataType, Name, Tensor},
};
use smallvec::smallvec;

use crate::timed::{Job, Next, Sent, Timed, Unsent};

/// Counts down.
pub(super) struct CountDownInstance {
    /// Requests whose reader is behind.
    timed: Timed<Turn>,
    output: Name,
}

impl CountDownInstance {
    pub(super) fn start(name: &str) -> Result<Self> {
        Ok(Self { timed: Timed::start(name)?, output: "OUTPUT".into() })
    }

    /// Takes one from the input. The response that says what is left, and whether that is nothing; `None` if there was
    /// nothing before.
    fn count_down(&self, pending: &mut Pending) -> Result<Option<(Reply, bool)>> {
        let input = pending.request.inputs.iter_mut().find(|tensor| &*tensor.name == "INPUT");
        let input = input.ok_or_else(|| Error::invalid_argument("expected input INPUT"))?;
        let value = input.data.as_host().and_then(|bytes| bytes.first_chunk().copied()).map_or(0, i32::from_le_bytes);
        if value <= 0 {
            return Ok(None);
        }
        input.data = (value - 1).to_le_bytes().to_vec().into();
        let output = Tensor { name: self.output.clone(), data_type: DataType::Int32, ..input.clone() };
        let reply = Ok(Outputs { tensors: smallvec![output], ..Outputs::default() });
        Ok(Some((reply, value == 1)))
    }

    fn take_turn(&self, mut pending: Pending, start: Instant) {
        if pending.completion.is_empty_row() {
            return;
        }
        match self.count_down(&mut pending) {
            Ok(Some((reply, is_last))) => {
                let now = Instant::now();
                let marks = ResponseMarks { start, output_start: now, end: now };
                let mut turn = Turn { unsent: Some((pending, Unsent::new(reply, marks, now))), is_last, start };
                if turn.advance(now, &mut Context::from_waker(Waker::noop())) != Next::Over {
                    self.timed.add(turn);
                }
            }
            Ok(None) => pending.finish(None, &Marks::at(start, Instant::now())),
            Err(error) => pending.finish(Some(Err(error)), &Marks::at(start, Instant::now())),
        }
    }
}

impl Instance for CountDownInstance {
    fn execute(&mut self, batch: Batch) {
        let (pending, execution) = batch.into_pending();
        let start = execution.start();
        pending.into_iter().for_each(|pending| self.take_turn(pending, start));
        execution.ended(&Marks::at(start, Instant::now()));
    }
}

/// A request whose response is to be sent.
struct Turn {
    unsent: Option<(Pending, Unsent)>,
    is_last: bool,
    start: Instant,
}

impl Job for Turn {
    fn advance(&mut self, now: Instant, context: &mut Context<'_>) -> Next {
        let Some((mut pending, unsent)) = self.unsent.take() else { return Next::Over };
        match unsent.send(&mut pending.completion, now, context) {
            Sent::Yes if self.is_last => pending.finish(None, &Marks::at(self.start, now)),
            Sent::Yes => pending.reschedule(Some(&Marks::at(self.start, now))),
            Sent::Abandoned => {
                pending.completion.cancel(&ResponseMarks { start: now, output_start: now, end: now });
            }
            Sent::Later(unsent, next) => {
                self.unsent = Some((pending, *unsent));
                return next;
            }
            Sent::GivenUp => {}
        }
        Next::Over
    }
}
