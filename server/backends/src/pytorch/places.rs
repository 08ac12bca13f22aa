//! Which tensor of a configuration is which argument or output of a model. Scripts know their outputs by number alone, and a configuration
//! may name inputs as it likes: so names say, or their order does. Pure; one problem at a time, in Triton's words.
//!
//! | inputs are | if | |
//! |---|---|---|
//! | values of a dictionary | `forward` takes one `Dict(str, Tensor)` | by name |
//! | arguments | every input has the name of one | by name |
//! | numbered | every name is `<name>__<index>` | by that number |
//! | in order | else | by their order in the configuration |
//!
//! Outputs are numbered, or in order. Controls and states of sequences must be numbered.
//!
//! Source: PyTorch backend of Triton; model configuration, "Special Conventions for PyTorch Backend".

use std::collections::{BTreeMap, BTreeSet};

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::DataType,
};

use super::types;
use crate::native::sequence;

const LIST_OF_STRINGS: &str = "str[]";

/// Where each tensor of a configuration goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// The argument of each input, those of sequences and batches included.
    pub(super) inputs: BTreeMap<String, usize>,
    /// The number of each output, those that renew states included.
    pub(super) outputs: BTreeMap<String, usize>,
    /// Inputs are values of one dictionary.
    pub(super) has_dictionary: bool,
}

/// One argument of `forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    /// Its name.
    pub(super) name: String,
    /// Its type, as TorchScript writes it.
    pub(super) word: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    Argument,
    Index,
    Order,
}

impl Places {
    /// Those of a script with these arguments, run by a libtorch of that version.
    ///
    /// Errors: configuration and script contradict each other, or the script takes what no request can carry.
    pub(super) fn of_script(config: &ModelConfig, arguments: &[Argument], version: (u32, u32)) -> Result<Self> {
        check_arguments(arguments)?;
        check_controls(config, version)?;
        let has_dictionary = matches!(arguments, [only] if is_dictionary(only));
        let expected = count(config);
        if !has_dictionary && !arguments.is_empty() && expected != arguments.len() {
            return Err(expects(config, expected, arguments.len()));
        }
        check_tensors(config, version)?;
        let inputs = if has_dictionary {
            check_input_strings(config)?;
            by_name(config)
        } else {
            by_argument(config, arguments).and_then(|inputs| {
                fill(config, &inputs, arguments)?;
                Ok(inputs)
            })?
        };
        Ok(Self { inputs, outputs: outputs(config)?, has_dictionary })
    }
}

