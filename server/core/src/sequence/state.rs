//! Implicit state: tensors the server keeps for a sequence between its requests. The model reads them as inputs and
//! renews them through its outputs; what they are before the first request the configuration says.
//!
//! Source: Triton, "Implicit State Management".

use std::sync::Arc;

use parking_lot::Mutex;
use server_proto::inference::{
    ModelConfig, ModelSequenceBatching,
    model_config::SchedulingChoice,
    model_sequence_batching::{InitialState, State, initial_state::StateData},
};
use smallvec::SmallVec;

use crate::{
    buffer::Buffer,
    error::{Error, Result},
    tensor::{
        DataType, Name, Shape, Tensor, byte_count, element_count,
        strings::{self, Truncated},
    },
};

/// Most bytes of one initial state: no protocol carries more, and the configuration can ask for it.
const MOST_BYTES: usize = i32::MAX as usize;

/// One state of a model.
#[derive(Debug, Clone)]
pub struct StateSpec {
    /// Output that renews it.
    pub output: Name,
    /// Element type.
    pub data_type: DataType,
    /// What the first request of a sequence reads: its name is the input's, its shape full.
    initial: Tensor,
    /// An extent is open: sequences may have states of different shapes.
    pub is_variable: bool,
}

/// The states of one model.
#[derive(Debug, Clone, Default)]
pub struct StateSpecs(Arc<[StateSpec]>);

impl StateSpecs {
    /// Reads a verified configuration. `read` gives the content of a file in the model's folder `initial_state`.
    ///
    /// Shapes: open extents are 1 before the first request; with batching a 1 is in front.
    /// Errors: `InvalidArgument` in Triton's words where an initial state does not fit its state; whatever `read` says.
    pub fn of(config: &ModelConfig, read: impl Fn(&str) -> Result<Vec<u8>>) -> Result<Self> {
        let states = match &config.scheduling_choice {
            Some(SchedulingChoice::SequenceBatching(ModelSequenceBatching { state, .. })) => state.as_slice(),
            _ => &[],
        };
        let mut specs = Vec::with_capacity(states.len());
        for (index, state) in states.iter().enumerate() {
            let is_second = |other: &State| other.input_name == state.input_name && !other.initial_state.is_empty();
            if !state.initial_state.is_empty() && states[..index].iter().any(is_second) {
                let text = format!("State input name '{}' specified more than once.", state.input_name);
                return Err(Error::invalid_argument(text));
            }
            specs.push(spec(state, config.max_batch_size > 0, &read)?);
        }
        Ok(Self(specs.into()))
    }

    /// Whether the model has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether sequences may have states of different shapes.
    pub fn is_variable(&self) -> bool {
        self.0.iter().any(|spec| spec.is_variable)
    }

    /// What a sequence starts with.
    pub fn initial(&self) -> States {
        States { values: Mutex::new(self.initial_tensors()), specs: self.clone() }
    }

    fn initial_tensors(&self) -> SmallVec<[Tensor; 2]> {
        self.0.iter().map(|spec| spec.initial.clone()).collect()
    }
}

/// The states of one sequence. At most one request of it runs at a time, so nobody waits for the lock.
#[derive(Debug)]
pub struct States {
    specs: StateSpecs,
    /// One per spec, named as the inputs.
    values: Mutex<SmallVec<[Tensor; 2]>>,
}

impl States {
    /// What the next request reads, as inputs of the model.
    pub fn inputs(&self) -> SmallVec<[Tensor; 2]> {
        self.values.lock().clone()
    }

    /// The sequence starts anew.
    pub fn reset(&self) {
        *self.values.lock() = self.specs.initial_tensors();
    }

