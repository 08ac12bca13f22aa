//! Values of one type, and what is said of a value of another.

use std::borrow::Cow;

use server_core::error::Error;

use crate::json::{
    reader::{Kind, Parsed, Reader},
    value::text,
};

pub(super) const NOT_UNSIGNED: &str = "unsigned-integer as unsigned-integer";

pub(super) fn array<'a>(
    reader: &mut Reader<'a>,
    field: &str,
    element: impl FnMut(&mut Reader<'a>) -> Parsed<()>,
) -> Parsed<()> {
    if reader.kind() != Kind::Array {
        reader.skip()?;
        return Err(unable(field, "array as array").into());
    }
    reader.array(element)
}

pub(super) fn string<'a>(reader: &mut Reader<'a>, field: &str) -> Parsed<Cow<'a, [u8]>> {
    if reader.kind() != Kind::String {
        reader.skip()?;
        return Err(unable(field, "string as string").into());
    }
    reader.string()
}

pub(super) fn boolean(reader: &mut Reader<'_>, field: &str) -> Parsed<bool> {
    if reader.kind() == Kind::Bool {
        return Ok(reader.word()? == Some(true));
    }
    reader.skip()?;
    Err(unable(field, "boolean as boolean").into())
}

pub(super) fn unsigned(reader: &mut Reader<'_>, field: &str) -> Parsed<u64> {
    if reader.kind() != Kind::Number {
        reader.skip()?;
        return Err(unable(field, NOT_UNSIGNED).into());
    }
    reader.number()?.as_u64().ok_or_else(|| unable(field, NOT_UNSIGNED).into())
}

#[cold]
pub(super) fn unable(field: &str, other: &str) -> Error {
    wrong_type(&format!("Unable to parse '{field}'"), other)
}

#[cold]
pub(super) fn wrong_type(what: &str, other: &str) -> Error {
    Error::internal(format!("{what}: attempt to access JSON non-{other}"))
}

#[cold]
pub(super) fn missing(field: &str) -> Error {
    Error::internal(format!("Unable to parse '{field}': attempt to access non-existing object member '{field}'"))
}

pub(super) fn lossy(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(text(&bytes)),
    }
}
