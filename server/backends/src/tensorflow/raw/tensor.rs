//! A tensor, of numbers or of strings.

use std::{
    alloc::{self, Layout},
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    ptr::{self, NonNull},
    slice,
};

use bytes::Bytes;
use server_core::tensor::{DataType, Shape, byte_count, element_count, shape_text};

use super::{super::types, Failure, Functions, TfString, TfTensor};

/// A tensor, with memory of its own: a graph may keep what it is fed, in a variable for example.
pub(in super::super) struct Tensor {
    functions: &'static Functions,
    pub(super) pointer: NonNull<TfTensor>,
    /// A later run may write to its memory.
    may_change: bool,
}

// SAFETY: a tensor is a counted reference without thread affinity, and its memory is only read after it was made.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// A tensor of those elements. They are copied.
    ///
    /// Errors: the length is not that of the shape, or the shape is larger than any tensor.
    pub(in super::super) fn of_numbers(
        functions: &'static Functions,
        data_type: DataType,
        shape: &[i64],
        data: &[u8],
    ) -> Result<Self, Failure> {
        if byte_count(data_type, shape) != Some(data.len()) {
            let text = format!("{} bytes are not a {data_type} tensor of shape {}", data.len(), shape_text(shape));
            return Err(Failure::invalid_argument(text));
        }
        let rank = rank(shape)?;
        let number = types::number(data_type);
        // SAFETY: the shape has that many extents.
        let pointer = unsafe { (functions.TF_AllocateTensor)(number, shape.as_ptr(), rank, data.len()) };
        let tensor = Self::owned(functions, NonNull::new(pointer).ok_or_else(|| no_memory(data.len()))?, false);
        if !data.is_empty() {
            let start = tensor.start().ok_or_else(|| no_memory(data.len()))?;
            // SAFETY: the tensor is new, nobody else has it, and it has as many bytes as were asked for.
            unsafe { ptr::copy_nonoverlapping(data.as_ptr(), start.as_ptr(), data.len()) };
        }
        Ok(tensor)
    }

    /// A tensor of byte strings. They are copied.
    ///
    /// Errors: there are more or fewer of them than the shape says.
    pub(in super::super) fn of_strings<'s>(
        functions: &'static Functions,
        shape: &[i64],
        elements: impl Iterator<Item = &'s [u8]>,
    ) -> Result<Self, Failure> {
        let wrong = || Failure::invalid_argument(format!("the strings do not fill shape {}", shape_text(shape)));
        let count = element_count(shape).and_then(|count| usize::try_from(count).ok()).ok_or_else(wrong)?;
        let rank = rank(shape)?;
        let mut strings = Strings::new(functions, count)?;
        for text in elements {
            strings.push(text).ok_or_else(wrong)?;
        }
        if strings.filled != count {
            return Err(wrong());
        }
        let (start, length) = (strings.start, count * size_of::<TfString>());
        std::mem::forget(strings); // the tensor's from here on
        // SAFETY: the memory holds that many strings and is given back by `delete_strings`, also if the call fails.
        let pointer = unsafe {
            let (number, argument) = (types::number(DataType::Bytes), ptr::from_ref(functions).cast_mut().cast());
            let data = start.as_ptr().cast();
            (functions.TF_NewTensor)(number, shape.as_ptr(), rank, data, length, delete_strings, argument)
        };
        Ok(Self::owned(functions, NonNull::new(pointer).ok_or_else(|| no_memory(length))?, false))
    }

    pub(super) fn owned(functions: &'static Functions, pointer: NonNull<TfTensor>, may_change: bool) -> Self {
        Self { functions, pointer, may_change }
    }

    /// Our type, `None` for one that no response can carry, and the shape.
    pub(in super::super) fn describe(&self) -> (Option<DataType>, Shape) {
        // SAFETY: the tensor is valid, and numbers are below its rank.
        unsafe {
            let rank = (self.functions.TF_NumDims)(self.pointer.as_ptr());
            let shape = (0..rank).map(|index| (self.functions.TF_Dim)(self.pointer.as_ptr(), index)).collect();
            (types::data_type((self.functions.TF_TensorType)(self.pointer.as_ptr())), shape)
        }
    }

    /// Its elements as bytes, in host memory, which outputs of a session always are in.
    ///
    /// Errors: it holds strings or what no response can carry.
    pub(in super::super) fn bytes(&self) -> Result<&[u8], Failure> {
        let (data_type, _) = self.describe();
        if data_type.and_then(DataType::byte_size).is_none() {
            return Err(Failure::internal("the tensor does not consist of numbers"));
        }
        Ok(self.memory())
    }

    /// The same as shared bytes. The tensor lives until the last holder drops them; one that may change is copied.
    ///
    /// Errors: as those of [`Tensor::bytes`].
    pub(in super::super) fn into_bytes(self) -> Result<Bytes, Failure> {
        let data = self.bytes()?;
        if self.may_change || data.is_empty() {
            return Ok(Bytes::copy_from_slice(data));
        }
        Ok(Bytes::from_owner(Kept(self)))
    }

    /// Replaces `content` by the strings of the tensor, end to end, and `starts` by where each begins.
    ///
    /// Errors: it holds no strings.
    pub(in super::super) fn read_strings(&self, content: &mut Vec<u8>, starts: &mut Vec<usize>) -> Result<(), Failure> {
        let (data_type, _) = self.describe();
        if data_type != Some(DataType::Bytes) {
            return Err(Failure::internal("the tensor does not consist of strings"));
        }
        content.clear();
        starts.clear();
        let memory = self.memory();
        let count = memory.len() / size_of::<TfString>();
        let start: *const TfString = memory.as_ptr().cast();
        for index in 0..count {
            // SAFETY: the tensor consists of that many strings; each answers where its bytes are, and how many.
            let text = unsafe {
                let string = start.add(index);
                let data: *const u8 = (self.functions.TF_StringGetDataPointer)(string).cast();
                let length = (self.functions.TF_StringGetSize)(string);
                if length == 0 { &[] } else { slice::from_raw_parts(data, length) }
            };
            starts.push(content.len());
            content.extend_from_slice(text);
        }
        Ok(())
    }

    fn memory(&self) -> &[u8] {
        // SAFETY: the tensor is valid.
        let length = unsafe { (self.functions.TF_TensorByteSize)(self.pointer.as_ptr()) };
        match self.start().filter(|_| length > 0) {
            // SAFETY: the tensor has that many bytes there as long as it lives.
            Some(start) => unsafe { slice::from_raw_parts(start.as_ptr(), length) },
            None => &[],
        }
    }

    fn start(&self) -> Option<NonNull<u8>> {
        // SAFETY: the tensor is valid.
        NonNull::new(unsafe { (self.functions.TF_TensorData)(self.pointer.as_ptr()) }.cast())
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: the reference is owned and given back once.
        unsafe { (self.functions.TF_DeleteTensor)(self.pointer.as_ptr()) }
    }
}

