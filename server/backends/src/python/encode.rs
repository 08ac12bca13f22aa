//! Requests as a worker reads them.

use std::{fmt::Write as _, sync::Arc};

use server_core::{
    buffer::Buffer,
    error::Result,
    request::{CorrelationId, InferRequest, Parameter},
    tensor::{DataType, Tensor},
};
use server_shm::Segment;

use super::{
    marshal::Writer,
    memory::InputLeases,
    wire::{INLINE_MAX, kind},
};

/// A message that is being made, the segments it speaks of, and the inputs it lends.
#[derive(Default)]
pub(super) struct Message {
    pub(super) writer: Writer,
    pub(super) segments: Vec<Arc<Segment>>,
    /// inputs that were leased for it.
    pub(super) handles: Vec<u64>,
}

impl Message {
    /// The head of a message that runs so many requests; they follow.
    pub(super) fn execute(memory: Vec<u8>, count: usize) -> Self {
        let mut writer = Writer::reusing(memory);
        writer.tuple(2);
        writer.int(kind::EXECUTE);
        writer.tuple(count);
        Self { writer, ..Self::default() }
    }

    /// The head of a message that runs so many requests in the middle of a call; they follow.
    pub(super) fn execute_in_call(execution: u64, count: usize) -> Self {
        let mut writer = Writer::default();
        writer.tuple(3);
        writer.int(kind::EXECUTE);
        writer.uint(execution);
        writer.tuple(count);
        Self { writer, ..Self::default() }
    }

    /// One request. On an error the message is not to be sent.
    ///
    /// Errors: there is no memory to show its inputs in.
    pub(super) fn request(&mut self, slot: u32, request: &InferRequest, leases: &InputLeases) -> Result<()> {
        self.writer.tuple(5);
        self.writer.int(slot.into());
        self.writer.str(&request.id);
        self.writer.tuple(request.inputs.len());
        for input in &request.inputs {
            self.tensor(input, leases)?;
        }
        if request.outputs.is_empty() {
            self.writer.none();
        } else {
            self.writer.tuple(request.outputs.len());
            request.outputs.iter().for_each(|output| self.writer.str(&output.name));
        }
        self.rest(request);
        Ok(())
    }

    /// What most requests do not have.
    fn rest(&mut self, request: &InferRequest) {
        let writer = &mut self.writer;
        let timeout = request.timeout.map_or(0, |timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX));
        if request.sequence.is_none() && timeout == 0 && request.parameters.is_empty() && request.trace.is_none() {
            return writer.none();
        }
        writer.tuple(5);
        match request.sequence.as_ref().map(|sequence| &sequence.id) {
            Some(CorrelationId::Text(text)) => writer.str(text),
            Some(CorrelationId::Number(number)) => writer.uint(*number),
            None => writer.int(0),
        }
        writer.int(
            request
                .sequence
                .as_ref()
                .map_or(0, |sequence| i64::from(sequence.is_start) | i64::from(sequence.is_end) << 1),
        );
        writer.uint(timeout);
        if request.parameters.is_empty() {
            writer.none()
        } else {
            writer.str(&parameters(request))
        }
        match &request.trace {
            None => writer.none(),
            Some(trace) => {
                writer.tuple(2);
                writer.uint(trace.id());
                match trace.context() {
                    None => writer.none(),
                    Some(context) => writer.str(&context),
                }
            }
        }
    }

    /// A tensor, in the message if it is small. On an error the message is not to be sent, and all that was leased for it is
    /// taken back: the worker never hears of it.
    ///
    /// Errors: there is no memory to show it in.
    pub(super) fn tensor(&mut self, tensor: &Tensor, leases: &InputLeases) -> Result<()> {
        self.writer.tuple(4);
        self.writer.str(&tensor.name);
        self.writer.int(type_number(tensor.data_type));
        self.writer.tuple(tensor.shape.len());
        tensor.shape.iter().for_each(|extent| self.writer.int(*extent));
        self.data(&tensor.data, leases)
    }

    fn data(&mut self, data: &Buffer, leases: &InputLeases) -> Result<()> {
        if let Some(bytes) = data.as_host().filter(|bytes| bytes.len() <= INLINE_MAX) {
            self.writer.bytes(bytes);
            return Ok(());
        }
        let lease = leases.lease(data).inspect_err(|_| leases.release(self.handles.drain(..)))?;
        self.writer.tuple(4);
        let place = [lease.handle, lease.segment.id(), lease.offset as u64, lease.length as u64];
        place.into_iter().for_each(|number| self.writer.uint(number));
        self.segments.push(lease.segment);
        self.handles.push(lease.handle);
        Ok(())
    }
}

