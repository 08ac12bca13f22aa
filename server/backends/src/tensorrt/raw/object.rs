//! Objects of C++: a pointer to a table of methods comes first in each.

use std::{
    ffi::c_void,
    ptr::{self, NonNull},
};

/// Entry of a table of methods.
pub(super) type Method = *const c_void;

/// The head of every object with virtual methods.
#[repr(C)]
pub(super) struct Virtual {
    table: *const Method,
}

/// An object as TensorRT hands it out: its own table has only the destructor, its implementation the methods.
#[repr(C)]
struct Handed {
    head: Virtual,
    implementation: *mut Virtual,
}

/// An object of TensorRT that is destroyed when this is dropped.
#[derive(Debug)]
pub(super) struct Object {
    object: NonNull<c_void>,
    implementation: NonNull<Virtual>,
}

// SAFETY: TensorRT's runtimes, engines and contexts may be used by any thread, contexts by one at a time; engines are only asked here.
unsafe impl Send for Object {}
// SAFETY: as above; what changes an object takes it by exclusive reference.
unsafe impl Sync for Object {}

impl Object {
    /// What a function of TensorRT has answered; `None` if it is no object. Some versions answer an address near zero where they fail.
    ///
    /// # Safety
    /// It is an object of TensorRT that nobody else destroys, or no object.
    pub(super) unsafe fn of(answered: *mut c_void) -> Option<Self> {
        const NEAR_ZERO: usize = 4096;
        let object = NonNull::new(answered).filter(|object| object.addr().get() >= NEAR_ZERO)?;
        // SAFETY: an object of TensorRT, as the caller says.
        let implementation = unsafe { implementation_of(object.as_ptr()) }?;
        Some(Self { object, implementation })
    }

    /// The method in that place of its table, and what it is called on.
    ///
    /// # Safety
    /// `F` is the type of that method, with the object as its first argument.
    pub(super) unsafe fn method<F: Copy>(&self, slot: usize) -> (F, *mut c_void) {
        let implementation = self.implementation.as_ptr();
        // SAFETY: the implementation is live as long as the object; its table has the slot, as the caller says.
        let method = unsafe { method_of(implementation, slot) };
        (method, implementation.cast())
    }

    /// Its address: what other methods take.
    pub(super) fn address(&self) -> *mut c_void {
        self.object.as_ptr()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        const DELETING_DESTRUCTOR: usize = 1;
        // SAFETY: its table begins with the complete and the deleting destructor, and nobody else destroys it.
        unsafe {
            let destroy: unsafe extern "C" fn(*mut c_void) =
                method_of(self.object.as_ptr().cast(), DELETING_DESTRUCTOR);
            destroy(self.object.as_ptr());
        }
    }
}

/// The implementation of an object that TensorRT has handed out, which has its methods.
///
/// # Safety
/// It is a live object of TensorRT, or null.
pub(super) unsafe fn implementation_of(object: *mut c_void) -> Option<NonNull<Virtual>> {
    // SAFETY: an object of TensorRT begins like this.
    NonNull::new(unsafe { NonNull::new(object)?.cast::<Handed>().as_ref() }.implementation)
}

/// The method in that place of the object's own table.
///
/// # Safety
/// The object is live, its table has the slot, and `F` is the type of that method.
pub(super) unsafe fn method_of<F: Copy>(object: *mut Virtual, slot: usize) -> F {
    const { assert!(size_of::<F>() == size_of::<Method>()) };
    // SAFETY: the caller says so.
    unsafe { ptr::read((*object).table.add(slot).cast()) }
}

/// Calls a method of an [`Object`]: `call!(object, slot, fn(arguments) -> answer, values)`.
macro_rules! call {
    ($object:expr, $slot:expr, fn($($argument:ty),*) $(-> $answer:ty)?, $($value:expr),*) => {{
        let (method, implementation) =
            $object.method::<unsafe extern "C" fn(*mut std::ffi::c_void $(, $argument)*) $(-> $answer)?>($slot);
        method(implementation $(, $value)*)
    }};
}
pub(super) use call;
