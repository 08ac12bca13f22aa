//! What is kept of a response: a copy of its own, in one piece of memory, so that what it came in (the body of a request, the
//! outputs of a whole batch) can go. Whoever finds it shares that memory.

use std::mem::size_of;

use bytes::{Bytes, BytesMut};

use super::CacheKey;
use crate::{
    request::Parameter,
    response::{Outputs, ResponseParameters},
    tensor::Tensor,
};

/// Tensors start at multiples of this many bytes within an entry.
const ALIGNMENT: usize = 16;

/// Bytes that an entry takes besides its tensors: its key, twice, and its place in the tables of a cache.
const OVERHEAD: usize = 2 * size_of::<CacheKey>() + size_of::<CachedResponse>() + 64;

/// One response that is kept.
#[derive(Debug, Clone)]
pub struct CachedResponse {
    outputs: Outputs,
    byte_size: usize,
}

impl CachedResponse {
    /// A copy of a response; `None` if the host does not see all of it.
    pub fn of(outputs: &Outputs) -> Option<Self> {
        let mut length = 0_usize;
        for tensor in &outputs.tensors {
            length = length.checked_next_multiple_of(ALIGNMENT)?.checked_add(tensor.data.len())?;
        }
        let mut copy = BytesMut::with_capacity(length);
        let mut places = Vec::with_capacity(outputs.tensors.len());
        for tensor in &outputs.tensors {
            copy.resize(copy.len().next_multiple_of(ALIGNMENT), 0);
            places.push(copy.len());
            copy.extend_from_slice(tensor.data.as_host()?);
        }
        let copy: Bytes = copy.freeze();
        let own = |(tensor, &place): (&Tensor, &usize)| Tensor {
            name: tensor.name.clone(),
            data_type: tensor.data_type,
            shape: tensor.shape.clone(),
            data: copy.slice(place..place + tensor.data.len()).into(),
        };
        let tensors = outputs.tensors.iter().zip(&places).map(own).collect();
        Some(Self {
            byte_size: Self::byte_size_of(outputs),
            outputs: Outputs { tensors, parameters: outputs.parameters.clone() },
        })
    }

    /// The response, sharing the entry's memory.
    pub fn outputs(&self) -> Outputs {
        self.outputs.clone()
    }

    /// Bytes of memory that it takes in a cache.
    pub fn byte_size(&self) -> usize {
        self.byte_size
    }

    /// Bytes of memory that a response would take in a cache.
    pub fn byte_size_of(outputs: &Outputs) -> usize {
        let tensor = |tensor: &Tensor| {
            let shape = if tensor.shape.spilled() { size_of::<i64>() * tensor.shape.len() } else { 0 };
            let data = tensor.data.len().saturating_add(ALIGNMENT);
            data.saturating_add(size_of::<Tensor>() + tensor.name.len() + shape)
        };
        let tensors = outputs.tensors.iter().map(tensor).fold(OVERHEAD, usize::saturating_add);
        tensors.saturating_add(parameter_bytes(&outputs.parameters))
    }
}

fn parameter_bytes(parameters: &ResponseParameters) -> usize {
    let each = |(key, value): &(String, Parameter)| {
        let text = if let Parameter::String(text) = value { text.len() } else { 0 };
        size_of::<(String, Parameter)>() + key.len() + text
    };
    parameters.iter().map(each).sum()
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::tensor::DataType;

    #[test]
    fn an_entry_is_a_copy_that_its_readers_share() {
        let body = Bytes::from(vec![7; 1 << 20]);
        let tensor = |name: &str, data: Bytes| Tensor {
            name: name.into(),
            data_type: DataType::Uint8,
            shape: smallvec![1, data.len() as i64],
            data: data.into(),
        };
        let parameters = vec![("key".to_owned(), Parameter::String("value".into()))];
        let outputs = Outputs {
            tensors: smallvec![
                tensor("A", body.slice(1..4)),
                tensor("B", body.slice(0..0)),
                tensor("C", body.slice(5..6))
            ],
            parameters: parameters.into(),
        };
        let entry = CachedResponse::of(&outputs).unwrap();
        drop(outputs);
        assert!(body.is_unique(), "nothing of the body is kept");
        assert!((200..2000).contains(&entry.byte_size()), "{}", entry.byte_size());
        let found = [entry.outputs(), entry.outputs()];
        for outputs in &found {
            let told: Vec<_> = outputs.tensors.iter().map(|it| (&*it.name, it.data.as_host().unwrap())).collect();
            assert_eq!(told, [("A", &[7, 7, 7][..]), ("B", &[]), ("C", &[7])]);
            assert_eq!(outputs.parameters.len(), 1);
            assert!(outputs.tensors.iter().all(|it| it.data.as_host().unwrap().as_ptr().addr() % ALIGNMENT == 0));
        }
        let at = |outputs: &Outputs| outputs.tensors[0].data.as_host().unwrap().as_ptr();
        assert_eq!(at(&found[0]), at(&found[1]));
        // who reads it has no right to write into it
        assert!(!found[0].tensors[0].data.take_unique());
    }
}
