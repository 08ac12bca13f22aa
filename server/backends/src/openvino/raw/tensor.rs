//! Tensors over memory that is already there, and of OpenVINO's own memory.

#![allow(unsafe_code)]

use std::{
    marker::PhantomData,
    ptr::{self, NonNull},
    slice,
};

use server_core::tensor::{DataType, Shape, byte_count, shape_text};

use super::{Api, Failure, Handle, Object, RawShape, Result, raw};

/// `INVALID_C_PARAM` of `ov_status_e`
const INVALID_PARAMETER: i32 = -14;

/// A tensor. `'a` is how long the memory under it is borrowed.
pub(crate) struct Tensor<'a>(pub(super) Handle, PhantomData<&'a [u8]>);

impl<'a> Tensor<'a> {
    const DOING: &'static str = "creating tensor";

    /// A tensor over bytes that lie as OpenVINO wants them. Nothing is copied.
    ///
    /// Errors: the length is not that of the shape.
    pub(crate) fn over(
        api: &'static Api,
        data: &'a [u8],
        shape: &[i64],
        data_type: DataType,
        element: u32,
    ) -> Result<Self> {
        if byte_count(data_type, shape) != Some(data.len()) {
            let text = format!("{} bytes are not a {data_type} tensor of shape {}", data.len(), shape_text(shape));
            return Err(Failure::without(Self::DOING, text));
        }
        static NOTHING: [u64; 8] = [0; 8]; // an address for tensors without elements
        let start: *const u8 = if data.is_empty() { NOTHING.as_ptr().cast() } else { data.as_ptr() };
        // SAFETY: start, type and shape describe memory borrowed for 'a, which the tensor's type carries on; OpenVINO does not write
        // to the inputs of a run.
        let make = |tensor: *mut Object| unsafe {
            (api.tensor_create_from_host_ptr)(element, raw(shape), start.cast_mut().cast(), tensor)
        };
        // SAFETY: the pair of functions for tensors.
        let tensor = unsafe { api.object(Self::DOING, api.tensor_free, make) }?;
        let mut size = 0;
        // SAFETY: the tensor is valid; the call writes a number.
        api.check(Self::DOING, unsafe { (api.tensor_get_byte_size)(tensor.get(), &mut size) })?;
        if size != data.len() {
            return Err(Failure::without(Self::DOING, format!("{} bytes are taken for {size}", data.len())));
        }
        Ok(Self(tensor, PhantomData))
    }

    /// A tensor of OpenVINO's own memory; what it holds is left over from earlier.
    pub(crate) fn owned(api: &'static Api, element: u32, shape: &[i64]) -> Result<Tensor<'static>> {
        // SAFETY: the shape is valid through the call.
        let make = |tensor: *mut Object| unsafe { (api.tensor_create)(element, raw(shape), tensor) };
        // SAFETY: the pair of functions for tensors.
        let tensor = unsafe { api.object(Self::DOING, api.tensor_free, make) }?;
        Ok(Tensor(tensor, PhantomData))
    }

    /// OpenVINO's number of the element type, and the shape.
    pub(crate) fn describe(&self) -> Result<(u32, Shape)> {
        const DOING: &str = "getting output tensor";
        let api = self.0.api;
        let mut element = 0;
        // SAFETY: the tensor is valid; the call writes a number.
        api.check(DOING, unsafe { (api.tensor_get_element_type)(self.0.get(), &mut element) })?;
        let mut shape = RawShape { rank: 0, dims: ptr::null_mut() };
        // SAFETY: fills the shape in, which holds as many extents as its rank says until it is released.
        let extents = unsafe {
            let (mut count, status) = (0, (api.tensor_get_shape)(self.0.get(), &mut shape));
            if status == INVALID_PARAMETER {
                // There is no shape without extents in C: it is a scalar if it has one element.
                api.check(DOING, (api.tensor_get_size)(self.0.get(), &mut count))?;
            }
            if count == 1 {
                return Ok((element, Shape::new()));
            }
            api.check(DOING, status)?;
            let rank = usize::try_from(shape.rank).unwrap_or(0);
            let extents = match NonNull::new(shape.dims) {
                Some(dims) => Shape::from_slice(slice::from_raw_parts(dims.as_ptr(), rank)),
                None => Shape::new(),
            };
            (api.shape_free)(&mut shape);
            extents
        };
        Ok((element, extents))
    }

    /// The memory of the elements: as long as OpenVINO says.
    pub(crate) fn bytes(&self) -> Result<&[u8]> {
        const DOING: &str = "getting output tensor";
        let api = self.0.api;
        let (mut size, mut data) = (0, ptr::null_mut());
        // SAFETY: the tensor is valid; the calls write a number and an address.
        unsafe {
            api.check(DOING, (api.tensor_get_byte_size)(self.0.get(), &mut size))?;
            if size == 0 {
                return Ok(&[]);
            }
            api.check(DOING, (api.tensor_data)(self.0.get(), &mut data))?;
        }
        let start = NonNull::new(data).ok_or_else(|| Failure::without(DOING, "the tensor has no data"))?;
        // SAFETY: start and length are those of the tensor, which is alive as long as the answer; who runs the model binds another
        // tensor while this one is borrowed.
        Ok(unsafe { slice::from_raw_parts(start.as_ptr().cast::<u8>(), size) })
    }
}
