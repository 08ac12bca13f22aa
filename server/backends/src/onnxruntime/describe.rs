//! What a model file takes and gives, as an open session says.

use std::path::Path;

use ort::{session::Session, sys::ONNXTensorElementDataType, value::ValueType};
use server_core::tensor::Shape;

use super::{declared, element};
use crate::native::{Kind, Offered, Signature};

/// Asks an open session, and its file about tensors that look like scalars.
pub(super) fn signature(session: &Session, file: &Path) -> Signature {
    let initializers = session.overridable_initializers();
    let mut signature = Signature {
        inputs: session.inputs().iter().map(|input| offered(input.name(), input.dtype())).collect(),
        initializers: initializers.iter().map(|input| offered(input.name(), input.dtype())).collect(),
        outputs: session.outputs().iter().map(|output| offered(output.name(), output.dtype())).collect(),
    };
    mark_any_rank(&mut signature, file);
    signature
}

fn offered(name: &str, value: &ValueType) -> Offered {
    let other = |word: &str| {
        Kind::Other(format!("Unsupported ONNX Type '{word}' for I/O '{name}', expected 'ONNX_TYPE_TENSOR'."))
    };
    let kind = match value {
        ValueType::Tensor { ty, shape, .. } => match element::data_type(ONNXTensorElementDataType::from(*ty)) {
            Some(data_type) => Kind::Tensor(data_type, Shape::from_slice(shape)),
            None => Kind::Foreign(ty.to_string()),
        },
        ValueType::Sequence(_) => other("ONNX_TYPE_SEQUENCE"),
        ValueType::Map { .. } => other("ONNX_TYPE_MAP"),
        ValueType::Optional(_) => other("ONNX_TYPE_OPTIONAL"),
    };
    Offered { name: name.to_owned(), kind }
}

fn mark_any_rank(signature: &mut Signature, file: &Path) {
    let tensors = signature.inputs.iter_mut().chain(&mut signature.outputs);
    let like_scalars: Vec<_> = tensors
        .filter_map(|offered| match &offered.kind {
            Kind::Tensor(data_type, shape) if shape.is_empty() => Some((*data_type, offered)),
            _ => None,
        })
        .collect();
    if like_scalars.is_empty() {
        return;
    }
    match declared::without_shape(file) {
        Ok(names) => {
            for (data_type, offered) in like_scalars.into_iter().filter(|(_, offered)| names.contains(&offered.name)) {
                offered.kind = Kind::AnyRank(data_type);
            }
        }
        // A file in another form than ONNX Runtime usually reads: its tensors stay what the session says.
        Err(error) => tracing::debug!(%error, file = %file.display(), "cannot read which tensors have no shape"),
    }
}
