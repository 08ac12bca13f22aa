//! One input of a request: its members in whatever order they come, and its elements as tensor bytes.

use std::borrow::Cow;

use server_core::{
    error::{Error, Result},
    tensor::{DataType, Shape, element_count, shape_text},
};
use smallvec::SmallVec;

use super::{
    members::{Member, Members},
    region::{Region, RegionParameters},
    typed::{array, lossy, missing, string, unsigned},
};
use crate::json::{
    elements,
    reader::{Kind, Parsed, Reader},
};

/// One input.
#[derive(Debug, PartialEq)]
pub(crate) struct Input<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) data_type: DataType,
    pub(crate) shape: Shape,
    pub(crate) content: Content,
}

/// Where an input's bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// They stood in the JSON.
    Data(Vec<u8>),
    /// That many follow the JSON.
    Binary(u64),
    /// In a shared memory region.
    SharedMemory(Region),
}

/// Reads the list of inputs.
pub(super) fn read_inputs<'a>(
    reader: &mut Reader<'a>,
    inputs: &mut SmallVec<[Input<'a>; 2]>,
    max_input_size: usize,
) -> Parsed<()> {
    array(reader, "inputs", |reader| {
        inputs.push(read_input(reader, max_input_size)?);
        Ok(())
    })
}

/// An input while its members come.
#[derive(Default)]
struct Draft<'a> {
    members: Members,
    name: Cow<'a, [u8]>,
    /// `None` also if there is no such type.
    data_type: Option<DataType>,
    shape: Shape,
    data: Data<'a>,
    parameters: InputParameters,
}

enum Data<'a> {
    Read(elements::Elements),
    /// To be read once datatype and shape are known.
    Raw(&'a [u8]),
}

impl Default for Data<'_> {
    fn default() -> Self {
        Self::Raw(&[])
    }
}

#[derive(Default)]
struct InputParameters {
    binary_data_size: Option<u64>,
    region: RegionParameters,
}

fn read_input<'a>(reader: &mut Reader<'a>, max_input_size: usize) -> Parsed<Input<'a>> {
    let mut draft = Draft::default();
    if reader.kind() == Kind::Object {
        reader.object(|reader, name| {
            let Draft { members, name: input_name, data_type, shape, data, parameters } = &mut draft;
            match name {
                b"name" => members.read(Member::Name, reader, |reader| {
                    *input_name = string(reader, "name")?;
                    Ok(())
                }),
                b"datatype" => members.read(Member::DataType, reader, |reader| {
                    let name = string(reader, "datatype")?;
                    *data_type = std::str::from_utf8(&name).ok().and_then(DataType::from_wire_name);
                    Ok(())
                }),
                b"shape" => members.read(Member::Shape, reader, |reader| read_shape(reader, shape)),
                b"parameters" => {
                    members.read(Member::Parameters, reader, |reader| read_input_parameters(reader, parameters))
                }
                b"data" => {
                    let is_known = members.are_right() && members.has(Member::Name) && members.has(Member::Shape);
                    let expected = data_type
                        .filter(|_| is_known)
                        .and_then(|data_type| Some((data_type, directly_readable(data_type, shape, max_input_size)?)));
                    members.read(Member::Data, reader, |reader| {
                        *data = match expected {
                            Some((data_type, count)) => Data::Read(elements::read(reader, data_type, count)?),
                            None => Data::Raw(reader.raw()?),
                        };
                        Ok(())
                    })
                }
                _ => reader.skip(),
            }
        })?;
    } else {
        reader.skip()?;
    }
    Ok(draft.finish(max_input_size)?)
}

impl<'a> Draft<'a> {
    /// Puts the members together, in Triton's order of mistakes.
    fn finish(mut self, max_input_size: usize) -> Result<Input<'a>> {
        let members = &mut self.members;
        members.check(Member::Parameters)?;
        let has_data = members.has(Member::Data);
        check_only_one_content(has_data, &self.parameters)?;
        for (member, field) in [(Member::Name, "name"), (Member::DataType, "datatype"), (Member::Shape, "shape")] {
            if !members.check(member)? {
                return Err(missing(field));
            }
        }
        let name = lossy(self.name);
        let data_type =
            self.data_type.ok_or_else(|| Error::invalid_argument(format!("invalid datatype for input {name}")))?;
        let count = check_extents(&name, data_type, &self.shape)?;
        members.check(Member::Data)?;
        let content = match self.parameters {
            _ if has_data => Content::Data(take_data(self.data, &name, data_type, count, max_input_size)?),
            InputParameters { binary_data_size: Some(size), .. } => Content::Binary(size),
            InputParameters { region, .. } => Content::SharedMemory(region.named().unwrap_or_default()),
        };
        Ok(Input { name, data_type, shape: self.shape, content })
    }
}