/// The number at the end of a name `<name>__<index>`.
pub(super) fn index(name: &str) -> Option<usize> {
    let (_, digits) = name.split_once("__")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Inputs that a model gets: those of requests, of sequences, and those that are computed from a batch.
pub(super) fn count(config: &ModelConfig) -> usize {
    input_names(config).collect::<BTreeSet<_>>().len()
}

fn input_names(config: &ModelConfig) -> impl Iterator<Item = &str> {
    let states = sequence::states(config).iter().map(|state| state.input_name.as_str());
    let controls = sequence::controls(config).map(|control| control.name);
    let computed = config.batch_input.iter().flat_map(|input| &input.target_name).map(String::as_str);
    config.input.iter().map(|input| input.name.as_str()).chain(controls).chain(states).chain(computed)
}

/// The error for a model that has another number of inputs.
pub(super) fn expects(config: &ModelConfig, expected: usize, provided: usize) -> Error {
    unable(config, &format!("configuration expects {expected} inputs, model provides {provided}"))
}

/// Checks that there are inputs and outputs, and that libtorch has their types; strings are lists, which have one dimension.
///
/// Errors: `Internal`, as in Triton, at the first that will not do.
pub(super) fn check_tensors(config: &ModelConfig, version: (u32, u32)) -> Result<()> {
    let is_list = |dims: &[i64]| dims.len() + usize::from(config.max_batch_size > 0) <= 1;
    let check = |kind: &str, side: &str, name: &str, data_type: i32, dims: &[i64]| {
        let data_type = types::configured(config, &format!("{kind} '{name}'"), data_type, version)?;
        if data_type == DataType::Bytes && !is_list(dims) {
            return Err(Error::internal(format!(
                "Triton only supports 1 dimensional List of String as {side} for '{name}' for model '{}'",
                config.name
            )));
        }
        Ok(())
    };
    let none = |kind: &str| {
        Error::internal(format!("model configuration must contain at least one {kind}, none were specified."))
    };
    if config.input.is_empty() {
        return Err(none("input"));
    }
    for input in &config.input {
        let dims = input.reshape.as_ref().map_or(&input.dims, |reshape| &reshape.shape);
        check("input", "input", &input.name, input.data_type, dims)?;
    }
    for state in sequence::states(config) {
        check("input state", "input", &state.input_name, state.data_type, &state.dims)?;
        check("state", "output", &state.output_name, state.data_type, &state.dims)?;
    }
    if config.output.is_empty() {
        return Err(none("output"));
    }
    for output in &config.output {
        let dims = output.reshape.as_ref().map_or(&output.dims, |reshape| &reshape.shape);
        check("output", "output", &output.name, output.data_type, dims)?;
    }
    Ok(())
}

/// Checks that no input is of strings, for a model that takes tensors alone.
///
/// Errors: `InvalidArgument` at the first that is, states included.
pub(super) fn check_input_strings(config: &ModelConfig) -> Result<()> {
    let inputs = config.input.iter().map(|input| (input.name.as_str(), input.data_type));
    let states = sequence::states(config).iter().map(|state| (state.input_name.as_str(), state.data_type));
    match inputs.chain(states).find(|(_, data_type)| is_strings(*data_type)) {
        Some((name, _)) => {
            let text = format!("configuration expects TYPE_STRING for input '{name}', and the model takes tensors");
            Err(unable(config, &text))
        }
        None => Ok(()),
    }
}

/// The same of outputs, for a model that gives tensors alone.
pub(super) fn check_output_strings(config: &ModelConfig) -> Result<()> {
    match config.output.iter().find(|output| is_strings(output.data_type)) {
        Some(output) => {
            let name = &output.name;
            let text = format!("configuration expects TYPE_STRING for output '{name}', and the model gives tensors");
            Err(unable(config, &text))
        }
        None => Ok(()),
    }
}

fn is_strings(data_type: i32) -> bool {
    DataType::from_config(data_type) == Some(DataType::Bytes)
}

fn is_dictionary(argument: &Argument) -> bool {
    argument.word.starts_with("Dict(")
}

/// Only tensors, lists of strings, and one dictionary can be passed.
fn check_arguments(arguments: &[Argument]) -> Result<()> {
    if arguments.iter().skip(1).any(is_dictionary) {
        return Err(Error::internal(
            "Multiple inputs of kind DictType were detected. Only a single input of type Dict(str, Tensor) is supported.",
        ));
    }
    let is_passed = |argument: &Argument| match argument.word.as_str() {
        "Tensor" | LIST_OF_STRINGS => true,
        "Dict(str, Tensor)" => arguments.len() == 1,
        _ => false,
    };
    match arguments.iter().find(|argument| !is_passed(argument)) {
        Some(argument) => Err(Error::internal(format!(
            "An input of type '{}' was detected in the model. Only a single input of type Dict(str, Tensor) or input(s) of type \
             Tensor are supported.",
            argument.word
        ))),
        None => Ok(()),
    }
}

fn check_controls(config: &ModelConfig, version: (u32, u32)) -> Result<()> {
    for control in sequence::controls(config) {
        let (name, word) = (control.name, control.data_type.to_config().as_str_name());
        if index(name).is_none() {
            return Err(Error::internal(format!("input '{name}' does not follow <name>__<index> naming convention.")));
        }
        let number = control.data_type.to_config() as i32;
        if control.data_type == DataType::Bytes || types::configured(config, "", number, version).is_err() {
            return Err(Error::internal(format!("input '{name}' type '{word}' is not supported by PyTorch.")));
        }
    }
    Ok(())
}

/// All inputs of a dictionary: the places are of no account.
fn by_name(config: &ModelConfig) -> BTreeMap<String, usize> {
    input_names(config).enumerate().map(|(place, name)| (name.to_owned(), place)).collect()
}

fn by_argument(config: &ModelConfig, arguments: &[Argument]) -> Result<BTreeMap<String, usize>> {
    let names = || config.input.iter().map(|input| input.name.as_str());
    let place_of = |name: &str| arguments.iter().position(|argument| argument.name == name);
    let naming = if names().all(|name| place_of(name).is_some()) { Naming::Argument } else { numbered(names()) };
    if naming == Naming::Order && names().any(|name| name.contains("__")) {
        tracing::warn!(
            "inputs of model '{}' are neither all arguments of the model nor do they all follow the <name>__<index> naming \
             convention. Falling back to enforcing strict ordering from model configuration.",
            config.name
        );
    }
    check_states(config, numbered(names()))?;
    let unexpected = |name: &str| {
        let allowed = arguments.iter().map(|argument| argument.name.as_str()).collect::<Vec<_>>().join(", ");
        unable(config, &format!("unexpected inference input '{name}', allowed inputs are: {allowed}"))
    };
    let place = |order: usize, name: &str| match naming {
        Naming::Argument => place_of(name).or_else(|| index(name)).ok_or_else(|| unexpected(name)),
        Naming::Index => index(name).ok_or_else(|| unexpected(name)),
        Naming::Order => Ok(order),
    };
    let computed = config.batch_input.iter().flat_map(|input| &input.target_name).map(String::as_str);
    let mut places = BTreeMap::new();
    for (order, name) in names().chain(computed).enumerate() {
        places.insert(name.to_owned(), place(order, name)?);
    }
    let states = sequence::states(config).iter().map(|state| state.input_name.as_str());
    for name in sequence::controls(config).map(|control| control.name).chain(states) {
        places.insert(name.to_owned(), index(name).ok_or_else(|| unexpected(name))?);
    }
    Ok(places)
}

/// Every argument gets one input, of its kind.
fn fill(config: &ModelConfig, places: &BTreeMap<String, usize>, arguments: &[Argument]) -> Result<()> {
    let mut taken: Vec<Option<&str>> = vec![None; arguments.len()];
    for (name, &place) in places {
        let Some(argument) = arguments.get(place) else {
            let provided = arguments.len();
            return Err(unable(
                config,
                &format!("input '{name}' is argument {place} of the model, which has {provided}"),
            ));
        };
        if let Some(other) = taken[place].replace(name) {
            let text = format!("inputs '{other}' and '{name}' are both argument {place} of the model");
            return Err(unable(config, &text));
        }
        let configured = config.input.iter().find(|input| input.name == *name);
        let is_list = configured.is_some_and(|input| is_strings(input.data_type));
        if configured.is_some() && is_list != (argument.word == LIST_OF_STRINGS) {
            let (expected, word) = (if is_list { "TYPE_STRING" } else { "a tensor" }, &argument.word);
            let text = format!(
                "configuration expects {expected} for input '{name}', the model's argument '{}' is of type {word}",
                argument.name
            );
            return Err(unable(config, &text));
        }
    }
    match taken.iter().position(Option::is_none) {
        Some(missing) => {
            let name = &arguments[missing].name;
            Err(unable(config, &format!("configuration lacks an input for argument {missing} of the model, '{name}'")))
        }
        None => Ok(()),
    }
}

fn outputs(config: &ModelConfig) -> Result<BTreeMap<String, usize>> {
    let names = || config.output.iter().map(|output| output.name.as_str());
    let naming = numbered(names());
    if naming == Naming::Order && names().any(|name| name.contains("__")) {
        tracing::warn!(
            "outputs of model '{}' do not all follow the <name>__<index> naming convention. Falling back to enforcing strict \
             ordering from model configuration.",
            config.name
        );
    }
    check_states(config, naming)?;
    let place = |order: usize, name: &str| index(name).filter(|_| naming == Naming::Index).unwrap_or(order);
    let mut places: BTreeMap<String, usize> =
        names().enumerate().map(|(order, name)| (name.to_owned(), place(order, name))).collect();
    for state in sequence::states(config) {
        places.insert(state.output_name.clone(), index(&state.output_name).unwrap_or(0));
    }
    Ok(places)
}

fn numbered<'a>(mut names: impl Iterator<Item = &'a str>) -> Naming {
    if names.all(|name| index(name).is_some()) { Naming::Index } else { Naming::Order }
}

