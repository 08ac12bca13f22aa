//! What an engine takes and gives, as plain data: everything that is decided about a plan is decided from this.

use std::ffi::{CStr, CString};

use server_core::{
    error::{Error, Result},
    tensor::{DataType, Shape},
};

use super::raw::{Engine, Selector};

/// Inputs and outputs of an engine, and its optimization profiles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Description {
    /// In the engine's order.
    pub(super) tensors: Vec<Io>,
    /// At least one.
    pub(super) profiles: Vec<Profile>,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Io {
    /// Its name.
    pub(super) name: CString,
    /// The same as text.
    pub(super) text: String,
    /// An input, or an output.
    pub(super) is_input: bool,
    /// Its type, or TensorRT's word for one that no request can carry.
    pub(super) data_type: std::result::Result<DataType, &'static str>,
    /// The whole shape; -1 is any.
    pub(super) shape: Shape,
    /// Shapes are computed from its values, or it is computed from shapes.
    pub(super) is_shape: bool,
    /// It lies in host memory.
    pub(super) is_on_host: bool,
    /// How its elements lie.
    pub(super) layout: Layout,
}

/// How the elements of a tensor lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Layout {
    /// `nvinfer1::TensorFormat`; 0 is row by row.
    pub(super) format: i32,
    /// The dimension whose elements lie together, and how many of them: it is padded to a multiple of that.
    pub(super) vectorized: Option<(usize, i64)>,
}

/// Which inputs an engine is made for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// One for each tensor; `None` for outputs.
    pub(super) ranges: Vec<Option<Range>>,
}

/// Which shapes of an input, and which values of a shape tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    /// The smallest shape.
    pub(super) min: Shape,
    /// The shape that runs best.
    pub(super) opt: Shape,
    /// The largest shape.
    pub(super) max: Shape,
    /// Smallest, best and largest values of a shape tensor.
    pub(super) values: Option<[Vec<i64>; 3]>,
}

// === impl Description ===

impl Description {
    /// Asks an engine.
    ///
    /// Errors: it has batches that are no dimension, or formats that differ between profiles, or does not know
    /// itself or the values of its shape tensors.
    pub(super) fn of(engine: &Engine) -> Result<Self> {
        if engine.has_implicit_batch() {
            return Err(Error::unsupported(
                "the plan has an implicit batch dimension, which TensorRT has given up: build it again from a network with an explicit \
                 one (deploy/trt/build)",
            ));
        }
        let broken = || Error::internal("TensorRT does not tell the inputs and outputs of the plan");
        let names: Vec<CString> =
            (0..engine.tensors()).map(|index| engine.tensor_name(index)).collect::<Option<_>>().ok_or_else(broken)?;
        let tensors =
            names.into_iter().map(|name| Io::of(engine, name)).collect::<Option<Vec<_>>>().ok_or_else(broken)?;
        let count = engine.profiles().max(1);
        for io in &tensors {
            if let Some(other) = (1..count).find(|&number| Layout::of(engine, &io.name, number) != io.layout) {
                return Err(Error::unsupported(format!(
                    "{} '{}' has another memory format in profile {other} than in profile 0: build the plan again with one format for \
                     all profiles",
                    io.side(),
                    io.text
                )));
            }
        }
        let profiles = (0..count).map(|number| Profile::of(engine, &tensors, number));
        Ok(Self { profiles: profiles.collect::<Result<_>>()?, tensors })
    }

    /// The tensor of that name, and its number.
    pub(super) fn find(&self, name: &str, is_input: bool) -> Option<(usize, &Io)> {
        self.tensors.iter().enumerate().find(|(_, tensor)| tensor.text == name && tensor.is_input == is_input)
    }

    /// Inputs, or outputs.
    pub(super) fn side(&self, is_input: bool) -> impl Iterator<Item = &Io> {
        self.tensors.iter().filter(move |tensor| tensor.is_input == is_input)
    }

    /// Whether a shape is open.
    pub(super) fn is_dynamic(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.shape.contains(&-1))
    }
}

impl Io {
    fn of(engine: &Engine, name: CString) -> Option<Self> {
        Some(Self {
            text: name.to_str().ok()?.to_owned(),
            is_input: engine.is_input(&name),
            data_type: data_type(engine.tensor_type(&name)),
            shape: engine.tensor_shape(&name)?,
            is_shape: engine.is_shape(&name),
            is_on_host: engine.is_on_host(&name),
            layout: Layout::of(engine, &name, 0),
            name,
        })
    }

    /// Its type.
    ///
    /// Errors: `Unsupported` if no request can carry it.
    pub(super) fn data_type(&self) -> Result<DataType> {
        self.data_type.map_err(|word| {
            let (side, name) = (self.side(), &self.text);
            Error::unsupported(format!(
                "unsupported datatype {word} for {side} '{name}': no request can carry it; have the network convert it to FP16 or FP32"
            ))
        })
    }

    /// The word for its side.
    pub(super) fn side(&self) -> &'static str {
        if self.is_input { "input" } else { "output" }
    }

    /// Whether its elements do not lie row by row.
    pub(super) fn is_non_linear(&self) -> bool {
        self.layout.format != 0
    }
}