/// How many elements to read, if nothing is wrong with the type and the shape.
fn directly_readable(data_type: DataType, shape: &[i64], max_input_size: usize) -> Option<usize> {
    let count = usize::try_from(element_count(shape)?).ok().filter(|&count| count > 0)?;
    let fits = match data_type {
        DataType::Fp16 | DataType::Bf16 => false,
        DataType::Bytes => true, // measured afterwards
        _ => count.checked_mul(data_type.byte_size()?)? <= max_input_size,
    };
    fits.then_some(count)
}

/// The bytes of an input given as `data`.
fn take_data(data: Data<'_>, name: &str, data_type: DataType, count: usize, max_input_size: usize) -> Result<Vec<u8>> {
    if count == 0 {
        return Ok(Vec::new()); // whatever stands there
    }
    if matches!(data_type, DataType::Fp16 | DataType::Bf16) {
        return Err(Error::invalid_argument(format!(
            "receiving {data_type} data via JSON is not supported. Please use the binary data format for input {name}"
        )));
    }
    let check_size = |size: usize| {
        if size <= max_input_size {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "JSON input '{name}' has a byte_size ({size} bytes) that exceeds the maximum allowed value of \
             {max_input_size} bytes. Use --http-max-input-size to increase the limit."
        )))
    };
    if let Some(element_size) = data_type.byte_size() {
        check_size(count.saturating_mul(element_size))?;
    }
    let elements = match data {
        Data::Read(elements) => elements,
        Data::Raw(text) => {
            elements::read(&mut Reader::new(text), data_type, count).map_err(|fault| fault.into_error())?
        }
    };
    if data_type == DataType::Bytes {
        check_size(elements.bytes.len())?; // too few or too many are counted against the model
    } else if elements.count != count {
        return Err(Error::internal("Failed to parse 'data' field: shape does not match true shape"));
    }
    Ok(elements.bytes)
}

fn check_only_one_content(has_data: bool, parameters: &InputParameters) -> Result<()> {
    let set = [
        (has_data, " 'data'"),
        (parameters.binary_data_size.is_some(), " 'binary_data_size'"),
        (parameters.region.is_named(), " 'shared_memory_region'"),
    ];
    if set.iter().filter(|(is_set, _)| *is_set).count() == 1 {
        return Ok(());
    }
    let names: String = set.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
    let found = if names.is_empty() { " no field is set".to_owned() } else { format!(" set{names}") };
    Err(Error::invalid_argument(format!(
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', \
         'shared_memory_region' in 'parameters'. But{found}"
    )))
}

/// The number of elements, if the extents make sense for the type.
fn check_extents(name: &str, data_type: DataType, shape: &[i64]) -> Result<usize> {
    if shape.iter().any(|&extent| extent < 0) {
        return Err(Error::invalid_argument(format!(
            "invalid shape for input '{name}': shape {} contains one or more invalid dimensions",
            shape_text(shape)
        )));
    }
    let Some(count) = element_count(shape) else {
        return Err(Error::invalid_argument(format!(
            "invalid shape for input '{name}': shape {} causes total element count to exceed maximum size of {}",
            shape_text(shape),
            i64::MAX
        )));
    };
    let element_size = data_type.byte_size().unwrap_or(1);
    let size = i64::try_from(element_size).ok().and_then(|size| count.checked_mul(size));
    if size.is_none() {
        return Err(Error::invalid_argument(format!(
            "byte size overflow for input '{name}': element count ({count}) * data type size ({element_size}) exceeds \
             maximum allowed size ({})",
            i64::MAX
        )));
    }
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

fn read_shape(reader: &mut Reader<'_>, shape: &mut Shape) -> Parsed<()> {
    array(reader, "shape", |reader| {
        let extent = unsigned(reader, "shape")?;
        shape.push(i64::try_from(extent).unwrap_or(-1)); // beyond any tensor: refused as an invalid dimension
        Ok(())
    })
}

fn read_input_parameters(reader: &mut Reader<'_>, parameters: &mut InputParameters) -> Parsed<()> {
    if reader.kind() != Kind::Object {
        return reader.skip();
    }
    reader.object(|reader, name| {
        match name {
            b"binary_data_size" => parameters.binary_data_size = Some(unsigned(reader, "binary_data_size")?),
            name if parameters.region.read(name, reader)? => {}
            _ => reader.skip()?,
        }
        Ok(())
    })
}