/// States are numbered, and everything with them.
fn check_states(config: &ModelConfig, naming: Naming) -> Result<()> {
    let states = sequence::states(config);
    let begin = format!("PyTorch model '{}' is using sequence batching with state but", config.name);
    if !states.is_empty() && naming != Naming::Index {
        let text = format!("{begin} not all inputs and outputs follow the <name>__<index> naming convention. ");
        return Err(Error::invalid_argument(text));
    }
    let mut names = states.iter().flat_map(|state| [&state.input_name, &state.output_name]);
    match names.find(|name| index(name).is_none()) {
        Some(name) => {
            let text = format!("{begin} state '{name}' does not follow the <name>__<index> naming convention. ");
            Err(Error::invalid_argument(text))
        }
        None => Ok(()),
    }
}

fn unable(config: &ModelConfig, text: &str) -> Error {
    Error::invalid_argument(format!("unable to load model '{}', {text}", config.name))
}

#[cfg(test)]
mod tests {
    use server_core::config::from_text;

    use super::*;

    const TORCH: (u32, u32) = (1, 13);

    fn argument(text: &str) -> Argument {
        let (name, word) = text.split_once(": ").unwrap();
        Argument { name: name.into(), word: word.into() }
    }

    fn config(inputs: &[&str], outputs: &[&str], more: &str) -> ModelConfig {
        let tensors = |side: &str, names: &[&str]| -> String {
            let one = |name: &&str| {
                let (name, data_type) = name.split_once(' ').unwrap_or((name, "FP32"));
                format!("{side} {{ name: '{name}' data_type: TYPE_{data_type} dims: [ -1 ] }}\n")
            };
            names.iter().map(one).collect()
        };
        from_text(&format!("name: 'm'\n{}{}{more}", tensors("input", inputs), tensors("output", outputs))).unwrap()
    }

