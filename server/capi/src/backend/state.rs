//! `TRITONBACKEND_State`: a state of a sequence that a library renews.

use std::{ffi::c_void, ptr};

use parking_lot::Mutex;
use server_core::{
    buffer::Buffer,
    error::{Error, Result},
    tensor::{DataType as CoreDataType, Shape, byte_count, shape_text},
};

use super::{memory::Block, model::check_state, new_state::NewState, request::Request, response::type_and_shape};
use crate::abi::{
    Array, Handle, Out, Text,
    export::exports,
    handle::Part,
    numbers::{DataType, MemoryType},
    objects::{Attributes, BufferAttributes},
};

/// A state of a request.
pub(crate) struct State;

impl Part for State {
    const NAME: &'static str = "TRITONBACKEND_State";
}

fn with<R>(state: Handle<Request, State>, run: impl FnOnce(&Request, &mut NewState) -> Result<R>) -> Result<R> {
    let (request, number) = state.part_of()?;
    let mut states = request.states.lock();
    let text = "TRITONBACKEND_State is no state of its request";
    run(&request, states.get_mut(number).ok_or_else(|| Error::invalid_argument(text))?)
}

exports! {
    /// A state for the next request of the sequence.
    fn TRITONBACKEND_StateNew(
        state: Out<Handle<Request, State>>,
        handle: Handle<Request>,
        name: Text,
        data_type: DataType,
        shape: Array<i64>,
        dims_count: u32,
    ) {
        let request = handle.get()?;
        state.set(Handle::NULL)?;
        let name = name.get()?;
        check_state(&request.answering.model, &name)?;
        let (data_type, shape) = type_and_shape(data_type, &shape, dims_count)?;
        let mut states = request.states.lock();
        let part = handle.part(states.len())?;
        let (name, shape) = (name.into_owned(), Shape::from_slice(shape));
        states.push(NewState { name, data_type, shape, block: None, attributes: None });
        state.set(part)
    }

    /// Memory for the bytes of a state, on the host. It may be asked for again, with another size.
    fn TRITONBACKEND_StateBuffer(
        state: Handle<Request, State>,
        buffer: Out<*mut c_void>,
        byte_size: u64,
        memory_type: Out<MemoryType>,
        memory_type_id: Out<i64>,
    ) {
        buffer.set(ptr::null_mut())?;
        with(state, |_, state| {
            // asked again, a library may still write through the address that it has
            let same = state.block.take().filter(|block| block.len() as u64 == byte_size);
            let block = same.map_or_else(|| Block::new(byte_size), Ok)?;
            buffer.set(block.address())?;
            state.block = Some(block);
            memory_type.set_if_wanted(MemoryType::CPU);
            memory_type_id.set_if_wanted(0);
            Ok(())
        })
    }

    /// Where the bytes of a state lie.
    fn TRITONBACKEND_StateBufferAttributes(
        state: Handle<Request, State>,
        attributes: Out<Handle<BufferAttributes>>,
    ) {
        with(state, |_, state| {
            let size = state.block.as_ref().map_or(0, Block::len);
            let new = || Handle::new(BufferAttributes(Mutex::new(Attributes::of_host(size))));
            attributes.set(*state.attributes.get_or_insert_with(new))
        })
    }

    /// Renews the state: the next request of the sequence reads it.
    fn TRITONBACKEND_StateUpdate(state: Handle<Request, State>) {
        with(state, |request, state| {
            let block = state.block.take().ok_or_else(|| {
                Error::invalid_argument(format!("state '{}' has no buffer: ask for one before it is updated", state.name))
            })?;
            let expected = byte_count(state.data_type, &state.shape);
            if expected != Some(block.len()) && state.data_type != CoreDataType::Bytes {
                let (name, shape, got) = (&state.name, shape_text(&state.shape), block.len());
                let text = format!("state '{name}' of type {} and shape {shape} got {got} bytes", state.data_type);
                return Err(Error::invalid_argument(text));
            }
            let data = Buffer::unique(block.into_bytes());
            let (data_type, shape) = (state.data_type, state.shape.clone());
            request.answering.with_states(|states| states.update(&state.name, data_type, shape, data))
        })
    }
}
