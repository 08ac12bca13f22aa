//! What runs models: one folder per backend, each with the same files. A backend knows the contract in `server_core` and,
//! if it needs a library, how to find one; it does not know the other backends.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
// Unsafe code is allowed where it says so: `dylib` opens libraries, `raw` of a backend calls into one, `heap` into
// the C library.

mod dylib;
mod heap;
#[cfg(test)]
mod testing;

use std::{collections::BTreeMap, sync::Arc};

use server_core::backend::{Backend, Settings};

/// The one list. A backend is a module of that name with a function `backend(settings)`.
macro_rules! backends {
    ($($name:ident),+ $(,)?) => {
        $(mod $name;)+

        /// Every backend, with its settings of `--backend-config`, global ones already merged in.
        ///
        /// Nothing is opened here: a library that a backend needs is looked for when its first model is.
        pub fn all(settings: &BTreeMap<String, Settings>) -> Vec<Arc<dyn Backend>> {
            let settings = |name: &str| settings.get(name).cloned().unwrap_or_default();
            vec![$($name::backend(settings(stringify!($name)))),+]
        }
    };
}

backends! { identity, onnxruntime }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_goes_by_the_name_of_its_folder() {
        let names: Vec<_> = all(&BTreeMap::new()).iter().map(|backend| backend.name()).collect();
        assert_eq!(names, ["identity", "onnxruntime"]);
    }
}