/// The message that runs so many batches one after the other: their own messages, one behind the other, as [`Message::execute`]
/// begins them. Each is answered by itself.
pub(super) fn execute_each(count: usize, messages: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.tuple(2);
    writer.int(kind::EXECUTE_EACH);
    writer.tuple(count);
    writer.written(messages);
    writer.into_bytes()
}

/// The number of a type in Triton's `TRITONSERVER_DataType`.
fn type_number(data_type: DataType) -> i64 {
    data_type as i64 + 1
}

/// The type of that number.
pub(super) fn type_of(number: u64) -> Option<DataType> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    DataType::ALL.get(index).copied()
}

/// The caller's parameters as the JSON text of an object.
fn parameters(request: &InferRequest) -> String {
    let mut text = String::from("{");
    for (index, (key, value)) in request.parameters.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{}:", serde_json::Value::from(key.as_str())); // into a String: cannot fail
        let _ = match value {
            Parameter::Bool(value) => write!(text, "{value}"),
            Parameter::Int(value) => write!(text, "{value}"),
            Parameter::Uint(value) => write!(text, "{value}"),
            Parameter::Double(value) => write!(text, "{}", serde_json::Value::from(*value)),
            Parameter::String(value) => write!(text, "{}", serde_json::Value::from(value.as_str())),
        };
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use server_shm::{Limits, SegmentPool};

    use super::*;
    use crate::python::marshal;

    #[test]
    fn what_was_lent_for_a_message_that_cannot_be_made_is_taken_back() {
        let pool = SegmentPool::new(Limits { total: 250_000, idle: 0, ..Limits::default() });
        let leases = InputLeases::new(pool.clone(), 0);
        let tensor = |length: usize| Tensor {
            name: "IN".into(),
            data_type: DataType::Uint8,
            shape: [length as i64].as_slice().into(),
            data: vec![7; length].into(),
        };
        let mut message = Message::default();
        message.tensor(&tensor(100_000), &leases).unwrap();
        message.tensor(&tensor(100), &leases).unwrap();
        message.tensor(&tensor(100_000), &leases).unwrap();
        assert_eq!(message.handles, [1, 2]);
        message.tensor(&tensor(100_000), &leases).unwrap_err();
        drop(message);
        assert_eq!(pool.bytes(), 0);
    }

    #[test]
    fn several_batches_in_one_message_are_told_apart() {
        let batch = |count| {
            let mut message = Message::execute(Vec::new(), count);
            (0..count).for_each(|_| message.writer.tuple(0));
            message.writer.into_bytes()
        };
        let bytes = execute_each(3, &[batch(1), batch(2), batch(1)].concat());
        let (message, rest) = marshal::read(&bytes).unwrap();
        assert!(rest.is_empty());
        let [kind, batches] = message.items() else { panic!("{message:?}") };
        assert_eq!(kind.number(), Some(kind::EXECUTE_EACH as u64));
        let of_each = |batch: &marshal::Value<'_>| (batch.items()[0].number(), batch.items()[1].items().len());
        let execute = Some(kind::EXECUTE as u64);
        let told: Vec<_> = batches.items().iter().map(of_each).collect();
        assert_eq!(told, [(execute, 1), (execute, 2), (execute, 1)]);
    }

    #[test]
    fn types_have_the_numbers_of_triton() {
        assert_eq!(type_number(DataType::Bool), 1);
        assert_eq!(type_number(DataType::Fp32), 11);
        assert_eq!(type_number(DataType::Bf16), 14);
        for data_type in DataType::ALL {
            assert_eq!(type_of(type_number(data_type) as u64), Some(data_type));
        }
        assert_eq!((type_of(0), type_of(15)), (None, None));
    }
}
