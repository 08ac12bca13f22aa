//! What is used of Python: functions of its stable ABI as of 3.8, and the two structures that describe a module.
//!
//! Source: Python/C API Reference Manual, "C API Stability" and "Module Objects".

use core::{
    ffi::{CStr, c_char, c_int, c_long, c_void},
    ptr, slice,
};

/// An object. Nobody looks into one.
#[repr(C)]
pub(crate) struct Object {
    count: isize,
    class: *mut c_void,
}

type Function = unsafe extern "C" fn(*mut Object, *mut Object) -> *mut Object;

/// `PyMethodDef`.
#[repr(C)]
pub(crate) struct Method {
    name: *const c_char,
    function: Option<Function>,
    flags: c_int,
    doc: *const c_char,
}

/// `PyModuleDef`.
#[repr(C)]
pub(crate) struct Module {
    base: Object,
    init: *mut c_void,
    index: isize,
    copy: *mut c_void,
    name: *const c_char,
    doc: *const c_char,
    size: isize,
    methods: *mut Method,
    slots: *mut c_void,
    traverse: *mut c_void,
    clear: *mut c_void,
    free: *mut c_void,
}

/// `PYTHON_ABI_VERSION`.
pub(crate) const ABI_VERSION: c_int = 3;
const METH_VARARGS: c_int = 1;

unsafe extern "C" {
    pub(crate) fn PyModule_Create2(module: *mut Module, version: c_int) -> *mut Object;
    pub(crate) fn PyEval_SaveThread() -> *mut c_void;
    pub(crate) fn PyEval_RestoreThread(thread: *mut c_void);
    pub(crate) fn PyErr_CheckSignals() -> c_int;
    fn PyErr_Occurred() -> *mut Object;
    fn PyErr_SetFromErrno(class: *mut Object) -> *mut Object;
    fn PyErr_SetString(class: *mut Object, text: *const c_char);
    fn PyTuple_GetItem(tuple: *mut Object, index: isize) -> *mut Object;
    fn PyLong_AsLong(object: *mut Object) -> c_long;
    fn PyBool_FromLong(value: c_long) -> *mut Object;
    fn PyBytes_FromStringAndSize(bytes: *const c_char, length: isize) -> *mut Object;
    fn PyBytes_AsStringAndSize(object: *mut Object, bytes: *mut *mut c_char, length: *mut isize) -> c_int;
    fn Py_IncRef(object: *mut Object);
    static PyExc_OSError: *mut Object;
    static PyExc_ValueError: *mut Object;
    static mut _Py_NoneStruct: Object;
}

impl Method {
    /// Ends a list of methods.
    pub(crate) const END: Self = Self { name: ptr::null(), function: None, flags: 0, doc: ptr::null() };

    pub(crate) const fn new(name: &'static CStr, function: Function, doc: &'static CStr) -> Self {
        Self { name: name.as_ptr(), function: Some(function), flags: METH_VARARGS, doc: doc.as_ptr() }
    }
}

impl Module {
    pub(crate) const fn new(name: &'static CStr, methods: *mut Method) -> Self {
        let none = ptr::null_mut();
        Self {
            base: Object { count: 1, class: none },
            init: none,
            index: 0,
            copy: none,
            name: name.as_ptr(),
            doc: ptr::null(),
            size: -1,
            methods,
            slots: none,
            traverse: none,
            clear: none,
            free: none,
        }
    }
}

/// One of the arguments, a number; `None` if it is none, with an exception.
pub(crate) unsafe fn number(arguments: *mut Object, index: isize) -> Option<c_int> {
    // SAFETY: with the interpreter's lock, and `arguments` is a tuple.
    unsafe {
        let argument = PyTuple_GetItem(arguments, index);
        if argument.is_null() {
            return None;
        }
        let number = PyLong_AsLong(argument);
        PyErr_Occurred().is_null().then_some(number as c_int)
    }
}

/// One of the arguments, bytes that live as long as it; `None` if it is none, with an exception.
pub(crate) unsafe fn bytes<'a>(arguments: *mut Object, index: isize) -> Option<&'a [u8]> {
    // SAFETY: with the interpreter's lock, and `arguments` is a tuple; bytes do not change.
    unsafe {
        let argument = PyTuple_GetItem(arguments, index);
        let (mut bytes, mut length) = (ptr::null_mut(), 0);
        if argument.is_null() || PyBytes_AsStringAndSize(argument, &raw mut bytes, &raw mut length) != 0 {
            return None;
        }
        Some(slice::from_raw_parts(bytes.cast(), length as usize))
    }
}

/// New bytes; null if there is no memory for them, with an exception.
pub(crate) unsafe fn new_bytes(length: usize, write: impl FnOnce(&mut [u8])) -> *mut Object {
    // SAFETY: with the interpreter's lock; new bytes are their maker's to write until somebody else has them.
    unsafe {
        let object = PyBytes_FromStringAndSize(ptr::null(), length as isize);
        let (mut bytes, mut size) = (ptr::null_mut(), 0);
        if !object.is_null() && length > 0 && PyBytes_AsStringAndSize(object, &raw mut bytes, &raw mut size) == 0 {
            let bytes = bytes.cast::<u8>();
            bytes.write_bytes(0, length);
            write(slice::from_raw_parts_mut(bytes, length));
        }
        object
    }
}

pub(crate) unsafe fn none() -> *mut Object {
    // SAFETY: with the interpreter's lock; nobody looks into it.
    unsafe {
        let none = &raw mut _Py_NoneStruct;
        Py_IncRef(none);
        none
    }
}

pub(crate) unsafe fn bool(value: bool) -> *mut Object {
    // SAFETY: with the interpreter's lock.
    unsafe { PyBool_FromLong(value.into()) }
}

/// Raises the `OSError` of that number.
pub(crate) unsafe fn raise_system(errno: c_int) -> *mut Object {
    crate::libc::set_errno(errno);
    // SAFETY: with the interpreter's lock.
    unsafe { PyErr_SetFromErrno(PyExc_OSError) }
}

/// Raises a `ValueError`.
pub(crate) unsafe fn raise_value(text: &CStr) -> *mut Object {
    // SAFETY: with the interpreter's lock.
    unsafe { PyErr_SetString(PyExc_ValueError, text.as_ptr()) };
    ptr::null_mut()
}
