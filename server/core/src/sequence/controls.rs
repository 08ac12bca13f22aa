//! Control inputs: tensors that no request brings and the model reads to know where in its sequence a request stands.
//!
//! Source: Triton model configuration, `sequence_batching.control_input`.

use bytes::Bytes;
use server_proto::inference::{
    ModelConfig,
    model_config::SchedulingChoice,
    model_sequence_batching::{Control, control::Kind},
};

use crate::{
    request::CorrelationId,
    tensor::{DataType, Name, Shape, Tensor},
};

/// What one control input says.
enum Signal {
    /// A no and a yes.
    Start([Bytes; 2]),
    End([Bytes; 2]),
    Ready([Bytes; 2]),
    /// The identity of the sequence.
    Identity,
}

struct ControlInput {
    name: Name,
    data_type: DataType,
    signal: Signal,
}

/// The control inputs of one model.
pub struct Controls {
    inputs: Vec<ControlInput>,
    shape: Shape,
}

/// Where in its sequence a request stands.
#[derive(Debug, Clone, Copy)]
pub struct Position<'a> {
    /// Whose sequence.
    pub id: &'a CorrelationId,
    /// First of it.
    pub is_start: bool,
    /// Last of it.
    pub is_end: bool,
}

impl Controls {
    /// Reads a verified configuration.
    pub fn of(config: &ModelConfig) -> Self {
        let shape = if config.max_batch_size > 0 { Shape::from_slice(&[1, 1]) } else { Shape::from_slice(&[1]) };
        let Some(SchedulingChoice::SequenceBatching(batching)) = &config.scheduling_choice else {
            return Self { inputs: Vec::new(), shape };
        };
        let input = |input: &server_proto::inference::model_sequence_batching::ControlInput| {
            let control = input.control.first()?;
            let (data_type, signal) = signal(control)?;
            Some(ControlInput { name: input.name.as_str().into(), data_type, signal })
        };
        Self { inputs: batching.control_input.iter().filter_map(input).collect(), shape }
    }

    /// The tensor that carries the identity, if the model reads it.
    pub fn identity(&self) -> Option<(&Name, DataType)> {
        let input = self.inputs.iter().find(|input| matches!(input.signal, Signal::Identity))?;
        Some((&input.name, input.data_type))
    }

    /// The tensors for a request at that position; without one, for a row that holds no request.
    ///
    /// Shape: `[1]`, with a batch dimension `[1, 1]`.
    pub fn tensors<'a>(&'a self, position: Option<Position<'a>>) -> impl Iterator<Item = Tensor> + 'a {
        self.inputs.iter().map(move |input| {
            let pick = |pair: &[Bytes; 2], is_set: bool| pair[usize::from(is_set)].clone();
            let data = match &input.signal {
                Signal::Start(pair) => pick(pair, position.is_some_and(|position| position.is_start)),
                Signal::End(pair) => pick(pair, position.is_some_and(|position| position.is_end)),
                Signal::Ready(pair) => pick(pair, position.is_some()),
                Signal::Identity => identity(input.data_type, position.map(|position| position.id)),
            };
            Tensor {
                name: input.name.clone(),
                data_type: input.data_type,
                shape: self.shape.clone(),
                data: data.into(),
            }
        })
    }
}

/// Type and meaning of a control; `None` for what verification does not let through.
fn signal(control: &Control) -> Option<(DataType, Signal)> {
    if control.kind() == Kind::ControlSequenceCorrid {
        return Some((DataType::from_config(control.data_type)?, Signal::Identity));
    }
    let (data_type, pair) = match control {
        Control { int32_false_true: values, .. } if !values.is_empty() => {
            (DataType::Int32, pair(values, |value| value.to_le_bytes().to_vec())?)
        }
        Control { fp32_false_true: values, .. } if !values.is_empty() => {
            (DataType::Fp32, pair(values, |value| value.to_le_bytes().to_vec())?)
        }
        Control { bool_false_true: values, .. } => (DataType::Bool, pair(values, |value| vec![u8::from(*value)])?),
    };
    let signal = match control.kind() {
        Kind::ControlSequenceStart => Signal::Start(pair),
        Kind::ControlSequenceEnd => Signal::End(pair),
        _ => Signal::Ready(pair),
    };
    Some((data_type, signal))
}

