//! An execution context whose runtime runs by itself once it was started, as GPUs do: while one batch runs, the next is formed, gathered and
//! started.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    error::{Error, Result},
    responder::Reply,
    response::Outputs,
    tensor::Shape,
};
use smallvec::SmallVec;

use super::{
    input::InputError,
    instance::Moments,
    output::{Output, Run, Texts},
    runner::{Value, Values},
    scratch::GatherBuffer,
    tensors::Tensors,
};
use crate::heap::TrimAfter;

/// How many batches are under way at most: one runs, one is made ready.
pub(crate) const LANES: usize = 2;

/// A runtime that runs by itself once it was started. Each lane has one run at a time.
pub(crate) trait Overlapping: Send {
    /// Memory that the runtime reads inputs from.
    type Buffer: GatherBuffer + Send;
    /// What one run answers per output. It may borrow from the lane.
    type Value<'a>: Value
    where
        Self: 'a;

    /// Memory for one input of one lane.
    fn gather_buffer(&self) -> Self::Buffer;

    /// Starts a run of so many rows that computes the outputs `wanted`. `buffers` stay as they are until it has ended.
    ///
    /// Errors: whatever the runtime finds wrong; nothing runs then.
    fn start(
        &mut self,
        lane: usize,
        staged: &[Staged],
        buffers: &[Self::Buffer],
        wanted: &[usize],
        rows: u32,
    ) -> Result<()>;

    /// Blocks until the runtime has begun with the run of the lane: the next batch may be formed, as late as that.
    fn wait_until_begun(&mut self, lane: usize);

    /// Blocks until the run of the lane has ended: its outputs, in the order in which they were wanted.
    ///
    /// Errors: whatever went wrong in it.
    fn finish(&mut self, lane: usize) -> Result<Values<Self::Value<'_>>>;

    /// Blocks until nothing uses buffers and lanes any more, after a panic in one of the others.
    fn settle(&mut self);
}

/// One input of a run: where it lies, and its shape.
#[derive(Debug, Clone)]
pub(crate) struct Staged {
    /// Number of the input, in the order of [`Tensors`].
    pub(crate) number: usize,
    /// Number of the buffer.
    pub(crate) buffer: usize,
    /// Its first bytes, so many.
    pub(crate) length: usize,
    /// Of the whole batch.
    pub(crate) shape: Shape,
}

/// A runtime of that kind and what it needs to serve requests.
pub(crate) struct OverlappedInstance<R: Overlapping> {
    name: String,
    /// Ends its runs when it is dropped, before `buffers`.
    runner: R,
    tensors: Tensors,
    has_rows: bool,
    /// Of each lane: one per input, and one per computed input.
    buffers: [Vec<R::Buffer>; LANES],
    texts: Texts,
    /// After the runner.
    _memory: TrimAfter,
}

/// A batch that runs.
struct UnderWay {
    batch: Batch,
    lane: usize,
    wanted: SmallVec<[usize; 8]>,
    moments: Moments,
}

impl<R: Overlapping> OverlappedInstance<R> {
    /// As [`super::BatchInstance::new`].
    pub(crate) fn new(name: String, runner: R, tensors: Tensors, has_rows: bool) -> Self {
        let count = tensors.inputs.len() + tensors.computed.len();
        let buffers = std::array::from_fn(|_| (0..count).map(|_| runner.gather_buffer()).collect());
        Self { name, runner, tensors, has_rows, buffers, texts: Texts::default(), _memory: TrimAfter }
    }

    /// Whether all requests of a batch may run together.
    fn may_run_together(&self, requests: &[Pending]) -> bool {
        requests.len() <= 1 || (self.has_rows && !self.tensors.outputs.iter().any(Output::is_scalar))
    }

