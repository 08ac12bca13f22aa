//! A library of operators as models name it with `model_operations { op_library_filename: … }`: it has one, `test.triple::Triple`,
//! which multiplies floats by three. The tests of this crate run it; `cargo build --examples` makes `libcustom_operator.so`.
//!
//! Source: onnxruntime_c_api.h, `RegisterCustomOpsLibrary_V2`, `OrtCustomOp`.

#![allow(unsafe_code)]

use std::{
    ffi::{c_char, c_int, c_void},
    ptr, slice,
    sync::OnceLock,
};

use ort::sys::{
    ONNXTensorElementDataType as Element, OrtApi, OrtApiBase, OrtCustomOp,
    OrtCustomOpInputOutputCharacteristic as Need, OrtKernelContext, OrtKernelInfo, OrtMemType, OrtSessionOptions,
    OrtStatusPtr,
};

/// The version of the interface that the operator is written for.
const VERSION: u32 = 17;

static API: OnceLock<Api> = OnceLock::new();

struct Api(&'static OrtApi);

// SAFETY: the table of functions is never written to.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

struct Operator(OrtCustomOp);

// SAFETY: the description is never written to.
unsafe impl Sync for Operator {}

static TRIPLE: Operator = Operator(OrtCustomOp {
    version: VERSION,
    CreateKernel: Some(create_kernel),
    GetName: Some(name),
    GetExecutionProviderType: Some(provider),
    GetInputType: Some(element),
    GetInputTypeCount: Some(one),
    GetOutputType: Some(element),
    GetOutputTypeCount: Some(one),
    KernelCompute: Some(compute),
    KernelDestroy: Some(destroy),
    GetInputCharacteristic: Some(required),
    GetOutputCharacteristic: Some(required),
    GetInputMemoryType: Some(memory),
    GetVariadicInputMinArity: Some(arity),
    GetVariadicInputHomogeneity: Some(arity),
    GetVariadicOutputMinArity: Some(arity),
    GetVariadicOutputHomogeneity: Some(arity),
    CreateKernelV2: None,
    KernelComputeV2: None,
    InferOutputShapeFn: None,
    GetStartVersion: Some(arity),
    GetEndVersion: Some(last_version),
});

/// Called by ONNX Runtime when a session names this library.
///
/// # Safety
/// Both pointers are those that ONNX Runtime gives.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    // SAFETY: the base is valid, and the table it answers lives as long as the process.
    let Some(api) = (unsafe { ((*base).GetApi)(VERSION).as_ref() }) else { return OrtStatusPtr(ptr::null_mut()) };
    let api = API.get_or_init(|| Api(api)).0;
    let mut domain = ptr::null_mut();
    // SAFETY: the name is terminated, the operator is static, and the domain lives as long as the process.
    unsafe {
        let made = (api.CreateCustomOpDomain)(c"test.triple".as_ptr(), &mut domain);
        if !made.0.is_null() {
            return made;
        }
        let added = (api.CustomOpDomain_Add)(domain, &raw const TRIPLE.0);
        if added.0.is_null() { (api.AddCustomOpDomain)(options, domain) } else { added }
    }
}

extern "system" fn name(_: *const OrtCustomOp) -> *const c_char {
    c"Triple".as_ptr()
}

extern "system" fn provider(_: *const OrtCustomOp) -> *const c_char {
    c"CPUExecutionProvider".as_ptr()
}

extern "system" fn element(_: *const OrtCustomOp, _: usize) -> Element {
    Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
}

extern "system" fn one(_: *const OrtCustomOp) -> usize {
    1
}

extern "system" fn required(_: *const OrtCustomOp, _: usize) -> Need {
    Need::INPUT_OUTPUT_REQUIRED
}

extern "system" fn memory(_: *const OrtCustomOp, _: usize) -> OrtMemType {
    OrtMemType::OrtMemTypeDefault
}

extern "system" fn arity(_: *const OrtCustomOp) -> c_int {
    1
}

extern "system" fn last_version(_: *const OrtCustomOp) -> c_int {
    c_int::MAX
}

extern "system" fn create_kernel(_: *const OrtCustomOp, _: *const OrtApi, _: *const OrtKernelInfo) -> *mut c_void {
    ptr::dangling_mut::<u8>().cast() // it needs nothing, but may not be null
}

extern "system" fn destroy(_: *mut c_void) {}

extern "system" fn compute(_: *mut c_void, context: *mut OrtKernelContext) {
    let api = API.get().expect("kernels are made after the registration").0;
    let done = |status: OrtStatusPtr| assert!(status.0.is_null(), "ONNX Runtime refused a call of the operator");
    // SAFETY: the context has one input and one output; ONNX Runtime has checked their types, and both tensors are as long
    // as the shape says.
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
            return;
        }
        done((api.GetTensorMutableData)(input.cast_mut(), &mut from));
        done((api.GetTensorMutableData)(output, &mut to));
        let from = slice::from_raw_parts(from.cast::<f32>(), count);
        let to = slice::from_raw_parts_mut(to.cast::<f32>(), count);
        to.iter_mut().zip(from).for_each(|(to, from)| *to = 3.0 * from);
    }
}