fn pair<V>(values: &[V], bytes: impl Fn(&V) -> Vec<u8>) -> Option<[Bytes; 2]> {
    Some([bytes(values.first()?).into(), bytes(values.get(1)?).into()])
}

/// An identity in the type the model reads: a number's low bits, or a text led by its length. No identity is 0 or empty.
fn identity(data_type: DataType, id: Option<&CorrelationId>) -> Bytes {
    if data_type == DataType::Bytes {
        let text = match id {
            Some(CorrelationId::Text(text)) => text.clone(),
            Some(CorrelationId::Number(number)) => number.to_string(),
            None => String::new(),
        };
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        return [&length.to_le_bytes(), text.as_bytes()].concat().into();
    }
    let number = match id {
        Some(CorrelationId::Number(number)) => *number,
        Some(CorrelationId::Text(_)) | None => 0,
    };
    let bytes = number.to_le_bytes();
    Bytes::copy_from_slice(&bytes[..data_type.byte_size().unwrap_or(bytes.len()).min(bytes.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    /// Each tensor as `NAME TYPE [SHAPE] BYTES`.
    #[track_caller]
    fn check(config: &str, position: Option<Position<'_>>, expect: &[&str]) {
        let controls = Controls::of(&from_text(config).unwrap());
        let show = |tensor: Tensor| {
            let data = tensor.data.as_host().unwrap().to_vec();
            format!("{} {} {:?} {data:?}", tensor.name, tensor.data_type, tensor.shape)
        };
        assert_eq!(controls.tensors(position).map(show).collect::<Vec<_>>(), expect);
    }

    const ALL: &str = "max_batch_size: 4 sequence_batching {
        control_input { name: 'S' control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 7 ] } }
        control_input { name: 'E' control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ] } }
        control_input { name: 'R' control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } }
        control_input { name: 'C' control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT32 } } }";

    #[test]
    fn a_request_says_where_it_stands() {
        let id = CorrelationId::Number(u64::MAX - 1);
        let expect = ["S INT32 [1, 1] [7, 0, 0, 0]", "E FP32 [1, 1] [0, 0, 0, 0]", "R BOOL [1, 1] [1]"];
        let position = Position { id: &id, is_start: true, is_end: false };
        check(ALL, Some(position), &[&expect[..], &["C INT32 [1, 1] [254, 255, 255, 255]"]].concat());
        let position = Position { id: &id, is_start: false, is_end: true };
        let expect = ["S INT32 [1, 1] [0, 0, 0, 0]", "E FP32 [1, 1] [0, 0, 128, 63]", "R BOOL [1, 1] [1]"];
        check(ALL, Some(position), &[&expect[..], &["C INT32 [1, 1] [254, 255, 255, 255]"]].concat());
    }

    #[test]
    fn a_row_without_a_request_is_not_ready() {
        let expect = ["S INT32 [1, 1] [0, 0, 0, 0]", "E FP32 [1, 1] [0, 0, 0, 0]", "R BOOL [1, 1] [0]"];
        check(ALL, None, &[&expect[..], &["C INT32 [1, 1] [0, 0, 0, 0]"]].concat());
    }

    #[test]
    fn identities_are_texts_where_the_model_reads_texts() {
        let config = "sequence_batching { control_input { name: 'C' control { kind: CONTROL_SEQUENCE_CORRID
            data_type: TYPE_STRING } } }";
        let id = CorrelationId::Text("ab".into());
        check(config, Some(Position { id: &id, is_start: true, is_end: true }), &["C BYTES [1] [2, 0, 0, 0, 97, 98]"]);
        check(config, None, &["C BYTES [1] [0, 0, 0, 0]"]);
        let controls = Controls::of(&from_text(config).unwrap());
        assert_eq!(controls.identity().map(|(name, kind)| (&**name, kind)), Some(("C", DataType::Bytes)));
    }
}