    /// Gathers the inputs of requests and starts their run.
    fn start(
        &mut self,
        lane: usize,
        requests: &[Pending],
        moments: &mut Moments,
    ) -> Result<SmallVec<[usize; 8]>, InputError> {
        let Self { runner, tensors: Tensors { inputs, computed, outputs }, buffers, .. } = self;
        let buffers = &mut buffers[lane];
        let mut staged = SmallVec::<[Staged; 8]>::new();
        for (number, input) in inputs.iter().enumerate() {
            if let Some(fed) = input.feed(requests, number, &mut buffers[number])? {
                staged.push(Staged { number, buffer: number, length: fed.length(), shape: fed.shape().clone() });
            }
        }
        let mut number = inputs.len();
        for (place, input) in computed.iter().enumerate() {
            let (shape, bytes) = input.compute(requests)?;
            let buffer = inputs.len() + place;
            buffers[buffer].bytes(bytes.len()).copy_from_slice(&bytes);
            for _ in &input.targets {
                staged.push(Staged { number, buffer, length: bytes.len(), shape: shape.clone() });
                number += 1;
            }
        }
        moments.input_end.get_or_insert_with(Instant::now);
        let is_wanted = |output: &Output| requests.iter().any(|pending| output.is_wanted(pending));
        let wanted: SmallVec<[usize; 8]> =
            outputs.iter().enumerate().filter(|(_, output)| is_wanted(output)).map(|(number, _)| number).collect();
        let rows = requests.iter().map(Pending::batch_size).sum();
        runner.start(lane, &staged, buffers, &wanted, rows)?;
        Ok(wanted)
    }

    /// Waits for a run and appends the answers of its requests; appends nothing if it fails.
    fn finish(
        &mut self,
        lane: usize,
        wanted: &[usize],
        requests: &[Pending],
        replies: &mut Vec<Reply>,
        moments: &mut Moments,
    ) -> Result<()> {
        let Self { runner, tensors, texts, has_rows, .. } = self;
        let values = runner.finish(lane)?;
        moments.output_start = Some(Instant::now());
        if values.len() != wanted.len() {
            return Err(Error::internal("an output is missing"));
        }
        let first = replies.len();
        replies.resize_with(first + requests.len(), || Ok(Outputs::default()));
        let run = Run { fed: &[], requests, has_rows: *has_rows };
        for (&number, value) in wanted.iter().zip(values) {
            if let Err(error) = tensors.outputs[number].distribute(value, &run, texts, &mut replies[first..]) {
                replies.truncate(first);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Runs requests of which not all can run together, or on which the model failed: each half by itself, down to the requests at
    /// fault. Nothing else is under way.
    fn run_in_parts(&mut self, requests: &[Pending], replies: &mut Vec<Reply>, moments: &mut Moments) {
        if requests.iter().all(|pending| pending.completion.is_empty_row()) {
            return replies.extend(requests.iter().map(|_| Ok(Outputs::default())));
        }
        let ran = if self.may_run_together(requests) {
            let wanted = self.start(0, requests, moments);
            wanted.and_then(|wanted| Ok(self.finish(0, &wanted, requests, replies, moments)?))
        } else {
            Err(InputError::CannotShareBatch)
        };
        match ran {
            Ok(()) => {}
            Err(_) if requests.len() > 1 => {
                let (first, second) = requests.split_at(requests.len() / 2);
                self.run_in_parts(first, replies, moments);
                self.run_in_parts(second, replies, moments);
            }
            Err(InputError::Failed(error)) => replies.push(Err(error)),
            Err(InputError::CannotShareBatch) => {
                replies.push(Err(Error::internal("a request does not fit itself")));
            }
        }
    }

    /// Starts a batch as a whole; gives it back if that cannot be, or if it would not run.
    fn begin(&mut self, batch: Batch, lane: usize) -> std::result::Result<UnderWay, Batch> {
        if !self.may_run_together(batch.pending())
            || batch.pending().iter().all(|pending| pending.completion.is_empty_row())
        {
            return Err(batch);
        }
        let mut moments = Moments::default();
        let started = catch_unwind(AssertUnwindSafe(|| self.start(lane, batch.pending(), &mut moments)));
        match started {
            Ok(Ok(wanted)) => Ok(UnderWay { batch, lane, wanted, moments }),
            Ok(Err(_)) => Err(batch),
            Err(_) => {
                self.runner.settle();
                Err(batch)
            }
        }
    }

    /// Answers a batch that was started; gives it back if its run failed and its requests may run by themselves.
    fn end(&mut self, under_way: UnderWay) -> std::result::Result<(), Batch> {
        let UnderWay { batch, lane, wanted, mut moments } = under_way;
        let mut replies = Vec::with_capacity(batch.pending().len());
        let finished =
            catch_unwind(AssertUnwindSafe(|| self.finish(lane, &wanted, batch.pending(), &mut replies, &mut moments)));
        if finished.is_err() {
            self.runner.settle();
        }
        match finished {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) if batch.pending().len() > 1 => return Err(batch),
            Ok(Err(error)) => replies = vec![Err(error)],
            Err(_) => replies = vec![Err(self.failed_inside())],
        }
        moments.complete(batch, replies);
        Ok(())
    }

    /// Answers a batch request by request if need be. Nothing else is under way.
    fn run_alone(&mut self, batch: Batch) {
        let mut moments = Moments::default();
        let mut replies = Vec::with_capacity(batch.pending().len());
        let run = || self.run_in_parts(batch.pending(), &mut replies, &mut moments);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            self.runner.settle();
            let error = self.failed_inside();
            replies.resize_with(batch.pending().len(), || Err(error.clone()));
        }
        moments.complete(batch, replies);
    }

    fn failed_inside(&self) -> Error {
        Error::internal(format!("instance '{}' failed inside while it ran a batch", self.name))
    }
}

impl<R: Overlapping> Instance for OverlappedInstance<R> {
    fn execute(&mut self, batch: Batch) {
        self.execute_with_more(batch, &mut || None);
    }

