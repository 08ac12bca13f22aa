//! `TRITONSERVER_Parameter`: a name and a value, for labels of metrics and for loads.

use std::ffi::{CString, c_char, c_void};

use bytes::Bytes;
use server_core::error::{Error, Result};

use crate::abi::{Array, Handle, Text, export::exports, handle::objects, numbers::ParameterType, objects::text};

objects! { 21: Parameter => "TRITONSERVER_Parameter" }

/// A name and a value.
#[derive(Debug, PartialEq)]
pub(crate) struct Parameter {
    pub(crate) name: CString,
    pub(crate) value: Value,
}

/// The values that there are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    String(CString),
    Int(i64),
    Bool(bool),
    Double(f64),
    /// What the library keeps until the parameter is deleted, copied: nobody can tell whether it does.
    Bytes(Bytes),
}

impl Value {
    /// Reads a value of that kind.
    ///
    /// Errors: the address is null, or there is no such kind.
    #[allow(unsafe_code)]
    fn read(kind: ParameterType, value: *const c_void) -> Result<Self> {
        if value.is_null() {
            return Err(Error::invalid_argument("the value of a parameter is null"));
        }
        // SAFETY: the header binds the library to pass the address of a value of the kind that it says: for a string, that of its
        // first character.
        unsafe {
            match kind {
                ParameterType::STRING => {
                    let value = std::ffi::CStr::from_ptr(value.cast::<c_char>());
                    Ok(Self::String(text(&value.to_string_lossy())))
                }
                ParameterType::INT => Ok(Self::Int(value.cast::<i64>().read_unaligned())),
                ParameterType::BOOL => Ok(Self::Bool(value.cast::<u8>().read() != 0)),
                ParameterType::DOUBLE => Ok(Self::Double(value.cast::<f64>().read_unaligned())),
                _ => Err(Error::invalid_argument(format!("a parameter cannot be made of a value of kind {}", kind.0))),
            }
        }
    }
}

exports! {
    /// A parameter of a value of that kind; null if there is no such kind.
    fn TRITONSERVER_ParameterNew(name: Text, kind: ParameterType, value: *const c_void) -> Handle<Parameter> {
        match (name.get(), Value::read(kind, value)) {
            (Ok(name), Ok(value)) => Handle::new(Parameter { name: text(&name), value }),
            (Err(error), _) | (_, Err(error)) => refused(&error),
        }
    }

    /// A parameter of bytes.
    fn TRITONSERVER_ParameterBytesNew(name: Text, base: Array<u8>, size: u64) -> Handle<Parameter> {
        match (name.get(), base.get(size)) {
            (Ok(name), Ok(bytes)) => {
                let value = Value::Bytes(Bytes::copy_from_slice(bytes));
                Handle::new(Parameter { name: text(&name), value })
            }
            (Err(error), _) | (_, Err(error)) => refused(&error),
        }
    }

    /// Deletes a parameter.
    fn TRITONSERVER_ParameterDelete(parameter: Handle<Parameter>) -> () {
        let _ = parameter.take(); // nobody could be told that it is none
    }
}

/// Null: these functions have no other way to say it.
fn refused(error: &Error) -> Handle<Parameter> {
    tracing::error!("a library made a parameter that cannot be: {error}");
    Handle::NULL
}