/// An output that somebody still reads.
struct Kept(Tensor);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.0.memory()
    }
}

/// How many dimensions a shape has. TensorFlow ends the process over one whose extents multiply to more than it counts, even if
/// one of them is 0.
fn rank(shape: &[i64]) -> Result<c_int, Failure> {
    let too_large = || Failure::invalid_argument(format!("shape {} is larger than any tensor", shape_text(shape)));
    let most = shape.iter().try_fold(1_i64, |product, &extent| product.checked_mul(extent.max(1)));
    most.ok_or_else(too_large)?;
    let rank = c_int::try_from(shape.len()).ok().filter(|rank| *rank <= MOST_DIMENSIONS);
    rank.ok_or_else(|| {
        Failure::invalid_argument(format!("{} dimensions are more than TensorFlow's {MOST_DIMENSIONS}", shape.len()))
    })
}

/// `TensorShape::MaxDimensions`.
const MOST_DIMENSIONS: c_int = 254;

fn no_memory(length: usize) -> Failure {
    Failure::internal(format!("no memory for a tensor of {length} bytes"))
}

// === Strings ===

/// Strings for a tensor while it is filled.
struct Strings {
    functions: &'static Functions,
    start: NonNull<TfString>,
    count: usize,
    filled: usize,
}

impl Strings {
    /// Room for so many, all empty.
    fn new(functions: &'static Functions, count: usize) -> Result<Self, Failure> {
        let layout = Self::layout(count).ok_or_else(|| no_memory(usize::MAX))?;
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc::alloc(layout) }.cast::<TfString>());
        let start = start.ok_or_else(|| no_memory(layout.size()))?;
        for index in 0..count {
            // SAFETY: there is room for `count` of them; the call makes an empty string of whatever lies there.
            unsafe {
                start.add(index).cast::<MaybeUninit<TfString>>().write(MaybeUninit::zeroed());
                (functions.TF_StringInit)(start.as_ptr().add(index));
            }
        }
        Ok(Self { functions, start, count, filled: 0 })
    }

    /// `None` if there is no room.
    fn push(&mut self, text: &[u8]) -> Option<()> {
        if self.filled == self.count {
            return None;
        }
        // SAFETY: `filled` is below the count, and the string there was initialised.
        unsafe {
            (self.functions.TF_StringCopy)(self.start.as_ptr().add(self.filled), text.as_ptr().cast(), text.len());
        }
        self.filled += 1;
        Some(())
    }

    /// Aligned as TensorFlow wants its tensors.
    fn layout(count: usize) -> Option<Layout> {
        Layout::from_size_align(count.max(1).checked_mul(size_of::<TfString>())?, 64).ok()
    }
}

impl Drop for Strings {
    fn drop(&mut self) {
        let length = self.count * size_of::<TfString>();
        // SAFETY: what `new` has made goes back once; the tensor has not got it.
        unsafe { delete_strings(self.start.as_ptr().cast(), length, ptr::from_ref(self.functions).cast_mut().cast()) }
    }
}

/// Gives back the strings of a tensor, `length` bytes of them, when nobody has the tensor any more. `functions`: the [`Functions`].
unsafe extern "C" fn delete_strings(start: *mut c_void, length: usize, functions: *mut c_void) {
    let (start, count) = (start.cast::<TfString>(), length / size_of::<TfString>());
    // SAFETY: whoever passes this function passes what `Strings::new` has made, and the functions of the library.
    unsafe {
        let functions: &Functions = &*functions.cast();
        (0..count).for_each(|index| (functions.TF_StringDealloc)(start.add(index)));
        if let Some(layout) = Strings::layout(count) {
            alloc::dealloc(start.cast(), layout);
        }
    }
}
