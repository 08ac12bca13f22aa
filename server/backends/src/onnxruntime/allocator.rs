//! Memory of a session on a device, and tensors in it.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_void},
    ptr::{self, NonNull},
    sync::Arc,
};

use ort::{AsPointer, session::SharedSessionInner, sys};
use server_core::tensor::{DataType, Shape};

use super::{
    element::data_type_of,
    raw::{Failure, Value, check},
};

/// Memory of a session on a device. Outlives the tensors made with it.
pub(super) struct Allocator {
    allocator: NonNull<sys::OrtAllocator>,
    /// The allocator is the session's.
    _session: Arc<SharedSessionInner>,
}

impl Allocator {
    /// `memory`: where, as ONNX Runtime calls it, and the number of the device.
    pub(super) fn of(session: &Arc<SharedSessionInner>, memory: (&CStr, i32)) -> Result<Self, Failure> {
        let (kind, place) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
        let (mut info, mut allocator) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the name is terminated; the description that the call makes is released after it was used.
        unsafe {
            check((ort::api().CreateMemoryInfo)(memory.0.as_ptr(), kind, memory.1, place, &mut info))?;
            let status = (ort::api().CreateAllocator)(session.ptr(), info, &mut allocator);
            (ort::api().ReleaseMemoryInfo)(info);
            check(status)?;
        }
        let allocator = NonNull::new(allocator).ok_or_else(|| Failure::without("no allocator came back"))?;
        Ok(Self { allocator, _session: session.clone() })
    }

    pub(super) fn tensor(&self, data_type: DataType, shape: &Shape) -> Result<Value<'static>, Failure> {
        Value::allocated(self.allocator.as_ptr(), data_type, shape)
    }
}

impl Drop for Allocator {
    fn drop(&mut self) {
        // SAFETY: made by CreateAllocator and released once, after the tensors made with it.
        unsafe { (ort::api().ReleaseAllocator)(self.allocator.as_ptr()) }
    }
}

/// Type and shape of a tensor; `None` if it has no fixed size.
pub(super) fn describe(value: &Value<'_>) -> Option<(DataType, Shape)> {
    let (number, shape) = value.describe().ok()?;
    let data_type = data_type_of(number).filter(|data_type| data_type.byte_size().is_some())?;
    Some((data_type, shape))
}

/// Where the elements of a tensor with a fixed element size lie, and how many bytes they are.
pub(super) fn place(value: &Value<'_>) -> Result<(*mut c_void, usize), Failure> {
    let (data_type, shape) = describe(value).ok_or_else(|| Failure::without("the tensor has no fixed size"))?;
    let length = server_core::tensor::byte_count(data_type, &shape).unwrap_or(0);
    let mut data = ptr::null_mut();
    // SAFETY: the value is a tensor; the address lives as long as the value.
    check(unsafe { (ort::api().GetTensorMutableData)(value.as_ptr().cast_mut(), &mut data) })?;
    Ok((data, length))
}
