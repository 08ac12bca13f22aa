//! A library with an execution provider, as `--backend-config=onnxruntime,ep-library.NAME=PATH` names it. Its provider runs `Neg` of
//! floats on the CPU and, so that one sees who computed, answers twice the negative; the option `factor` is another factor. The
//! tests of this crate run it; `cargo build --examples` makes `libexecution_provider.so`.
//!
//! Source: onnxruntime_ep_c_api.h of ONNX Runtime 1.23: `CreateEpFactories`, `OrtEpFactory`, `OrtEp`, `OrtNodeComputeInfo`.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char, c_void},
    ptr, slice,
    sync::OnceLock,
};

use ort::sys::{OrtApi, OrtApiBase, OrtErrorCode, OrtKernelContext, OrtSessionOptions, OrtStatusPtr};

/// The version of the interface that the provider is written for.
const VERSION: u32 = 23;
/// `OrtHardwareDeviceType` of a processor.
const CPU: i32 = 0;

// Functions of `OrtApi` after those that the declarations have, by their place in the table.
const HARDWARE_DEVICE_TYPE: usize = 307;
const GET_EP_API: usize = 317;
const GRAPH_GET_NUM_NODES: usize = 344;
const GRAPH_GET_NODES: usize = 345;
const NODE_GET_OPERATOR_TYPE: usize = 350;
// Functions of `OrtEpApi`.
const CREATE_EP_DEVICE: usize = 0;
const ADD_NODES_TO_FUSE: usize = 2;

/// An address of something of ONNX Runtime.
pub type Address = *const c_void;

/// `OrtEpFactory`, to its last function of version 1.23. What is not here is optional.
#[repr(C)]
pub struct Factory {
    version: u32,
    get_name: extern "system" fn(*const Factory) -> *const c_char,
    get_vendor: extern "system" fn(*const Factory) -> *const c_char,
    get_supported_devices:
        unsafe extern "system" fn(*mut Factory, *const Address, usize, *mut Address, usize, *mut usize) -> OrtStatusPtr,
    create_ep: unsafe extern "system" fn(
        *mut Factory,
        *const Address,
        *const Address,
        usize,
        *const OrtSessionOptions,
        Address,
        *mut *mut Ep,
    ) -> OrtStatusPtr,
    release_ep: unsafe extern "system" fn(*mut Factory, *mut Ep),
    get_vendor_id: extern "system" fn(*const Factory) -> u32,
    get_version: extern "system" fn(*const Factory) -> *const c_char,
    validate_compiled_model: Address,
    create_allocator: extern "system" fn(*mut Factory, Address, Address, *mut Address) -> OrtStatusPtr,
    release_allocator: extern "system" fn(*mut Factory, Address),
    create_data_transfer: extern "system" fn(*mut Factory, *mut Address) -> OrtStatusPtr,
    is_stream_aware: extern "system" fn(*const Factory) -> bool,
    create_sync_stream: Address,
}

/// `OrtEp`, and behind it what is the provider's own.
#[repr(C)]
pub struct Ep {
    version: u32,
    get_name: extern "system" fn(*const Ep) -> *const c_char,
    get_capability: unsafe extern "system" fn(*mut Ep, Address, Address) -> OrtStatusPtr,
    compile: unsafe extern "system" fn(
        *mut Ep,
        *const Address,
        *const Address,
        usize,
        *mut *mut Node,
        *mut Address,
    ) -> OrtStatusPtr,
    release_nodes: unsafe extern "system" fn(*mut Ep, *mut *mut Node, usize),
    optional: [Address; 9],
    factor: f32,
}

/// `OrtNodeComputeInfo`, and behind it what is the node's own.
#[repr(C)]
struct Node {
    version: u32,
    create_state: unsafe extern "system" fn(*mut Node, Address, *mut *mut c_void) -> OrtStatusPtr,
    compute: unsafe extern "system" fn(*mut Node, *mut c_void, *mut OrtKernelContext) -> OrtStatusPtr,
    release_state: extern "system" fn(*mut Node, *mut c_void),
    factor: f32,
}

struct Api(&'static OrtApi);

// SAFETY: the table of functions is never written to.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

static API: OnceLock<Api> = OnceLock::new();

fn api() -> &'static OrtApi {
    API.get().expect("the factory was made first").0
}

/// A function of `OrtApi` by its place.
///
/// # Safety
/// `F` is its type.
unsafe fn function<F: Copy>(place: usize) -> F {
    assert_eq!(size_of::<F>(), size_of::<Address>());
    // SAFETY: the table of version 1.23 is longer than that.
    unsafe { ptr::from_ref(api()).cast::<Address>().add(place).cast::<F>().read() }
}

