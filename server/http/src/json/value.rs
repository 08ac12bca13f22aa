//! A JSON value as a tree, for the small messages of the administrative endpoints and of generate.

use std::borrow::Cow;

use server_core::{error::Error, request::Parameter};

use super::{
    number::Number,
    reader::{Kind, Parsed, Reader, document},
};

/// Any JSON value. Members keep their order; of two with one name the first counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, [u8]>),
    Array(Vec<Value<'a>>),
    Object(Vec<(String, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Reads a whole text.
    ///
    /// Errors: it is no JSON.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, Error> {
        document(text, Self::read).map_err(|fault| fault.into_error())
    }

    /// Reads the value at the reader's place.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Parsed<Self> {
        Ok(match reader.kind() {
            Kind::Null | Kind::Bool => reader.word()?.map_or(Self::Null, Self::Bool),
            Kind::Number => Self::Number(reader.number()?),
            Kind::String => Self::String(reader.string()?),
            Kind::Array => {
                let mut elements = Vec::new();
                reader.array(|reader| {
                    elements.push(Self::read(reader)?);
                    Ok(())
                })?;
                Self::Array(elements)
            }
            Kind::Object => {
                let mut members = Vec::new();
                reader.object(|reader, name| {
                    members.push((text(name), Self::read(reader)?));
                    Ok(())
                })?;
                Self::Object(members)
            }
        })
    }

    /// The member of that name; `None` also if this is no object.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        self.members()?.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// Names and values, if this is an object.
    pub(crate) fn members(&self) -> Option<&[(String, Self)]> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The bytes, if this is a string.
    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is a whole one that is not negative.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.as_u64(),
            _ => None,
        }
    }

    /// As a parameter of a request; `None` if parameters have no such type.
    pub(crate) fn to_parameter(&self) -> Option<Parameter> {
        Some(match self {
            Self::Bool(value) => Parameter::Bool(*value),
            Self::Number(Number::Double(value)) => Parameter::Double(*value),
            Self::Number(Number::Int(value)) => Parameter::Int(*value),
            Self::Number(Number::Uint(value)) => i64::try_from(*value).map_or(Parameter::Uint(*value), Parameter::Int),
            Self::String(bytes) => Parameter::String(text(bytes)),
            Self::Null | Self::Array(_) | Self::Object(_) => return None,
        })
    }
}

/// Bytes as text; what is not UTF-8 is replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_keeps_order_and_types() {
        let value = Value::parse(b"{\"b\":[1,-2,0.5,null],\"a\":{\"c\":\"x\"},\"b\":true}").unwrap();
        let names: Vec<_> = value.members().unwrap().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "a", "b"]);
        assert_eq!(value.member("a").and_then(|a| a.member("c")).and_then(Value::as_bytes), Some(b"x".as_slice()));
        let Some(Value::Array(elements)) = value.member("b") else { panic!("expected the first 'b'") };
        let parameters: Vec<_> = elements.iter().map(Value::to_parameter).collect();
        assert_eq!(parameters, [Some(Parameter::Int(1)), Some(Parameter::Int(-2)), Some(Parameter::Double(0.5)), None]);
        assert_eq!(Value::parse(b"1").unwrap().members(), None);
    }
}
