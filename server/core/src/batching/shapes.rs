//! What may share a batch: requests with the same inputs of the same shape, the batch dimension aside. Ragged inputs may
//! differ; shape tensors must have the same values.
//!
//! Source: Triton model configuration, "Dynamic Batcher" and "Ragged Batching"; optional inputs must be present in all
//! requests of a batch.

use server_proto::inference::{ModelConfig, ModelInput};

use super::item::{Exceptions, Item};
use crate::{
    batch::Pending,
    tensor::{Name, Tensor},
};

/// What the requests of one batch must have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedShapes {
    /// Nothing: all requests of the model have the same shapes, ragged inputs aside, and need no comparison.
    Fixed,
    /// Which inputs are there, and their shapes.
    Same(Exceptions),
}

impl SharedShapes {
    /// Reads a completed configuration.
    pub fn of(config: &ModelConfig) -> Self {
        let varies = |input: &ModelInput| {
            input.optional || input.is_shape_tensor || (input.dims.contains(&-1) && !input.allow_ragged_batch)
        };
        if config.input.iter().any(varies) { Self::same(config) } else { Self::Fixed }
    }

    /// All inputs are compared, also those that no request brings and whose shapes may differ.
    pub fn same(config: &ModelConfig) -> Self {
        let names = |which: fn(&ModelInput) -> bool| {
            config.input.iter().filter(|input| which(input)).map(|input| Name::from(input.name.as_str())).collect()
        };
        Self::Same(Exceptions {
            ragged: names(|input| input.allow_ragged_batch),
            values: names(|input| input.is_shape_tensor),
        })
    }

    /// Whether the two may run in one batch.
    pub fn allow<T: Item>(&self, one: &T, other: &T) -> bool {
        match self {
            Self::Fixed => true,
            Self::Same(exceptions) => one.may_share(other, exceptions),
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

    fn may_share(&self, other: &Self, exceptions: &Exceptions) -> bool {
        are_alike(&self.request.inputs, &other.request.inputs, exceptions)
    }
}

fn are_alike(own: &[Tensor], others: &[Tensor], exceptions: &Exceptions) -> bool {
    let is_alike = |tensor: &Tensor, other: &Tensor| {
        if tensor.name != other.name {
            return false;
        }
        if exceptions.values.contains(&tensor.name) {
            let (own, other) = (tensor.data.as_host(), other.data.as_host());
            return own.is_some() && own == other;
        }
        tensor.shape.get(1..) == other.shape.get(1..) || exceptions.ragged.contains(&tensor.name)
    };
    own.len() == others.len() && own.iter().all(|tensor| others.iter().any(|other| is_alike(tensor, other)))
}

#[cfg(test)]
mod tests {
    use super::{Exceptions, SharedShapes, are_alike};
    use crate::{
        config::from_text,
        tensor::{DataType, Name, Tensor},
    };

    fn names(names: &[&str]) -> Box<[Name]> {
        names.iter().map(|&name| Name::from(name)).collect()
    }

    /// `expect`: the ragged inputs and the shape tensors, or nothing if no comparison is needed.
    #[track_caller]
    fn check(inputs: &str, expect: Option<(&[&str], &[&str])>) {
        let expect = expect.map_or(SharedShapes::Fixed, |(ragged, values)| {
            SharedShapes::Same(Exceptions { ragged: names(ragged), values: names(values) })
        });
        assert_eq!(SharedShapes::of(&from_text(inputs).unwrap()), expect);
    }

    #[test]
    fn inputs_are_compared_where_they_may_differ() {
        check("input { name: 'a' dims: 3 }", None);
        check("input { name: 'a' dims: -1 }", Some((&[], &[])));
        check("input { name: 'a' dims: 3 optional: true }", Some((&[], &[])));
        check("input { name: 'a' dims: -1 allow_ragged_batch: true } input { name: 'b' dims: 3 }", None);
        check(
            "input { name: 'a' dims: -1 allow_ragged_batch: true } input { name: 'b' dims: -1 }",
            Some((&["a"], &[])),
        );
        check("input { name: 'a' dims: 2 is_shape_tensor: true }", Some((&[], &["a"])));
    }

    #[test]
    fn requests_are_alike_up_to_rows_and_ragged_inputs() {
        let tensor = |name: &str, shape: &[i64], data: &[u8]| Tensor {
            name: name.into(),
            data_type: DataType::Fp32,
            shape: shape.into(),
            data: data.to_vec().into(),
        };
        let one = [tensor("a", &[1, 3], b"1"), tensor("b", &[1, 2], b"2")];
        let swapped = [tensor("b", &[4, 2], b""), tensor("a", &[4, 3], b"")];
        let longer = [tensor("a", &[1, 5], b"1"), tensor("b", &[1, 2], b"3")];
        let ragged = |name| Exceptions { ragged: names(&[name]), ..Exceptions::default() };
        let values = |name| Exceptions { values: names(&[name]), ragged: names(&["a"]) };
        assert!(are_alike(&one, &swapped, &Exceptions::default()));
        assert!(!are_alike(&one, &longer, &Exceptions::default()));
        assert!(are_alike(&one, &longer, &ragged("a")));
        assert!(!are_alike(&one, &longer, &ragged("b")));
        assert!(!are_alike(&one, &one[..1], &ragged("a")), "an input is absent");
        assert!(are_alike(&one, &longer, &values("a")), "the values of 'a' are the same");
        assert!(!are_alike(&one, &longer, &values("b")), "the values of 'b' differ");
    }
}
