//! What may share a batch: requests with the same inputs of the same shape, the batch dimension aside. Ragged inputs may
//! differ.
//!
//! Source: Triton model configuration, "Dynamic Batcher" and "Ragged Batching"; optional inputs must be present in all
//! requests of a batch.

use server_proto::inference::ModelConfig;

use super::queue::Item;
use crate::{
    batch::Pending,
    tensor::{Name, Tensor},
};

/// What the requests of one batch must have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedShapes {
    /// Nothing: all requests of the model have the same shapes, ragged inputs aside, and need no comparison.
    Fixed,
    /// The shapes of all inputs but these.
    AllBut(Box<[Name]>),
}

impl SharedShapes {
    /// Reads a completed configuration.
    pub fn of(config: &ModelConfig) -> Self {
        let varies = |input: &server_proto::inference::ModelInput| {
            input.optional || (input.dims.contains(&-1) && !input.allow_ragged_batch)
        };
        if !config.input.iter().any(varies) {
            return Self::Fixed;
        }
        let ragged = config.input.iter().filter(|input| input.allow_ragged_batch);
        Self::AllBut(ragged.map(|input| Name::from(input.name.as_str())).collect())
    }

    /// Whether the two may run in one batch.
    pub fn allow<T: Item>(&self, one: &T, other: &T) -> bool {
        match self {
            Self::Fixed => true,
            Self::AllBut(ragged) => one.may_share(other, ragged),
        }
    }
}

impl Item for Pending {
    fn rows(&self) -> u32 {
        self.batch_size()
    }

    fn is_abandoned(&self) -> bool {
        self.completion.is_cancelled()
    }

    fn may_share(&self, other: &Self, ragged: &[Name]) -> bool {
        are_alike(&self.request.inputs, &other.request.inputs, ragged)
    }
}

fn are_alike(own: &[Tensor], others: &[Tensor], ragged: &[Name]) -> bool {
    let is_alike = |tensor: &Tensor, other: &Tensor| {
        tensor.name == other.name && (tensor.shape.get(1..) == other.shape.get(1..) || ragged.contains(&tensor.name))
    };
    own.len() == others.len() && own.iter().all(|tensor| others.iter().any(|other| is_alike(tensor, other)))
}

#[cfg(test)]
mod tests {
    use super::{SharedShapes, are_alike};
    use crate::{
        config::from_text,
        tensor::{DataType, Name, Tensor},
    };

    #[track_caller]
    fn check(inputs: &str, expect: Option<&[&str]>) {
        let shapes = SharedShapes::of(&from_text(inputs).unwrap());
        let expect = expect.map(|ragged| SharedShapes::AllBut(ragged.iter().map(|&name| Name::from(name)).collect()));
        assert_eq!(shapes, expect.unwrap_or(SharedShapes::Fixed));
    }

    #[test]
    fn ragged_inputs_are_not_compared() {
        check("input { name: 'a' dims: 3 }", None);
        check("input { name: 'a' dims: -1 }", Some(&[]));
        check("input { name: 'a' dims: 3 optional: true }", Some(&[]));
        check("input { name: 'a' dims: -1 allow_ragged_batch: true } input { name: 'b' dims: 3 }", None);
        check("input { name: 'a' dims: -1 allow_ragged_batch: true } input { name: 'b' dims: -1 }", Some(&["a"]));
    }

    #[test]
    fn requests_are_alike_up_to_rows_and_ragged_inputs() {
        let tensor = |name: &str, shape: &[i64]| Tensor {
            name: name.into(),
            data_type: DataType::Fp32,
            shape: shape.into(),
            data: Vec::new().into(),
        };
        let one = [tensor("a", &[1, 3]), tensor("b", &[1, 2])];
        let swapped = [tensor("b", &[4, 2]), tensor("a", &[4, 3])];
        let longer = [tensor("a", &[1, 5]), tensor("b", &[1, 2])];
        assert!(are_alike(&one, &swapped, &[]));
        assert!(!are_alike(&one, &longer, &[]));
        assert!(are_alike(&one, &longer, &["a".into()]));
        assert!(!are_alike(&one, &longer, &["b".into()]));
        assert!(!are_alike(&one, &one[..1], &["a".into(), "b".into()]), "an input is absent");
    }
}
