//! One requested output: its name, and the form it is wanted in.

use std::borrow::Cow;

use server_core::error::Error;
use smallvec::SmallVec;

use super::{
    members::{Member, Members},
    region::{Region, RegionParameters},
    typed::{NOT_UNSIGNED, array, boolean, lossy, missing, string, wrong_type},
};
use crate::json::reader::{Kind, Parsed, Reader};

/// One requested output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) is_binary: bool,
    pub(crate) classification: u32,
    /// Where the caller wants it, instead of in the response.
    pub(crate) region: Option<Region>,
}

/// Reads the list of outputs.
pub(super) fn read_outputs<'a>(reader: &mut Reader<'a>, outputs: &mut SmallVec<[Output<'a>; 2]>) -> Parsed<()> {
    array(reader, "outputs", |reader| {
        outputs.push(read_output(reader)?);
        Ok(())
    })
}

#[derive(Default)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<u64>,
    region: RegionParameters,
}

fn read_output<'a>(reader: &mut Reader<'a>) -> Parsed<Output<'a>> {
    let mut members = Members::default();
    let mut name = Cow::default();
    let mut parameters = OutputParameters::default();
    if reader.kind() == Kind::Object {
        reader.object(|reader, member| match member {
            b"name" => members.read(Member::Name, reader, |reader| {
                name = string(reader, "name")?;
                Ok(())
            }),
            b"parameters" => {
                members.read(Member::Parameters, reader, |reader| read_output_parameters(reader, &mut parameters))
            }
            _ => reader.skip(),
        })?;
    } else {
        reader.skip()?;
    }
    members.check(Member::Parameters)?;
    let OutputParameters { binary_data, classification, region } = parameters;
    if region.is_named() {
        let conflict = match (classification, binary_data) {
            (Some(_), _) => Some("classification"),
            (None, Some(true)) => Some("binary_data"),
            _ => None,
        };
        if let Some(conflict) = conflict {
            return Err(Error::invalid_argument(format!(
                "Output can't set both 'shared_memory_region' and '{conflict}'"
            ))
            .into());
        }
    }
    if !members.check(Member::Name)? {
        return Err(missing("name").into());
    }
    Ok(Output {
        name: lossy(name),
        is_binary: binary_data.unwrap_or(false),
        classification: u32::try_from(classification.unwrap_or(0)).unwrap_or(u32::MAX),
        region: region.named(),
    })
}

fn read_output_parameters(reader: &mut Reader<'_>, parameters: &mut OutputParameters) -> Parsed<()> {
    if reader.kind() != Kind::Object {
        return reader.skip();
    }
    reader.object(|reader, name| {
        match name {
            b"binary_data" => parameters.binary_data = Some(boolean(reader, "binary_data")?),
            b"classification" => {
                let Kind::Number = reader.kind() else {
                    reader.skip()?;
                    return Err(wrong_type("Unable to set 'classification'", NOT_UNSIGNED).into());
                };
                let count = reader.number()?.as_u64();
                let count = count.ok_or_else(|| wrong_type("Unable to set 'classification'", NOT_UNSIGNED))?;
                parameters.classification = Some(count);
            }
            name if parameters.region.read(name, reader)? => {}
            _ => reader.skip()?,
        }
        Ok(())
    })
}
