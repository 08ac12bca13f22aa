//! Shapes as TensorRT's methods take and give them.

use server_core::tensor::Shape;

/// Most dimensions of a tensor.
const MOST: usize = 8;

/// `nvinfer1::Dims` of version 8.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Dims32 {
    count: i32,
    extents: [i32; MOST],
}

/// `nvinfer1::Dims` since version 10.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Dims64 {
    count: i32,
    extents: [i64; MOST],
}

impl Dims32 {
    /// `None` if it has too many dimensions, or too long ones.
    pub(super) fn of(shape: &[i64]) -> Option<Self> {
        let mut extents = [0; MOST];
        for (place, &extent) in extents.get_mut(..shape.len())?.iter_mut().zip(shape) {
            *place = i32::try_from(extent).ok()?;
        }
        Some(Self { count: shape.len() as i32, extents })
    }

    /// `None` if TensorRT does not know the shape.
    pub(super) fn shape(&self) -> Option<Shape> {
        let extents = self.extents.get(..usize::try_from(self.count).ok()?)?;
        Some(extents.iter().map(|&extent| i64::from(extent)).collect())
    }
}

impl Dims64 {
    /// `None` if it has too many dimensions.
    pub(super) fn of(shape: &[i64]) -> Option<Self> {
        let mut extents = [0; MOST];
        extents.get_mut(..shape.len())?.copy_from_slice(shape);
        Some(Self { count: shape.len() as i32, extents })
    }

    /// `None` if TensorRT does not know the shape.
    pub(super) fn shape(&self) -> Option<Shape> {
        self.extents.get(..usize::try_from(self.count).ok()?).map(Shape::from_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_survive_both_forms_and_what_does_not_fit_is_refused() {
        for shape in [&[][..], &[-1, 3, 224, 224], &[1, 2, 3, 4, 5, 6, 7, 8]] {
            assert_eq!(Dims32::of(shape).unwrap().shape().as_deref(), Some(shape));
            assert_eq!(Dims64::of(shape).unwrap().shape().as_deref(), Some(shape));
        }
        assert!(Dims32::of(&[1; 9]).is_none() && Dims64::of(&[1; 9]).is_none());
        assert!(Dims32::of(&[1 << 40]).is_none() && Dims64::of(&[1 << 40]).is_some());
        assert_eq!(Dims64 { count: -1, extents: [0; MOST] }.shape(), None);
    }
}
