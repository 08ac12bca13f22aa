//! Versions of TensorRT, as far as its objects differ.

/// Major versions whose objects are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tensorrt) enum Major {
    /// 8.6
    Eight,
    /// 10
    Ten,
}
