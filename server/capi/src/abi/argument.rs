//! Arguments of C functions that are addresses: what is read there or written there. They come from a library, which the headers
//! bind to pass an address of a value of that type, or null; null is found out and refused.

use std::{
    borrow::Cow,
    ffi::{CStr, c_char},
    slice,
};

use server_core::error::{Error, Result};

/// Where a result is written.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Nobody wants it.
    pub(crate) const NOWHERE: Self = Self(std::ptr::null_mut());

    /// Writes it.
    ///
    /// Errors: the address is null.
    #[allow(unsafe_code)]
    pub(crate) fn set(self, value: T) -> Result<()> {
        if self.0.is_null() {
            return Err(null("the address of a result"));
        }
        // SAFETY: the headers bind the library to pass the address of a variable of that type, which no other thread uses meanwhile.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes it, unless the address is null: the library may leave out what it does not want to know.
    pub(crate) fn set_if_wanted(self, value: T) {
        let _ = self.set(value); // null
    }

    /// The same for what has to be found first.
    pub(crate) fn set_if_wanted_with(self, find: impl FnOnce() -> T) {
        if !self.0.is_null() {
            self.set_if_wanted(find());
        }
    }
}

/// Where values are read, as many as another argument says.
#[repr(transparent)]
pub(crate) struct Array<T>(*const T);

impl<T: Copy> Array<T> {
    /// The values.
    ///
    /// Errors: the address is null, and there is to be a value.
    #[allow(unsafe_code)]
    pub(crate) fn get(&self, count: u64) -> Result<&[T]> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() || count > isize::MAX as usize / size_of::<T>().max(1) {
            return Err(null("the address of an array"));
        }
        // SAFETY: the headers bind the library to pass the address of so many values, which stay as they are during the call.
        Ok(unsafe { slice::from_raw_parts(self.0, count) })
    }
}

/// Most dimensions of a tensor: a library that says more has got its arguments wrong, and what lies there is not read.
const MOST_DIMENSIONS: u64 = 1024;

impl Array<i64> {
    /// The extents of a shape.
    ///
    /// Errors: as those of [`Array::get`]; or there are more than any tensor has.
    pub(crate) fn shape(&self, rank: u64) -> Result<&[i64]> {
        if rank > MOST_DIMENSIONS {
            let text = format!("a shape has {rank} dimensions, and {MOST_DIMENSIONS} are the most");
            return Err(Error::invalid_argument(text));
        }
        self.get(rank)
    }
}

/// A text that ends with a zero byte.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Text(*const c_char);

impl Text {
    /// No text.
    pub(crate) const NULL: Self = Self(std::ptr::null());

    /// The address of a text, for a library to read as long as it lives.
    pub(crate) fn of(text: &CStr) -> Self {
        Self(text.as_ptr())
    }

    /// The text, with marks in place of what is not UTF-8.
    ///
    /// Errors: the address is null.
    #[allow(unsafe_code)]
    pub(crate) fn get<'a>(self) -> Result<Cow<'a, str>> {
        if self.0.is_null() {
            return Err(null("a text"));
        }
        // SAFETY: the headers bind the library to pass a text that ends with a zero byte and stays as it is during the call.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy())
    }
}

fn null(what: &str) -> Error {
    Error::invalid_argument(format!("{what} is null"))
}