    fn execute_with_more(&mut self, batch: Batch, more: &mut dyn FnMut() -> Option<Batch>) {
        let mut under_way = VecDeque::<UnderWay>::with_capacity(LANES);
        let mut alone = VecDeque::new();
        let mut next = Some(batch);
        loop {
            if let Some(batch) = next.take() {
                // Of two lanes the one is free that the other batch, if there is one, does not have.
                let lane = under_way.back().map_or(0, |other| (other.lane + 1) % LANES);
                match self.begin(batch, lane) {
                    Ok(started) => under_way.push_back(started),
                    Err(batch) => alone.push_back(batch),
                }
            }
            if let Some(last) = under_way.back().filter(|_| alone.is_empty() && under_way.len() < LANES) {
                self.runner.wait_until_begun(last.lane);
                next = more();
            }
            if next.is_some() {
                continue;
            }
            if let Some(oldest) = under_way.pop_front() {
                if let Err(batch) = self.end(oldest) {
                    alone.push_front(batch);
                }
                continue;
            }
            let Some(batch) = alone.pop_front() else { return };
            self.run_alone(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem;

    use bytes::Bytes;
    use server_core::tensor::DataType;

    use super::{super::input::Fed, *};
    use crate::testing::{request, run_one};

    struct Memory;

    impl GatherBuffer for Memory {
        const HOLDS_ALL: bool = true;

        fn bytes(&mut self, _: usize) -> &mut [u8] {
            &mut []
        }
    }

    /// Of a model without outputs there is none.
    enum Nothing {}

    impl Value for Nothing {
        fn describe(&self) -> Result<(Option<DataType>, Shape)> {
            match *self {}
        }

        fn bytes(&self) -> Result<&[u8]> {
            match *self {}
        }

        fn into_bytes(self, _: &[(usize, Fed<'_>)]) -> Result<Bytes> {
            match self {}
        }

        fn read_strings(&self, _: &mut Vec<u8>, _: &mut Vec<usize>) -> Result<()> {
            match *self {}
        }
    }

    /// Its first start panics, when work is under way.
    #[derive(Default)]
    struct Panicking {
        is_under_way: bool,
        has_panicked: bool,
    }

    impl Overlapping for Panicking {
        type Buffer = Memory;
        type Value<'a> = Nothing;

        fn gather_buffer(&self) -> Memory {
            Memory
        }

        fn start(&mut self, _: usize, _: &[Staged], _: &[Memory], _: &[usize], _: u32) -> Result<()> {
            if self.is_under_way {
                return Err(Error::internal("work of an earlier run is under way"));
            }
            self.is_under_way = true;
            assert!(mem::replace(&mut self.has_panicked, true), "as the test wants it");
            Ok(())
        }

        fn wait_until_begun(&mut self, _: usize) {}

        fn finish(&mut self, _: usize) -> Result<Values<Nothing>> {
            self.is_under_way = false;
            Ok(Values::new())
        }

        fn settle(&mut self) {
            self.is_under_way = false;
        }
    }

    #[test]
    fn after_a_panic_nothing_is_under_way_when_requests_run_alone() {
        let tensors = Tensors { inputs: Vec::new(), computed: Vec::new(), outputs: Vec::new() };
        let mut instance = OverlappedInstance::new("m_0".into(), Panicking::default(), tensors, false);
        run_one(&mut instance, request([])).unwrap();
    }
}