/// The same of `OrtEpApi`.
///
/// # Safety
/// `F` is its type.
unsafe fn ep_function<F: Copy>(place: usize) -> F {
    assert_eq!(size_of::<F>(), size_of::<Address>());
    // SAFETY: as the header declares; the table is static.
    unsafe {
        let table = function::<extern "system" fn() -> *const Address>(GET_EP_API)();
        table.add(place).cast::<F>().read()
    }
}

const FINE: OrtStatusPtr = OrtStatusPtr(ptr::null_mut());

/// Called by ONNX Runtime when the library is registered.
///
/// # Safety
/// All pointers are those that ONNX Runtime gives.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn CreateEpFactories(
    _registered_name: *const c_char,
    base: *const OrtApiBase,
    _logger: Address,
    factories: *mut *mut Factory,
    _max_factories: usize,
    num_factories: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the base is valid, and the table it answers lives as long as the process; the list has room for one.
    unsafe {
        let table = ((*base).GetApi)(VERSION);
        let Some(table) = table.as_ref() else {
            let oldest = ((*base).GetApi)(17);
            return ((*oldest).CreateStatus)(OrtErrorCode::ORT_FAIL, c"it needs ONNX Runtime 1.23".as_ptr());
        };
        API.get_or_init(|| Api(table));
        *factories = Box::into_raw(Box::new(FACTORY));
        *num_factories = 1;
    }
    FINE
}

/// Called by ONNX Runtime when the library is given up.
///
/// # Safety
/// The factory is one of `CreateEpFactories`.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn ReleaseEpFactory(factory: *mut Factory) -> OrtStatusPtr {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(factory) });
    FINE
}

const FACTORY: Factory = Factory {
    version: VERSION,
    get_name: factory_name,
    get_vendor: factory_name,
    get_supported_devices,
    create_ep,
    release_ep,
    get_vendor_id,
    get_version,
    validate_compiled_model: ptr::null(),
    create_allocator,
    release_allocator,
    create_data_transfer,
    is_stream_aware,
    create_sync_stream: ptr::null(),
};

const NAME: &CStr = c"DoubleNegative";

extern "system" fn factory_name(_: *const Factory) -> *const c_char {
    NAME.as_ptr()
}

extern "system" fn get_vendor_id(_: *const Factory) -> u32 {
    0
}

extern "system" fn get_version(_: *const Factory) -> *const c_char {
    c"1.0.0".as_ptr()
}

extern "system" fn create_allocator(_: *mut Factory, _: Address, _: Address, out: *mut Address) -> OrtStatusPtr {
    // SAFETY: ONNX Runtime gives a place for the answer; none means its own.
    unsafe { *out = ptr::null() };
    FINE
}

extern "system" fn release_allocator(_: *mut Factory, _: Address) {}

extern "system" fn create_data_transfer(_: *mut Factory, out: *mut Address) -> OrtStatusPtr {
    // SAFETY: as above.
    unsafe { *out = ptr::null() };
    FINE
}

extern "system" fn is_stream_aware(_: *const Factory) -> bool {
    false
}

unsafe extern "system" fn get_supported_devices(
    factory: *mut Factory,
    devices: *const Address,
    count: usize,
    out: *mut Address,
    room: usize,
    out_count: *mut usize,
) -> OrtStatusPtr {
    type Create = unsafe extern "system" fn(*mut Factory, Address, Address, Address, *mut Address) -> OrtStatusPtr;
    // SAFETY: the lists are as long as said, and the types are those of the header.
    unsafe {
        let kind = function::<extern "system" fn(Address) -> i32>(HARDWARE_DEVICE_TYPE);
        let create = ep_function::<Create>(CREATE_EP_DEVICE);
        *out_count = 0;
        for &device in slice::from_raw_parts(devices, count).iter().filter(|device| kind(**device) == CPU).take(room) {
            let made = create(factory, device, ptr::null(), ptr::null(), out.add(*out_count));
            if !made.0.is_null() {
                return made;
            }
            *out_count += 1;
        }
    }
    FINE
}

unsafe extern "system" fn create_ep(
    _: *mut Factory,
    _: *const Address,
    _: *const Address,
    _: usize,
    options: *const OrtSessionOptions,
    _: Address,
    out: *mut *mut Ep,
) -> OrtStatusPtr {
    let mut value = [0u8; 32];
    let mut length = value.len();
    // SAFETY: options and name are valid, and the buffer is as long as said; an option that is not set is an error, which is released.
    let factor = unsafe {
        let key = c"ep.doublenegative.factor".as_ptr();
        let status = (api().GetSessionConfigEntry)(options, key, value.as_mut_ptr().cast(), &mut length);
        if status.0.is_null() {
            CStr::from_bytes_until_nul(&value).ok().and_then(|text| text.to_str().ok()?.parse().ok())
        } else {
            (api().ReleaseStatus)(status.0);
            Some(2.0)
        }
    };
    let Some(factor) = factor else {
        // SAFETY: the text is terminated; whoever gets the status releases it.
        return unsafe { (api().CreateStatus)(OrtErrorCode::ORT_INVALID_ARGUMENT, c"factor is a number".as_ptr()) };
    };
    let optional = [ptr::null(); 9];
    let version = VERSION;
    let ep = Ep { version, get_name: ep_name, get_capability, compile, release_nodes, optional, factor };
    // SAFETY: ONNX Runtime gives a place for the answer.
    unsafe { *out = Box::into_raw(Box::new(ep)) };
    FINE
}

