//! An entry as bytes, for caches that other processes share. Numbers are little-endian; a text or a value stands behind its
//! length. What is read comes from outside: every length is checked before it is used.
//!
//! ```text
//! "TSRC" 1            format and its version
//! u32                 outputs, and for each:
//!   u16 name  u8 type  u8 extents  i64 each  u64 data
//! u32                 parameters, and for each:
//!   u16 name  u8 kind  value: 0 bool u8, 1 i64, 2 u64, 3 f64, 4 u32 text
//! ```
//!
//! A type is its place in [`DataType::ALL`].

use bytes::Bytes;

use crate::{
    request::{Parameter, Parameters},
    response::Outputs,
    tensor::{DataType, Shape, Tensor, byte_count, element_count, strings},
};

/// What an entry begins with: the format and its version.
const MAGIC: &[u8; 5] = b"TSRC\x01";

/// Why bytes are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It begins otherwise.
    #[error("it is no entry of this format")]
    Format,
    /// It ends too early, or a length in it is too large.
    #[error("it is cut off")]
    Truncated,
    /// Something follows the end.
    #[error("bytes follow its end")]
    Surplus,
    /// A name, type or kind that does not exist.
    #[error("it names a type or kind that does not exist, or a text is not UTF-8")]
    Unknown,
    /// A tensor whose bytes are not those of its type and shape.
    #[error("a tensor in it does not have the bytes of its type and shape")]
    Contents,
}

/// A response as bytes; `None` if the host does not see all of it, or a part is too large for the format.
pub fn encode(outputs: &Outputs) -> Option<Vec<u8>> {
    let data: usize = outputs.tensors.iter().map(|tensor| tensor.data.len() + 128).sum();
    let mut bytes = Vec::with_capacity(64 + data);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&u32::try_from(outputs.tensors.len()).ok()?.to_le_bytes());
    for tensor in &outputs.tensors {
        put_name(&mut bytes, &tensor.name)?;
        let data_type = DataType::ALL.iter().position(|it| *it == tensor.data_type)?;
        bytes.push(u8::try_from(data_type).ok()?);
        bytes.push(u8::try_from(tensor.shape.len()).ok()?);
        tensor.shape.iter().for_each(|extent| bytes.extend_from_slice(&extent.to_le_bytes()));
        let data = tensor.data.as_host()?;
        bytes.extend_from_slice(&(data.len() as u64).to_le_bytes());
        bytes.extend_from_slice(data);
    }
    bytes.extend_from_slice(&u32::try_from(outputs.parameters.len()).ok()?.to_le_bytes());
    for (name, value) in outputs.parameters.iter() {
        put_name(&mut bytes, name)?;
        match value {
            Parameter::Bool(value) => bytes.extend_from_slice(&[0, u8::from(*value)]),
            Parameter::Int(value) => put_value(&mut bytes, 1, value.to_le_bytes()),
            Parameter::Uint(value) => put_value(&mut bytes, 2, value.to_le_bytes()),
            Parameter::Double(value) => put_value(&mut bytes, 3, value.to_le_bytes()),
            Parameter::String(value) => {
                put_value(&mut bytes, 4, u32::try_from(value.len()).ok()?.to_le_bytes());
                bytes.extend_from_slice(value.as_bytes());
            }
        }
    }
    Some(bytes)
}

/// The response that was made into these bytes; its tensors are slices of them.
///
/// Errors: they are not what [`encode`] gives.
pub fn decode(bytes: Bytes) -> Result<Outputs, DecodeError> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(MAGIC.len()) != Ok(MAGIC.as_slice()) {
        return Err(DecodeError::Format);
    }
    let mut outputs = Outputs::default();
    for _ in 0..reader.u32()? {
        outputs.tensors.push(reader.tensor()?);
    }
    let mut parameters = Parameters::new();
    for _ in 0..reader.u32()? {
        parameters.push((reader.name()?.to_owned(), reader.parameter()?));
    }
    outputs.parameters = parameters.into();
    if reader.at == reader.bytes.len() { Ok(outputs) } else { Err(DecodeError::Surplus) }
}

fn put_name(bytes: &mut Vec<u8>, name: &str) -> Option<()> {
    bytes.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
    Some(())
}

fn put_value<const N: usize>(bytes: &mut Vec<u8>, kind: u8, value: [u8; N]) {
    bytes.push(kind);
    bytes.extend_from_slice(&value);
}

struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    fn take(&mut self, length: usize) -> Result<&[u8], DecodeError> {
        let end = self.at.checked_add(length).ok_or(DecodeError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn name(&mut self) -> Result<&str, DecodeError> {
        let length = u16::from_le_bytes(self.array()?);
        self.text(length.into())
    }

    fn text(&mut self, length: usize) -> Result<&str, DecodeError> {
        std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::Unknown)
    }

    fn tensor(&mut self) -> Result<Tensor, DecodeError> {
        let name = self.name()?.into();
        let data_type = *DataType::ALL.get(usize::from(self.u8()?)).ok_or(DecodeError::Unknown)?;
        let extents = usize::from(self.u8()?);
        let mut shape = Shape::with_capacity(extents);
        for _ in 0..extents {
            shape.push(i64::from_le_bytes(self.array()?));
        }
        let length = usize::try_from(self.u64()?).map_err(|_| DecodeError::Truncated)?;
        let start = self.at;
        let data = self.take(length)?;
        let fits = match data_type {
            DataType::Bytes => element_count(&shape).is_some_and(|count| {
                let mut elements = strings::elements(data);
                let read = elements.by_ref().take_while(Result::is_ok).count();
                i64::try_from(read) == Ok(count) && strings::elements(data).all(|element| element.is_ok())
            }),
            fixed => byte_count(fixed, &shape) == Some(length),
        };
        if !fits {
            return Err(DecodeError::Contents);
        }
        Ok(Tensor { name, data_type, shape, data: self.bytes.slice(start..start + length).into() })
    }

    fn parameter(&mut self) -> Result<Parameter, DecodeError> {
        Ok(match self.u8()? {
            0 => Parameter::Bool(self.u8()? != 0),
            1 => Parameter::Int(i64::from_le_bytes(self.array()?)),
            2 => Parameter::Uint(self.u64()?),
            3 => Parameter::Double(f64::from_le_bytes(self.array()?)),
            4 => {
                let length = usize::try_from(self.u32()?).map_err(|_| DecodeError::Truncated)?;
                Parameter::String(self.text(length)?.to_owned())
            }
            _ => return Err(DecodeError::Unknown),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_outputs() -> Outputs {
        let tensor = |name: &str, data_type, shape: &[i64], data: &[u8]| Tensor {
            name: name.into(),
            data_type,
            shape: shape.into(),
            data: data.to_vec().into(),
        };
        Outputs {
            tensors: [
                tensor("OUTPUT0", DataType::Fp32, &[1, 2], &[1, 2, 3, 4, 5, 6, 7, 8]),
                tensor("ß", DataType::Bytes, &[2], &[1, 0, 0, 0, b'a', 0, 0, 0, 0]),
                tensor("none", DataType::Int64, &[0, 4], &[]),
                tensor("scalar", DataType::Bool, &[], &[1]),
            ]
            .into_iter()
            .collect(),
            parameters: vec![
                ("a".to_owned(), Parameter::Bool(true)),
                ("b".to_owned(), Parameter::Int(-1)),
                ("c".to_owned(), Parameter::Uint(u64::MAX)),
                ("d".to_owned(), Parameter::Double(0.5)),
                ("e".to_owned(), Parameter::String("text".into())),
            ]
            .into(),
        }
    }

    fn told(outputs: &Outputs) -> String {
        format!("{:?} {:?}", outputs.tensors, outputs.parameters)
    }

    #[test]
    fn a_response_comes_back_as_it_was() {
        for outputs in [some_outputs(), Outputs::default()] {
            let bytes = encode(&outputs).unwrap();
            let read = decode(bytes.into()).unwrap();
            assert_eq!(told(&read).replace("is_unique: false", "is_unique: true"), told(&outputs));
        }
    }

    #[test]
    fn an_entry_that_is_cut_off_or_longer_is_refused() {
        let whole = encode(&some_outputs()).unwrap();
        for end in 0..whole.len() {
            assert!(decode(whole[..end].to_vec().into()).is_err(), "{end}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert_eq!(decode(longer.into()).unwrap_err(), DecodeError::Surplus);
        assert_eq!(decode(Bytes::from_static(b"TSRC\x02....")).unwrap_err(), DecodeError::Format);
    }

    #[test]
    fn a_tensor_has_the_bytes_of_its_type_and_shape() {
        let refused = |change: fn(&mut Tensor, usize), place: usize| {
            let mut outputs = some_outputs();
            change(&mut outputs.tensors[place], place);
            assert_eq!(decode(encode(&outputs).unwrap().into()).unwrap_err(), DecodeError::Contents);
        };
        refused(|tensor, _| tensor.shape = [1, 3].as_slice().into(), 0);
        refused(|tensor, _| tensor.shape = [-1, -2].as_slice().into(), 0);
        refused(|tensor, _| tensor.shape = [i64::MAX, 8].as_slice().into(), 0);
        refused(|tensor, _| tensor.shape = [3].as_slice().into(), 1);
        refused(|tensor, _| tensor.data = vec![9, 0, 0, 0, b'a'].into(), 1);
        refused(|tensor, _| tensor.data = vec![0, 0, 0, 0, 0, 0, 0, 0, 1].into(), 1);
    }

    proptest! {
        #[test]
        fn junk_is_refused_without_a_panic(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode([MAGIC.as_slice(), &junk].concat().into());
        }

        #[test]
        fn an_entry_with_changed_bytes_is_read_or_refused(at in 0..200_usize, with in any::<u8>()) {
            let mut bytes = encode(&some_outputs()).unwrap();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(outputs) = decode(bytes.into()) {
                prop_assert!(outputs.tensors.len() <= 4);
            }
        }
    }
}
