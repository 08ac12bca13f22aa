//! One execution context of a Python model: its worker, as the instance's thread drives it.

use std::{sync::Arc, time::Instant};

use server_core::{
    backend::Instance,
    batch::{Batch, Pending},
    completion::Marks,
    error::{Error, Result},
    responder::Reply,
    tensor::Name,
};

use super::{
    channel::not_understood,
    decode::{Decoder, Outcome},
    encode::Message,
    marshal,
    worker::{Failure, Worker},
};

/// Runs batches on one worker.
pub(super) struct PythonInstance {
    /// Taken at the end.
    worker: Option<Worker>,
    name: String,
    output_names: Arc<[Name]>,
    /// Memory of the last message, for the next.
    memory: Vec<u8>,
}

impl PythonInstance {
    pub(super) fn new(worker: Worker, name: &str, output_names: Arc<[Name]>) -> Self {
        Self { worker: Some(worker), name: name.to_owned(), output_names, memory: Vec::new() }
    }

    /// What came of each request, and when the worker got them.
    ///
    /// Errors: of the whole batch.
    fn run(&mut self, pending: &[Pending]) -> Result<(Vec<Outcome>, Instant)> {
        let worker = self.worker.as_mut().ok_or_else(|| Error::internal("the worker has ended"))?;
        let mut message = Message::execute(std::mem::take(&mut self.memory), pending.len());
        for (slot, pending) in (0..).zip(pending) {
            message.request(slot, &pending.request, &worker.shared.lent)?;
        }
        let Message { writer, segments } = message;
        self.memory = writer.into_bytes();
        let sent_at = Instant::now();
        let names = &self.output_names;
        let outcomes = worker.ask(&self.memory, &segments, |results, appended, shared| {
            let mut decoder = Decoder::new(names, &shared.lent, &shared.outputs);
            let outcomes: Vec<Outcome> = results.items().iter().map(|result| decoder.outcome(result)).collect();
            if !appended.is_empty() {
                let (released, _) = marshal::read(appended).map_err(not_understood)?;
                shared.release(&released);
            }
            Ok(outcomes)
        });
        let outcomes = outcomes.map_err(|failure| match failure {
            Failure::Refused(text) => Error::internal(format!(
                "Failed to process the request(s) for model instance '{}', message: {text}",
                self.name
            )),
            Failure::Lost(error) => error,
        })?;
        if outcomes.len() != pending.len() {
            return Err(not_understood("as many results as requests were expected"));
        }
        Ok((outcomes, sent_at))
    }
}

impl Instance for PythonInstance {
    fn execute(&mut self, batch: Batch) {
        match self.run(batch.pending()) {
            Ok((outcomes, input_end)) => {
                let end = Instant::now();
                let replies: Vec<Reply> = outcomes.into_iter().map(reply).collect();
                let marks = Marks { start: batch.start(), input_end, output_start: end, end };
                batch.complete(replies, &marks);
            }
            Err(error) => batch.fail(&error, Instant::now()),
        }
    }
}

fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Response(reply) => reply,
        Outcome::Nothing | Outcome::Rescheduled => Err(Error::unsupported("response senders are not supported")),
    }
}

impl Drop for PythonInstance {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.end();
        }
    }
}