    /// Renews a state with what the model gave as that output, for the next request of the sequence.
    ///
    /// Shape: full, with the batch dimension of 1 in front where the model has one.
    /// Errors: `InvalidArgument` if no state is renewed by that output, or its type is another.
    pub fn update(&self, output: &str, data_type: DataType, shape: Shape, data: Buffer) -> Result<()> {
        let index = self.specs.0.iter().position(|spec| &*spec.output == output);
        let index =
            index.ok_or_else(|| Error::invalid_argument(format!("state '{output}' is not a valid state name.")))?;
        let expect = self.specs.0[index].data_type;
        if data_type != expect {
            let text =
                format!("state '{output}' has data-type '{data_type}', but the model configuration says '{expect}'");
            return Err(Error::invalid_argument(text));
        }
        let mut values = self.values.lock();
        let before = std::mem::take(&mut values[index].data);
        (values[index].shape, values[index].data) = (shape, data);
        drop(values);
        drop(before); // outside the lock: it may be large
        Ok(())
    }
}

fn spec(state: &State, has_rows: bool, read: &impl Fn(&str) -> Result<Vec<u8>>) -> Result<StateSpec> {
    let data_type = DataType::from_config(state.data_type).ok_or_else(|| {
        Error::invalid_argument(format!("state input '{}' must specify 'data_type'", state.input_name))
    })?;
    if state.initial_state.len() > 1 {
        return Err(Error::invalid_argument(format!(
            "initial_state field for state input '{}' must contain exactly one or zero element. Found '{}' elements.",
            state.input_name,
            state.initial_state.len()
        )));
    }
    let initial = state.initial_state.first();
    if let Some(initial) = initial {
        check(state, initial)?;
    }
    let dims = initial.map_or(&state.dims, |initial| &initial.dims);
    let rows = has_rows.then_some(1);
    let shape: Shape = rows.into_iter().chain(dims.iter().map(|&dim| if dim < 0 { 1 } else { dim })).collect();
    let file = initial.and_then(|initial| match &initial.state_data {
        Some(StateData::DataFile(name)) => Some(name),
        Some(StateData::ZeroData(_)) | None => None,
    });
    let data = match file {
        Some(name) => from_file(state, name, data_type, &shape, read(name)?)?,
        None => zeros(state, data_type, &shape)?,
    };
    let initial = Tensor { name: state.input_name.as_str().into(), data_type, shape, data };
    let is_variable = state.dims.iter().any(|&dim| dim < 0);
    Ok(StateSpec { output: state.output_name.as_str().into(), data_type, initial, is_variable })
}

/// Whether an initial state fits its state, in Triton's words.
fn check(state: &State, initial: &InitialState) -> Result<()> {
    let name = &state.input_name;
    let invalid = |text: String| Err(Error::invalid_argument(text));
    if initial.data_type != state.data_type {
        return invalid(format!(
            "The data type used for 'initial_state' field of state '{name}' does not match the state data type."
        ));
    }
    if initial.dims.len() != state.dims.len() {
        return invalid(format!(
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input \
             '{name}'. {} != {}",
            initial.dims.len(),
            state.dims.len()
        ));
    }
    if initial.dims.iter().any(|&dim| dim < 0) {
        return invalid(format!("'initial_state' field for state input name '{name}' contains variable dimensions."));
    }
    if let Some((dim, given)) = state.dims.iter().zip(&initial.dims).find(|&(&dim, &given)| dim >= 0 && dim != given) {
        return invalid(format!(
            "'initial_state' dim for input name '{name}' doesn't match 'state' dim description. {given} != {dim}"
        ));
    }
    if initial.name.is_empty() {
        return invalid(format!("Field 'name' must be set when using initial_state for state input '{name}'."));
    }
    if initial.state_data.is_none() {
        return invalid(format!("initial_state setting expects state'{name}' to have state_data set"));
    }
    Ok(())
}

/// The content of a file as the data of a state. A file may hold more than is needed, unless it holds strings.
fn from_file(state: &State, file: &str, data_type: DataType, shape: &[i64], content: Vec<u8>) -> Result<Buffer> {
    if data_type == DataType::Bytes {
        check_strings(state, file, shape, &content)?;
        return Ok(content.into());
    }
    let expect = byte_count(data_type, shape).ok_or_else(|| too_large(state))?;
    if content.len() < expect {
        // As Triton writes it, without the blank.
        return Err(Error::invalid_argument(format!(
            "initial_state setting expects {expect} bytes, but the data provided from {file}only has {} bytes.",
            content.len()
        )));
    }
    Ok(bytes::Bytes::from(content).slice(..expect).into())
}