    #[track_caller]
    fn places(config: &ModelConfig, arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<_> = arguments.iter().map(|text| argument(text)).collect();
        let places = Places::of_script(config, &arguments, TORCH).map_err(|error| error.message.to_string())?;
        let text = |places: &BTreeMap<String, usize>| {
            places.iter().map(|(name, place)| format!("{name}={place}")).collect::<Vec<_>>().join(" ")
        };
        let dictionary = if places.has_dictionary { "{}" } else { "" };
        Ok(format!("{dictionary}{} -> {}", text(&places.inputs), text(&places.outputs)))
    }

    #[track_caller]
    fn fits(inputs: &[&str], outputs: &[&str], arguments: &[&str], expect: &str) {
        assert_eq!(places(&config(inputs, outputs, ""), arguments), Ok(expect.into()));
    }

    #[track_caller]
    fn refused(config: &ModelConfig, arguments: &[&str], expect: &str) {
        assert_eq!(places(config, arguments), Err(expect.into()));
    }

    #[test]
    fn inputs_are_arguments_if_all_are_named_like_arguments() {
        fits(&["b", "a"], &["y"], &["a: Tensor", "b: Tensor"], "a=0 b=1 -> y=0");
    }

    #[test]
    fn else_they_are_numbered_if_all_are() {
        fits(
            &["INPUT__1", "INPUT__0"],
            &["OUTPUT__1", "OUTPUT__0"],
            &["a: Tensor", "b: Tensor"],
            "INPUT__0=0 INPUT__1=1 -> OUTPUT__0=0 OUTPUT__1=1",
        );
        fits(&["x__1", "b__0"], &["y__3"], &["a: Tensor", "b: Tensor"], "b__0=0 x__1=1 -> y__3=3");
    }

    #[test]
    fn else_they_have_the_order_of_the_configuration() {
        fits(&["one", "two"], &["out", "OUTPUT__0"], &["a: Tensor", "b: Tensor"], "one=0 two=1 -> OUTPUT__0=1 out=0");
        fits(&["a", "INPUT__0"], &["out"], &["a: Tensor", "b: Tensor"], "INPUT__0=1 a=0 -> out=0");
        fits(&["my__input__0"], &["out"], &["a: Tensor"], "my__input__0=0 -> out=0");
    }

    #[test]
    fn a_dictionary_has_them_by_name() {
        fits(&["mask", "ids INT64"], &["y"], &["batch: Dict(str, Tensor)"], "{}ids=1 mask=0 -> y=0");
    }

    #[test]
    fn a_dictionary_has_no_strings() {
        let text =
            "unable to load model 'm', configuration expects TYPE_STRING for input 'x', and the model takes tensors";
        refused(&config(&["ids", "x STRING"], &["y"], ""), &["batch: Dict(str, Tensor)"], text);
        let state =
            "sequence_batching { state { input_name: 'x' output_name: 'S__1' data_type: TYPE_STRING dims: [ 1 ] } }";
        refused(&config(&["ids"], &["y"], state), &["batch: Dict(str, Tensor)"], text);
        fits(&["ids"], &["y STRING"], &["batch: Dict(str, Tensor)"], "{}ids=0 -> y=0");
    }

    #[test]
    fn strings_are_lists() {
        fits(&["words STRING", "x"], &["y STRING"], &["words: str[]", "x: Tensor"], "words=0 x=1 -> y=0");
        let text = "Triton only supports 1 dimensional List of String as input for 'words' for model 'm'";
        let arguments = ["words: str[]", "x: Tensor"];
        refused(&config(&["words STRING", "x"], &["y"], "max_batch_size: 2"), &arguments, text);
        let text = "Triton only supports 1 dimensional List of String as output for 'y' for model 'm'";
        refused(&config(&["x"], &["y STRING"], "max_batch_size: 2"), &["x: Tensor"], text);
        let text = "unable to load model 'm', configuration expects TYPE_STRING for input 'x', the model's argument 'x' is of type Tensor";
        refused(&config(&["x STRING"], &["y"], ""), &["x: Tensor"], text);
        let text = "unable to load model 'm', configuration expects a tensor for input 'w', the model's argument 'w' is of type str[]";
        refused(&config(&["w"], &["y"], ""), &["w: str[]"], text);
    }

