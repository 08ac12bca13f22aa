//! How a function of the interface is declared: once, with [`exports!`], which makes the C function and puts it on the list of
//! those that libraries find.

use std::panic::{AssertUnwindSafe, catch_unwind};

use server_core::error::{Error as CoreError, Result};

use super::{Handle, misuse, objects::Error};

/// A name and where in this process it leads.
#[derive(Debug, Clone, Copy)]
pub struct Export {
    /// The name of the C function.
    pub name: &'static str,
    /// Its address.
    pub address: *const (),
}

// SAFETY: the address of a function of this program, which is there for as long as the process is.
#[allow(unsafe_code)]
unsafe impl Sync for Export {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Send for Export {}

/// What most functions return: null, or an error that the caller deletes.
pub(crate) type Status = Handle<Error>;

/// Runs the body of a function. A panic becomes an error: it must not enter the library.
pub(crate) fn status(name: &str, run: impl FnOnce() -> Result<()>) -> Status {
    misuse::clear();
    let result = catch_unwind(AssertUnwindSafe(run));
    match result.unwrap_or_else(|_| Err(CoreError::internal(format!("{name} failed: this is an error of the server"))))
    {
        Ok(()) => Handle::NULL,
        Err(error) => {
            misuse::log(name, &error);
            Handle::new(Error::of(&error))
        }
    }
}

/// Declares C functions, and `EXPORTS`, the list of them. The body of one without a return type is that of a function that
/// returns [`Result`], and C gets [`Status`]; of others it is what C gets, and must not panic.
macro_rules! exports {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $return:ty)? $body:block)*) => {
        $(exports!(@one $(#[$doc])* $name ($($argument: $type),*) ($($return)?) $body);)*

        /// The functions of this file, by name.
        pub(crate) const EXPORTS: &[$crate::abi::Export] =
            &[$($crate::abi::Export { name: stringify!($name), address: $name as *const () }),*];
    };
    (@one $(#[$doc:meta])* $name:ident ($($argument:ident: $type:ty),*) () $body:block) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        pub(crate) extern "C" fn $name($($argument: $type),*) -> $crate::abi::Status {
            $crate::abi::status(stringify!($name), || $body)
        }
    };
    (@one $(#[$doc:meta])* $name:ident ($($argument:ident: $type:ty),*) ($return:ty) $body:block) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        pub(crate) extern "C" fn $name($($argument: $type),*) -> $return $body
    };
}
pub(crate) use exports;