fn check_strings(state: &State, file: &str, shape: &[i64], content: &[u8]) -> Result<()> {
    let what = format!("initial_state of state input '{}' in file '{file}'", state.input_name);
    let expect = element_count(shape).ok_or_else(|| too_large(state))?;
    let mut count = 0;
    for element in strings::elements(content) {
        let text = match element {
            Ok(_) => {
                count += 1;
                continue;
            }
            Err(Truncated::Length { remaining }) => format!(
                "incomplete string length indicator for {what}, expecting 4 bytes but only {remaining} bytes available"
            ),
            Err(Truncated::Element { expected, remaining }) => format!(
                "incomplete string element for {what}, expecting {expected} bytes but only {remaining} bytes available"
            ),
        };
        return Err(Error::invalid_argument(text));
    }
    if count != expect {
        let text = format!("unexpected number of string elements {count} for {what}, expecting {expect}");
        return Err(Error::invalid_argument(text));
    }
    Ok(())
}

/// Zeros, or empty strings: an element of a BYTES tensor is at least its length.
fn zeros(state: &State, data_type: DataType, shape: &[i64]) -> Result<Buffer> {
    let size = data_type.byte_size().unwrap_or(size_of::<u32>());
    let length = element_count(shape).and_then(|count| usize::try_from(count).ok()?.checked_mul(size));
    let length = length.filter(|&length| length <= MOST_BYTES).ok_or_else(|| too_large(state))?;
    Ok(vec![0; length].into())
}