impl Layout {
    fn of(engine: &Engine, name: &CStr, profile: i32) -> Self {
        let (dimension, components) = engine.vectorized(name, profile);
        let components = Some(i64::from(components)).filter(|&components| components > 1);
        let vectorized = usize::try_from(dimension).ok().zip(components);
        Self { format: engine.tensor_format(name, profile), vectorized }
    }

    /// Number of elements in memory of a tensor of that shape, padding included; `None` on overflow.
    pub(super) fn elements(&self, shape: &[i64]) -> Option<i64> {
        let mut padded = Shape::from_slice(shape);
        if let Some((dimension, components)) = self.vectorized {
            let extent = padded.get_mut(dimension)?;
            *extent = extent.checked_add(components - 1)? / components * components;
        }
        server_core::tensor::element_count(&padded)
    }
}

impl Profile {
    /// Errors: values of a shape tensor are not told. Without them nobody knows how large outputs become.
    fn of(engine: &Engine, tensors: &[Io], number: i32) -> Result<Self> {
        let range = |tensor: &Io| {
            let shape = |which| tensor.is_input.then(|| engine.profile_shape(&tensor.name, number, which)).flatten();
            let (min, opt, max) = (shape(Selector::Min)?, shape(Selector::Opt)?, shape(Selector::Max)?);
            Some(Range { min, opt, max, values: values(engine, tensor, number) })
        };
        let ranges: Vec<_> = tensors.iter().map(range).collect();
        let has_values = |range: &Option<Range>| range.as_ref().is_some_and(|range| range.values.is_some());
        let mut inputs = tensors.iter().zip(&ranges).filter(|(tensor, _)| tensor.is_input && tensor.is_shape);
        match inputs.find(|(_, range)| !has_values(range)) {
            None => Ok(Self { ranges }),
            Some((tensor, _)) => Err(Error::internal(format!(
                "TensorRT does not tell the values of shape tensor '{}' in profile {number}: build the plan again",
                tensor.text
            ))),
        }
    }
}

fn values(engine: &Engine, tensor: &Io, profile: i32) -> Option<[Vec<i64>; 3]> {
    if !tensor.is_shape {
        return None;
    }
    let count = usize::try_from(server_core::tensor::element_count(&tensor.shape)?).ok()?;
    let of = |which| engine.profile_values(&tensor.name, profile, which, count);
    Some([of(Selector::Min)?, of(Selector::Opt)?, of(Selector::Max)?])
}

/// Our type of TensorRT's number, or its word.
fn data_type(number: i32) -> std::result::Result<DataType, &'static str> {
    match number {
        0 => Ok(DataType::Fp32),
        1 => Ok(DataType::Fp16),
        2 => Ok(DataType::Int8),
        3 => Ok(DataType::Int32),
        4 => Ok(DataType::Bool),
        5 => Ok(DataType::Uint8),
        6 => Err("FP8"),
        7 => Ok(DataType::Bf16),
        8 => Ok(DataType::Int64),
        9 => Err("INT4"),
        10 => Err("FP4"),
        11 => Err("E8M0"),
        _ => Err("of a newer TensorRT"),
    }
}

/// TensorRT's word for how elements lie.
pub(super) fn format_name(number: i32) -> &'static str {
    const NAMES: [&str; 13] = [
        "LINEAR",
        "CHW2",
        "HWC8",
        "CHW4",
        "CHW16",
        "CHW32",
        "DHWC8",
        "CDHW32",
        "HWC",
        "DLA_LINEAR",
        "DLA_HWC4",
        "HWC16",
        "DHWC",
    ];
    usize::try_from(number).ok().and_then(|number| NAMES.get(number)).copied().unwrap_or("UNKNOWN")
}

/// A description made by hand.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// An FP32 tensor.
    pub(crate) fn io(name: &str, is_input: bool, shape: &[i64]) -> Io {
        Io {
            name: CString::new(name).unwrap(),
            text: name.into(),
            is_input,
            data_type: Ok(DataType::Fp32),
            shape: shape.into(),
            is_shape: false,
            is_on_host: false,
            layout: Layout::default(),
        }
    }

    /// A range of shapes.
    pub(crate) fn range(min: &[i64], opt: &[i64], max: &[i64]) -> Option<Range> {
        Some(Range { min: min.into(), opt: opt.into(), max: max.into(), values: None })
    }

    /// `x [-1,3]` to `y [-1,2]`, for 1 to 8 rows.
    pub(crate) fn batching() -> Description {
        Description {
            tensors: vec![io("x", true, &[-1, 3]), io("y", false, &[-1, 2])],
            profiles: vec![Profile { ranges: vec![range(&[1, 3], &[4, 3], &[8, 3]), None] }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_a_vectorized_dimension_counts() {
        let layout = Layout { format: 3, vectorized: Some((1, 4)) };
        assert_eq!(layout.elements(&[2, 3, 5, 5]), Some(2 * 4 * 25));
        assert_eq!(Layout::default().elements(&[2, 3, 5, 5]), Some(2 * 3 * 25));
        assert_eq!((format_name(3), format_name(99)), ("CHW4", "UNKNOWN"));
    }
}
