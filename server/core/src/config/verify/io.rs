//! Inputs and outputs: names, types, shapes, and shapes in place of shapes.

use std::collections::BTreeSet;

use server_proto::inference::{ModelInput, ModelOutput, ModelTensorReshape, model_input::Format};

use super::findings::Findings;
use crate::{config::ModelConfig, tensor::DataType};

const TENSORRT: &str = "tensorrt_plan";

pub(super) fn check(config: &ModelConfig, findings: &mut Findings<'_>) {
    let sides = [
        ("input", config.input.iter().map(Tensor::of_input).collect::<Vec<_>>()),
        ("output", config.output.iter().map(Tensor::of_output).collect()),
    ];
    for (side, tensors) in sides {
        let mut names = BTreeSet::new();
        for (index, tensor) in tensors.iter().enumerate() {
            let place = Place { side, path: format!("{side}[{index}]") };
            if !tensor.name.is_empty() && !names.insert(tensor.name) {
                place.add(findings, tensor, "name", "is specified more than once");
            }
            tensor.check(config, &place, findings);
        }
    }
}

/// What inputs and outputs have in common.
struct Tensor<'a> {
    name: &'a str,
    data_type: i32,
    dims: &'a [i64],
    reshape: Option<&'a ModelTensorReshape>,
    is_image: bool,
    is_shape_tensor: bool,
    is_non_linear_format_io: bool,
}

impl<'a> Tensor<'a> {
    fn of_input(input: &'a ModelInput) -> Self {
        Self {
            name: &input.name,
            data_type: input.data_type,
            dims: &input.dims,
            reshape: input.reshape.as_ref(),
            is_image: input.format() != Format::None,
            is_shape_tensor: input.is_shape_tensor,
            is_non_linear_format_io: input.is_non_linear_format_io,
        }
    }

    fn of_output(output: &'a ModelOutput) -> Self {
        Self {
            name: &output.name,
            data_type: output.data_type,
            dims: &output.dims,
            reshape: output.reshape.as_ref(),
            is_image: false,
            is_shape_tensor: output.is_shape_tensor,
            is_non_linear_format_io: output.is_non_linear_format_io,
        }
    }

    fn check(&self, config: &ModelConfig, place: &Place<'_>, findings: &mut Findings<'_>) {
        let side = place.side;
        if self.name.is_empty() {
            findings.add_for_model(place.field("name"), format!("model {side} must specify 'name'"));
        }
        if DataType::from_config(self.data_type).is_none() {
            place.add(findings, self, "data_type", "must specify 'data_type'");
        }
        if self.dims.is_empty() {
            place.add(findings, self, "dims", "must specify 'dims'");
        }
        let are_dims_sound = self.dims.iter().all(|&dim| is_extent(dim));
        if !are_dims_sound {
            let message = "dimension must be integer >= 1, or -1 to indicate a variable-size dimension";
            place.add(findings, self, "dims", message);
        }
        if let Some(reshape) = self.reshape {
            self.check_reshape(&reshape.shape, config.max_batch_size, are_dims_sound, place, findings);
        }
        self.check_layout(config, place, findings);
    }

    fn check_reshape(
        &self,
        shape: &[i64],
        max_batch_size: i32,
        are_dims_sound: bool,
        place: &Place<'_>,
        findings: &mut Findings<'_>,
    ) {
        if shape.is_empty() && max_batch_size == 0 {
            let message = "cannot have empty reshape for non-batching model as scalar tensors are not supported";
            place.add(findings, self, "reshape", message);
        } else if !shape.iter().all(|&dim| is_extent(dim)) {
            let message = "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension";
            place.add(findings, self, "reshape.shape", message);
        } else if are_dims_sound && !self.dims.is_empty() {
            match (pieces(self.dims), pieces(shape)) {
                (Some(dims), Some(reshape)) => {
                    if dims.len() != reshape.len() && dims.len() > 1 && reshape.len() > 1 {
                        let message = "has different number of variable-size dimensions for dims and reshape";
                        place.add(findings, self, "reshape.shape", message);
                    } else if dims != reshape {
                        place.add(findings, self, "reshape.shape", "has different size for dims and reshape");
                    }
                }
                (None, _) => place.add_overflow(findings, self, "dims", "dims"),
                (_, None) => place.add_overflow(findings, self, "reshape.shape", "reshape"),
            }
        }
    }

    /// Layouts only some frameworks know, or only some shapes have.
    fn check_layout(&self, config: &ModelConfig, place: &Place<'_>, findings: &mut Findings<'_>) {
        let is_tensorrt = config.platform == TENSORRT;
        if self.is_image && self.dims.len() != 3 {
            findings.add_for_model(place.field("format"), "model input NHWC/NCHW require 3 dims");
        }
        if self.is_shape_tensor && !is_tensorrt {
            let message = "shape tensors are only supported for TensorRT platform";
            findings.add_for_model(place.field("is_shape_tensor"), message);
        }
        if self.is_non_linear_format_io && !is_tensorrt {
            let message = "Non-linear IO format is only supported for the TensorRT platform";
            findings.add_for_model(place.field("is_non_linear_format_io"), message);
        } else if self.is_non_linear_format_io && self.dims.len() != 3 {
            let message = format!("Non-linear IO format {} requires 3 dims", place.side);
            findings.add_for_model(place.field("is_non_linear_format_io"), message);
        }
    }
}

/// A positive extent, or any.
fn is_extent(dim: i64) -> bool {
    dim >= 1 || dim == -1
}

/// Element counts of the parts between variable dimensions: `[2, 4, -1, 6]` is `[8, 6]`. A reshape may regroup
/// extents within a part, never across. `None` if a count overflows.
fn pieces(shape: &[i64]) -> Option<Vec<i64>> {
    shape
        .split(|&dim| dim == -1)
        .map(|part| part.iter().try_fold(1_i64, |count, &dim| count.checked_mul(dim)))
        .collect()
}

/// Where a tensor stands in the configuration.
struct Place<'a> {
    /// `input` or `output`.
    side: &'a str,
    path: String,
}

impl Place<'_> {
    fn field(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    /// Adds `model SIDE 'NAME' MESSAGE for MODEL`.
    fn add(&self, findings: &mut Findings<'_>, tensor: &Tensor<'_>, field: &str, message: &str) {
        let side = self.side;
        let name = if tensor.name.is_empty() { String::new() } else { format!("'{}' ", tensor.name) };
        findings.add_for_model(self.field(field), format!("model {side} {name}{message}"));
    }

    fn add_overflow(&self, findings: &mut Findings<'_>, tensor: &Tensor<'_>, field: &str, shape: &str) {
        let max = i64::MAX;
        let message = format!("element count for tensor '{} {shape}' exceeds maximum size of {max}", tensor.name);
        findings.add_for_model(self.field(field), message);
    }
}