fn too_large(state: &State) -> Error {
    Error::invalid_argument(format!(
        "the initial state of input '{}' exceeds {MOST_BYTES} bytes: configure smaller 'dims'",
        state.input_name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    fn specs(max_batch_size: u32, states: &str) -> Result<StateSpecs> {
        let config = from_text(&format!("max_batch_size: {max_batch_size} sequence_batching {{ {states} }}")).unwrap();
        StateSpecs::of(&config, |name| match name {
            "two" => Ok(vec![1, 0, 0, 0, 2, 0, 0, 0]),
            "strings" => Ok(b"\x01\0\0\0a\x01\0\0\0b".to_vec()),
            "cut" => Ok(vec![2, 0, 0, 0, 1]),
            "short" => Ok(vec![1, 0]),
            "empty" => Ok(Vec::new()),
            _ => Err(Error::internal(format!("no file {name}"))),
        })
    }

    /// The states of a sequence as `NAME [SHAPE] BYTES`.
    fn show(states: &States) -> Vec<String> {
        let show = |tensor: &Tensor| format!("{} {:?} {:?}", tensor.name, tensor.shape, tensor.data.as_host().unwrap());
        states.inputs().iter().map(show).collect()
    }

    const ONE: &str = "state { input_name: 'SI' output_name: 'SO' data_type: TYPE_INT32 dims: [ -1 ] }";

    #[test]
    fn a_state_is_zeros_until_it_is_renewed_and_again_from_the_next_start() {
        let states = specs(4, ONE).unwrap().initial();
        assert_eq!(show(&states), ["SI [1, 1] [0, 0, 0, 0]"]);
        states.update("SO", DataType::Int32, Shape::from_slice(&[1, 2]), vec![1; 8].into()).unwrap();
        assert_eq!(show(&states), ["SI [1, 2] [1, 1, 1, 1, 1, 1, 1, 1]"]);
        states.reset();
        assert_eq!(show(&states), ["SI [1, 1] [0, 0, 0, 0]"]);
    }

    #[test]
    fn an_output_that_renews_nothing_is_refused() {
        let states = specs(0, ONE).unwrap().initial();
        let update = |name, data_type| {
            states.update(name, data_type, Shape::new(), Buffer::default()).unwrap_err().message.into_owned()
        };
        assert_eq!(update("SI", DataType::Int32), "state 'SI' is not a valid state name.");
        assert_eq!(
            update("SO", DataType::Fp32),
            "state 'SO' has data-type 'FP32', but the model configuration says 'INT32'"
        );
    }

    fn initial(initial: &str) -> Result<StateSpecs> {
        specs(
            0,
            &format!(
                "state {{ input_name: 'SI' output_name: 'SO' data_type: TYPE_INT32 dims: [ 2 ] initial_state: {{ {initial} }} }}"
            ),
        )
    }

    #[test]
    fn an_initial_state_comes_from_its_file() {
        let states = initial("name: 'i' data_type: TYPE_INT32 dims: [ 2 ] data_file: 'two'").unwrap().initial();
        assert_eq!(show(&states), ["SI [2] [1, 0, 0, 0, 2, 0, 0, 0]"]);
    }

    #[test]
    fn an_initial_state_has_to_fit() {
        let message = |text: &str| initial(text).unwrap_err().message.into_owned();
        assert_eq!(
            message("name: 'i' data_type: TYPE_FP32 dims: [ 2 ] zero_data: true"),
            "The data type used for 'initial_state' field of state 'SI' does not match the state data type."
        );
        assert_eq!(
            message("name: 'i' data_type: TYPE_INT32 dims: [ 1, 2 ] zero_data: true"),
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input 'SI'. 2 != 1"
        );
        assert_eq!(
            message("name: 'i' data_type: TYPE_INT32 dims: [ -1 ] zero_data: true"),
            "'initial_state' field for state input name 'SI' contains variable dimensions."
        );
        assert_eq!(
            message("data_type: TYPE_INT32 dims: [ 2 ] zero_data: true"),
            "Field 'name' must be set when using initial_state for state input 'SI'."
        );
        assert_eq!(
            message("name: 'i' data_type: TYPE_INT32 dims: [ 3 ] zero_data: true"),
            "'initial_state' dim for input name 'SI' doesn't match 'state' dim description. 3 != 2"
        );
        assert_eq!(
            message("name: 'i' data_type: TYPE_INT32 dims: [ 2 ]"),
            "initial_state setting expects state'SI' to have state_data set"
        );
        assert_eq!(
            message("name: 'i' dims: [ 2 ] } initial_state { name: 'j' dims: [ 2 ]"),
            "initial_state field for state input 'SI' must contain exactly one or zero element. Found '2' elements."
        );
        assert_eq!(message("name: 'i' data_type: TYPE_INT32 dims: [ 2 ] data_file: 'absent'"), "no file absent");
        let twice = "state { input_name: 'SI' output_name: 'SO' data_type: TYPE_INT32 dims: [ 1 ]
            initial_state: { name: 'i' data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } }";
        let error = specs(0, &format!("{twice} {twice}")).unwrap_err();
        assert_eq!(error.message, "State input name 'SI' specified more than once.");
    }

    #[test]
    fn a_file_that_does_not_hold_what_the_state_needs_is_refused() {
        for (data_type, dims, file, text) in [
            (
                "TYPE_INT32",
                3,
                "two",
                "initial_state setting expects 12 bytes, but the data provided from twoonly has 8 bytes.",
            ),
            (
                "TYPE_STRING",
                2,
                "cut",
                "incomplete string element for initial_state of state input 'SI' in file 'cut', expecting 2 bytes but \
                 only 1 bytes available",
            ),
            (
                "TYPE_STRING",
                1,
                "short",
                "incomplete string length indicator for initial_state of state input 'SI' in file 'short', expecting \
                 4 bytes but only 2 bytes available",
            ),
            (
                "TYPE_STRING",
                1,
                "empty",
                "unexpected number of string elements 0 for initial_state of state input 'SI' in file 'empty', \
                 expecting 1",
            ),
            (
                "TYPE_STRING",
                1,
                "strings",
                "unexpected number of string elements 2 for initial_state of state input 'SI' in file 'strings', \
                 expecting 1",
            ),
        ] {
            let state = format!(
                "state {{ input_name: 'SI' output_name: 'SO' data_type: {data_type} dims: [ {dims} ]
                 initial_state: {{ name: 'i' data_type: {data_type} dims: [ {dims} ] data_file: '{file}' }} }}"
            );
            assert_eq!(specs(0, &state).unwrap_err(), Error::invalid_argument(text));
        }
    }
}
