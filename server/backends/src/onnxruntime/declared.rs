//! Which tensors a model file leaves without a shape. ONNX Runtime shows a tensor of unknown rank and a scalar alike,
//! so for tensors that look like scalars the file itself is read: headers only, weights are skipped.
//!
//! Source: onnx.proto, `ModelProto`, `GraphProto`, `ValueInfoProto`, `TypeProto`.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

const GRAPH: u64 = 7; // of ModelProto
const INPUT: u64 = 11; // of GraphProto
const OUTPUT: u64 = 12;
const NAME: u64 = 1; // of ValueInfoProto
const TYPE: u64 = 2;
const TENSOR_TYPE: u64 = 1; // of TypeProto
const SHAPE: u64 = 2; // of TypeProto.Tensor

/// Longest description of one input or output that is read.
const MOST_BYTES: u64 = 1 << 20;

/// Names of the inputs and outputs whose shape the file does not declare.
///
/// Errors: the file cannot be read or is not a model in protobuf's binary form.
pub(super) fn without_shape(file: &Path) -> io::Result<BTreeSet<String>> {
    let mut reader = BufReader::new(File::open(file)?);
    let mut names = BTreeSet::new();
    while let Some(field) = Field::read(&mut reader)? {
        if field.number != GRAPH {
            field.skip(&mut reader)?;
            continue;
        }
        let end = reader.stream_position()?.saturating_add(field.length);
        while reader.stream_position()? < end {
            let Some(field) = Field::read(&mut reader)? else { break };
            if !matches!(field.number, INPUT | OUTPUT) || field.length > MOST_BYTES {
                field.skip(&mut reader)?;
                continue;
            }
            let mut info = Vec::new();
            (&mut reader).take(field.length).read_to_end(&mut info)?;
            names.extend(name_without_shape(&info)?);
        }
    }
    Ok(names)
}

/// The name of a tensor if it has no shape.
fn name_without_shape(info: &[u8]) -> io::Result<Option<String>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let Some(tensor) = find(info, TYPE)?.map(|kind| find(kind, TENSOR_TYPE)).transpose()?.flatten() else {
        return Ok(None); // not a tensor
    };
    Ok(if find(tensor, SHAPE)?.is_none() { find(info, NAME)?.map(text) } else { None })
}

/// The content of the first field of that number.
fn find(message: &[u8], number: u64) -> io::Result<Option<&[u8]>> {
    let mut rest = message;
    while let Some(field) = Field::read(&mut rest)? {
        let length = usize::try_from(field.length).ok().filter(|length| *length <= rest.len()).ok_or_else(malformed)?;
        let (content, after) = rest.split_at(length);
        if field.number == number {
            return Ok(Some(content));
        }
        rest = after;
    }
    Ok(None)
}

/// The head of a field: its number, and how many bytes follow.
struct Field {
    number: u64,
    length: u64,
}

impl Field {
    /// `None` at the end.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        if reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let tag = varint(reader)?;
        let length = match tag & 7 {
            0 => varint(reader).map(|_| 0)?,
            1 => 8,
            2 => varint(reader)?,
            5 => 4,
            _ => return Err(malformed()),
        };
        Ok(Some(Self { number: tag >> 3, length }))
    }

    fn skip(&self, reader: &mut BufReader<File>) -> io::Result<()> {
        let length = i64::try_from(self.length).map_err(|_| malformed())?;
        match reader.seek_relative(length) {
            Ok(()) => Ok(()),
            Err(_) => reader.seek(SeekFrom::Current(length)).map(drop),
        }
    }
}

fn varint(reader: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a model in protobuf's binary form")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::without_shape;

    #[test]
    fn tensors_of_unknown_rank_differ_from_scalars() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
        let names = |file: &str| without_shape(&models.join(file)).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(names("any_rank.onnx"), ["X", "Y"]);
        assert_eq!(names("scalar.onnx"), Vec::<String>::new());
        assert!(without_shape(&models.join("junk.onnx")).is_err());
    }
}