unsafe extern "system" fn release_ep(_: *mut Factory, ep: *mut Ep) {
    // SAFETY: one of `create_ep`, released once.
    drop(unsafe { Box::from_raw(ep) });
}

extern "system" fn ep_name(_: *const Ep) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "system" fn get_capability(_: *mut Ep, graph: Address, support: Address) -> OrtStatusPtr {
    type Count = unsafe extern "system" fn(Address, *mut usize) -> OrtStatusPtr;
    type List = unsafe extern "system" fn(Address, *mut Address, usize) -> OrtStatusPtr;
    type Operator = unsafe extern "system" fn(Address, *mut *const c_char) -> OrtStatusPtr;
    type Fuse = unsafe extern "system" fn(Address, *const Address, usize, Address) -> OrtStatusPtr;
    // SAFETY: graph and nodes are valid during the call, and the types are those of the header.
    unsafe {
        let mut count = 0;
        done(function::<Count>(GRAPH_GET_NUM_NODES)(graph, &mut count));
        let mut nodes = vec![ptr::null(); count];
        done(function::<List>(GRAPH_GET_NODES)(graph, nodes.as_mut_ptr(), count));
        for node in nodes {
            let mut operator = ptr::null();
            done(function::<Operator>(NODE_GET_OPERATOR_TYPE)(node, &mut operator));
            if CStr::from_ptr(operator) == c"Neg" {
                done(ep_function::<Fuse>(ADD_NODES_TO_FUSE)(support, &node, 1, ptr::null()));
            }
        }
    }
    FINE
}

unsafe extern "system" fn compile(
    ep: *mut Ep,
    _: *const Address,
    _: *const Address,
    count: usize,
    out: *mut *mut Node,
    _: *mut Address,
) -> OrtStatusPtr {
    // SAFETY: the provider is one of `create_ep`, and the list has room for so many.
    unsafe {
        let factor = (*ep).factor;
        for index in 0..count {
            let node = Node { version: VERSION, create_state, compute, release_state, factor };
            *out.add(index) = Box::into_raw(Box::new(node));
        }
    }
    FINE
}

unsafe extern "system" fn release_nodes(_: *mut Ep, nodes: *mut *mut Node, count: usize) {
    // SAFETY: those of `compile`, released once.
    unsafe { slice::from_raw_parts(nodes, count).iter().for_each(|&node| drop(Box::from_raw(node))) }
}

unsafe extern "system" fn create_state(_: *mut Node, _: Address, out: *mut *mut c_void) -> OrtStatusPtr {
    // SAFETY: ONNX Runtime gives a place for the answer.
    unsafe { *out = ptr::dangling_mut::<u8>().cast() };
    FINE
}

extern "system" fn release_state(_: *mut Node, _: *mut c_void) {}

unsafe extern "system" fn compute(node: *mut Node, _: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    let api = api();
    // SAFETY: the node is one of `compile`; the context has one input and one output of floats, which are as long as the shape says.
    unsafe {
        let (mut input, mut info, mut rank, mut count) = (ptr::null(), ptr::null_mut(), 0, 0);
        done((api.KernelContext_GetInput)(context, 0, &mut input));
        done((api.GetTensorTypeAndShape)(input, &mut info));
        done((api.GetDimensionsCount)(info, &mut rank));
        done((api.GetTensorShapeElementCount)(info, &mut count));
        let mut dims = vec![0; rank];
        done((api.GetDimensions)(info, dims.as_mut_ptr(), rank));
        (api.ReleaseTensorTypeAndShapeInfo)(info);
        let (mut output, mut from, mut to) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        done((api.KernelContext_GetOutput)(context, 0, dims.as_ptr(), rank, &mut output));
        if count == 0 {
            return FINE;
        }
        done((api.GetTensorMutableData)(input.cast_mut(), &mut from));
        done((api.GetTensorMutableData)(output, &mut to));
        let from = slice::from_raw_parts(from.cast::<f32>(), count);
        let to = slice::from_raw_parts_mut(to.cast::<f32>(), count);
        to.iter_mut().zip(from).for_each(|(to, from)| *to = -(*node).factor * from);
    }
    FINE
}

fn done(status: OrtStatusPtr) {
    assert!(status.0.is_null(), "ONNX Runtime refused a call of the provider");
}