    #[test]
    fn every_argument_gets_one_input() {
        let two = ["a: Tensor", "b: Tensor"];
        refused(
            &config(&["a"], &["y"], ""),
            &two,
            "unable to load model 'm', configuration expects 1 inputs, model provides 2",
        );
        let text = "unable to load model 'm', input 'INPUT__7' is argument 7 of the model, which has 2";
        refused(&config(&["INPUT__0", "INPUT__7"], &["y"], ""), &two, text);
        let text = "unable to load model 'm', inputs 'A__1' and 'B__1' are both argument 1 of the model";
        refused(&config(&["A__1", "B__1"], &["y"], ""), &two, text);
        refused(
            &config(&[], &["y"], ""),
            &[],
            "model configuration must contain at least one input, none were specified.",
        );
        refused(
            &config(&["a"], &[], ""),
            &["a: Tensor"],
            "model configuration must contain at least one output, none were specified.",
        );
    }

    #[test]
    fn what_no_request_can_carry_is_refused_by_its_type() {
        let text = |word: &str| {
            format!(
                "An input of type '{word}' was detected in the model. Only a single input of type Dict(str, Tensor) or input(s) of \
                 type Tensor are supported."
            )
        };
        refused(&config(&["x", "s"], &["y"], ""), &["x: Tensor", "s: float"], &text("float"));
        refused(&config(&["x"], &["y"], ""), &["x: Tensor[]"], &text("Tensor[]"));
        refused(&config(&["x"], &["y"], ""), &["x: Dict(str, int)"], &text("Dict(str, int)"));
        refused(&config(&["d", "x"], &["y"], ""), &["d: Dict(str, Tensor)", "x: Tensor"], &text("Dict(str, Tensor)"));
        let text = "Multiple inputs of kind DictType were detected. Only a single input of type Dict(str, Tensor) is supported.";
        refused(&config(&["x", "d"], &["y"], ""), &["x: Tensor", "d: Dict(str, Tensor)"], text);
    }

    #[test]
    fn controls_and_states_are_numbered() {
        let control = |name: &str| {
            format!(
                "sequence_batching {{ control_input {{ name: '{name}' control {{ kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] }} }} }}"
            )
        };
        let numbered = config(&["INPUT__0"], &["y"], &control("START__1"));
        assert_eq!(places(&numbered, &["a: Tensor", "b: Tensor"]), Ok("INPUT__0=0 START__1=1 -> y=0".into()));
        let text = "input 'START' does not follow <name>__<index> naming convention.";
        refused(&config(&["INPUT__0"], &["y"], &control("START")), &["a: Tensor", "b: Tensor"], text);

        let state = |input: &str| {
            format!(
                "sequence_batching {{ state {{ input_name: '{input}' output_name: 'STATE__1' data_type: TYPE_FP32 dims: [ 1 ] }} }}"
            )
        };
        let numbered = config(&["INPUT__0"], &["OUTPUT__0"], &state("STATE__1"));
        let expect = "INPUT__0=0 STATE__1=1 -> OUTPUT__0=0 STATE__1=1";
        for arguments in [["a: Tensor", "b: Tensor"], ["INPUT__0: Tensor", "STATE__1: Tensor"]] {
            assert_eq!(places(&numbered, &arguments), Ok(expect.into()));
        }
        let text = "PyTorch model 'm' is using sequence batching with state but state 'STATE' does not follow the <name>__<index> naming convention. ";
        refused(&config(&["INPUT__0"], &["OUTPUT__0"], &state("STATE")), &["a: Tensor", "b: Tensor"], text);
        let text = "PyTorch model 'm' is using sequence batching with state but not all inputs and outputs follow the <name>__<index> naming convention. ";
        refused(&config(&["a"], &["OUTPUT__0"], &state("STATE__1")), &["a: Tensor", "b: Tensor"], text);
        refused(&config(&["INPUT__0"], &["y"], &state("STATE__1")), &["a: Tensor", "b: Tensor"], text);
    }

    #[test]
    fn types_that_libtorch_has_not_are_refused_by_name() {
        let text = "unsupported datatype TYPE_UINT32 for input 'a' for model 'm'";
        refused(&config(&["a UINT32"], &["y"], ""), &["a: Tensor"], text);
        let text = "unsupported datatype TYPE_UINT64 for output 'y' for model 'm'";
        refused(&config(&["a"], &["y UINT64"], ""), &["a: Tensor"], text);
    }
}
