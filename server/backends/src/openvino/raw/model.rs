//! Models that were read: their inputs and outputs, and how they are changed.

#![allow(unsafe_code)]

use std::{
    ffi::CString,
    ptr::{self, NonNull},
    slice,
};

use server_core::tensor::Shape;

use super::{Dimension, Handle, Object, PartialShape, Result, Status};

/// Inputs or outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Input,
    Output,
}

impl Side {
    /// What errors say of asking for them.
    const fn asking(self) -> &'static str {
        match self {
            Self::Input => "getting input infos",
            Self::Output => "getting output infos",
        }
    }
}

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// One of its names.
    pub(crate) name: Option<String>,
    /// OpenVINO's number of its type.
    pub(crate) element: u32,
    /// Its extents, `-1` for one that is open; `None` if their number is open.
    pub(crate) shape: Option<Shape>,
}

/// A model that was read.
pub(crate) struct Model(pub(super) Handle);

impl Model {
    /// All inputs or outputs, in the model's order.
    pub(crate) fn ports(&self, side: Side) -> Result<Vec<Port>> {
        let api = self.0.api;
        let (size, by_index) = match side {
            Side::Input => (api.model_inputs_size, api.model_const_input_by_index),
            Side::Output => (api.model_outputs_size, api.model_const_output_by_index),
        };
        let mut count = 0;
        // SAFETY: the model is valid; the call writes a number.
        api.check(side.asking(), unsafe { size(self.0.get(), &mut count) })?;
        // SAFETY: the index is below the count.
        (0..count).map(|index| self.port(side, |port| unsafe { by_index(self.0.get(), index, port) })).collect()
    }

    /// The port that goes by that name, among others perhaps.
    pub(crate) fn port_named(&self, side: Side, name: &str) -> Option<Port> {
        let name = CString::new(name).ok()?;
        let by_name = match side {
            Side::Input => self.0.api.model_const_input_by_name,
            Side::Output => self.0.api.model_const_output_by_name,
        };
        // SAFETY: model and name are valid.
        self.port(side, |port| unsafe { by_name(self.0.get(), name.as_ptr(), port) }).ok()
    }

    fn port(&self, side: Side, find: impl FnOnce(*mut Object) -> Status) -> Result<Port> {
        let (doing, api) = (side.asking(), self.0.api);
        // SAFETY: the pair of functions for ports.
        let port = unsafe { api.object(doing, api.output_const_port_free, find) }?;
        let mut name = ptr::null_mut();
        // SAFETY: the port is valid; the call writes the address of a new text, or fails for a port without a name.
        let is_named = unsafe { (api.port_get_any_name)(port.get(), &mut name) } == 0;
        // SAFETY: as the call before has answered; a text that was not written is null.
        let name = unsafe { api.take(name) }.filter(|_| is_named);
        let mut element = 0;
        // SAFETY: the enumeration is a C int without negative values.
        api.check(doing, unsafe { (api.port_get_element_type)(port.get(), &mut element) })?;
        let mut shape = PartialShape { rank: Dimension { min: 0, max: 0 }, dims: ptr::null_mut() };
        // SAFETY: fills the shape in, which holds as many extents as its rank says until it is released.
        let extents = unsafe {
            api.check(doing, (api.port_get_partial_shape)(port.get(), &mut shape))?;
            let rank = (shape.rank.min == shape.rank.max).then_some(shape.rank.min);
            let rank = rank.and_then(|rank| usize::try_from(rank).ok());
            let extents = rank.map(|rank| match NonNull::new(shape.dims) {
                Some(dims) => slice::from_raw_parts(dims.as_ptr(), rank).iter().map(Dimension::extent).collect(),
                None => Shape::new(),
            });
            (api.partial_shape_free)(&mut shape);
            extents
        };
        Ok(Port { name, element, shape: extents })
    }

    /// Gives all inputs these shapes, `-1` for an open extent.
    ///
    /// Errors: the model does not fit them. It may be changed in part.
    pub(crate) fn reshape(&self, shapes: &[Shape]) -> Result<()> {
        let mut extents: Vec<Vec<Dimension>> =
            shapes.iter().map(|shape| shape.iter().map(|&extent| Dimension::of(extent)).collect()).collect();
        let rank = |shape: &[Dimension]| i64::try_from(shape.len()).unwrap_or(i64::MAX);
        let partial: Vec<PartialShape> = extents
            .iter_mut()
            .map(|shape| PartialShape {
                rank: Dimension { min: rank(shape), max: rank(shape) },
                dims: shape.as_mut_ptr(),
            })
            .collect();
        let indexes: Vec<usize> = (0..shapes.len()).collect();
        // SAFETY: both lists are as long as said, and the shapes' extents live through the call, which copies them.
        let status = unsafe {
            let reshape = self.0.api.model_reshape_by_port_indexes;
            reshape(self.0.get(), indexes.as_ptr(), partial.as_ptr(), indexes.len())
        };
        self.0.api.check("setting shape", status)
    }

    /// The same model with conversions in front of inputs and behind outputs: by their numbers, to the types outside.
    pub(crate) fn converting(&self, inputs: &[(usize, u32)], outputs: &[(usize, u32)]) -> Result<Model> {
        const DOING: &str = "setting precision";
        let api = self.0.api;
        // SAFETY: each object is made and released by the pair of functions for its kind, and alive while those made from it are used.
        unsafe {
            let processor = api.object(DOING, api.preprocess_prepostprocessor_free, |processor| {
                (api.preprocess_prepostprocessor_create)(self.0.get(), processor)
            })?;
            for &(index, element) in inputs {
                let info = api.object(DOING, api.preprocess_input_info_free, |info| {
                    (api.preprocess_prepostprocessor_get_input_info_by_index)(processor.get(), index, info)
                })?;
                let tensor = api.object(DOING, api.preprocess_input_tensor_info_free, |tensor| {
                    (api.preprocess_input_info_get_tensor_info)(info.get(), tensor)
                })?;
                api.check(DOING, (api.preprocess_input_tensor_info_set_element_type)(tensor.get(), element))?;
            }
            for &(index, element) in outputs {
                let info = api.object(DOING, api.preprocess_output_info_free, |info| {
                    (api.preprocess_prepostprocessor_get_output_info_by_index)(processor.get(), index, info)
                })?;
                let tensor = api.object(DOING, api.preprocess_output_tensor_info_free, |tensor| {
                    (api.preprocess_output_info_get_tensor_info)(info.get(), tensor)
                })?;
                api.check(DOING, (api.preprocess_output_set_element_type)(tensor.get(), element))?;
            }
            let build = |model| (api.preprocess_prepostprocessor_build)(processor.get(), model);
            api.object(DOING, api.model_free, build).map(Model)
        }
    }
}

impl Dimension {
    fn extent(&self) -> i64 {
        if self.min == self.max { self.min } else { -1 }
    }

    fn of(extent: i64) -> Self {
        if extent < 0 { Self { min: 0, max: -1 } } else { Self { min: extent, max: extent } }
    }
}
