//! `TRITONSERVER_BufferAttributes`: where bytes lie.

use std::ffi::c_void;

use parking_lot::Mutex;
use server_core::error::Error;

use super::delete;
use crate::abi::{
    Handle, Out,
    export::exports,
    numbers::MemoryType,
    objects::{Attributes, BufferAttributes},
};

exports! {
    /// Attributes of nothing yet.
    fn TRITONSERVER_BufferAttributesNew(attributes: Out<Handle<BufferAttributes>>) {
        attributes.set(Handle::new(BufferAttributes(Mutex::new(Attributes::of_host(0)))))
    }

    /// Deletes them.
    fn TRITONSERVER_BufferAttributesDelete(attributes: Handle<BufferAttributes>) {
        delete(attributes)
    }

    /// Of which device the memory is.
    fn TRITONSERVER_BufferAttributesSetMemoryTypeId(attributes: Handle<BufferAttributes>, memory_type_id: i64) {
        attributes.get()?.0.lock().memory_type_id = memory_type_id;
        Ok(())
    }

    /// What kind of memory it is.
    fn TRITONSERVER_BufferAttributesSetMemoryType(attributes: Handle<BufferAttributes>, memory_type: MemoryType) {
        if memory_type.text().is_none() {
            return Err(Error::invalid_argument(format!("there is no memory type {}", memory_type.0)));
        }
        attributes.get()?.0.lock().memory_type = memory_type;
        Ok(())
    }

    /// The handle by which other processes map it: an address, which the library keeps.
    fn TRITONSERVER_BufferAttributesSetCudaIpcHandle(attributes: Handle<BufferAttributes>, handle: *mut c_void) {
        attributes.get()?.0.lock().cuda_ipc_handle = handle.expose_provenance();
        Ok(())
    }

    /// How many bytes it has.
    fn TRITONSERVER_BufferAttributesSetByteSize(attributes: Handle<BufferAttributes>, byte_size: usize) {
        attributes.get()?.0.lock().byte_size = byte_size;
        Ok(())
    }

    /// Of which device the memory is.
    fn TRITONSERVER_BufferAttributesMemoryTypeId(attributes: Handle<BufferAttributes>, memory_type_id: Out<i64>) {
        memory_type_id.set(attributes.get()?.0.lock().memory_type_id)
    }

    /// What kind of memory it is.
    fn TRITONSERVER_BufferAttributesMemoryType(attributes: Handle<BufferAttributes>, memory_type: Out<MemoryType>) {
        memory_type.set(attributes.get()?.0.lock().memory_type)
    }

    /// The handle by which other processes map it, or null.
    fn TRITONSERVER_BufferAttributesCudaIpcHandle(attributes: Handle<BufferAttributes>, handle: Out<*mut c_void>) {
        handle.set(std::ptr::with_exposed_provenance_mut(attributes.get()?.0.lock().cuda_ipc_handle))
    }

    /// How many bytes it has.
    fn TRITONSERVER_BufferAttributesByteSize(attributes: Handle<BufferAttributes>, byte_size: Out<usize>) {
        byte_size.set(attributes.get()?.0.lock().byte_size)
    }
}
