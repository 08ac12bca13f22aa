//! Entries of the tables of a decoder: fields that were checked once, and are passed on by reference.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::{Field, table::size_of};

/// The name of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Header(HeaderName),
    /// What no field of a request is called.
    Malformed {
        length: usize,
    },
}

impl Name {
    /// Upper-case letters are malformed, and so are pseudo-header fields that no request has. Source: RFC 9113, sections 8.2.1 and 8.3.
    pub(super) fn parse(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            _ => HeaderName::from_lowercase(name).map_or(Self::Malformed { length: name.len() }, Self::Header),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Method | Self::Scheme => ":method".len(),
            Self::Authority => ":authority".len(),
            Self::Path => ":path".len(),
            Self::Header(name) => name.as_str().len(),
            Self::Malformed { length } => *length,
        }
    }

    /// The field with this value.
    pub(super) fn with(self, value: &[u8], is_sensitive: bool) -> Entry {
        let value = Bytes::copy_from_slice(value);
        Entry::Field(match self {
            Self::Method => Field::Method(value),
            Self::Scheme => Field::Scheme(value),
            Self::Authority => Field::Authority(value),
            Self::Path => Field::Path(value),
            Self::Header(name) => match HeaderValue::from_maybe_shared(value) {
                Ok(mut value) => {
                    value.set_sensitive(is_sensitive);
                    Field::Header(name, value)
                }
                Err(_) => return Entry::Malformed(Self::Header(name)),
            },
            Self::Malformed { .. } => return Entry::Malformed(self),
        })
    }
}

/// A field, or the name of what is none: tables hold it as well, and both sides must agree on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Field(Field),
    Malformed(Name),
}

impl Entry {
    pub(super) fn name(&self) -> Name {
        match self {
            Self::Field(Field::Method(_)) => Name::Method,
            Self::Field(Field::Scheme(_)) => Name::Scheme,
            Self::Field(Field::Authority(_)) => Name::Authority,
            Self::Field(Field::Path(_)) => Name::Path,
            Self::Field(Field::Header(name, _)) => Name::Header(name.clone()),
            Self::Malformed(name) => name.clone(),
        }
    }
}

impl Field {
    /// What it counts for in a list of fields. Source: RFC 9113, section 6.5.2, `SETTINGS_MAX_HEADER_LIST_SIZE`.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Method(value) | Self::Scheme(value) => size_of(Name::Method.len(), value.len()),
            Self::Authority(value) => size_of(Name::Authority.len(), value.len()),
            Self::Path(value) => size_of(Name::Path.len(), value.len()),
            Self::Header(name, value) => size_of(name.as_str().len(), value.len()),
        }
    }
}
