//! A GraphDef says nothing of what callers may ask: any placeholder may be an input, and any other operation an output. The
//! configuration names those that are, and here they are looked up.

use std::{collections::BTreeSet, fs, path::Path};

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::Shape,
};

use super::{interface::Interface, raw::Session, types};
use crate::native::{Kind, Offered, Signature, sequence};

/// Most names that an error lists.
const MOST_LISTED: usize = 20;

/// The content of the file.
///
/// Errors: it cannot be read.
pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| Error::internal(format!("unable to read '{}': {error}", file.display())))
}

/// What a configuration makes of a graph: of the tensors that it names types are known, and whether they are scalars.
/// Their shapes are the configuration's to say, for TensorFlow does not hold callers to those of the graph.
///
/// Errors: `InvalidArgument`, in Triton's words, if the graph has nothing of that name.
pub(super) fn interface(config: &ModelConfig, session: &Session) -> Result<Interface> {
    let (inputs, outputs): (Vec<_>, Vec<_>) = session
        .operations()
        .partition(|operation| matches!(&*operation.kind, "Placeholder" | "PlaceholderWithDefault"));
    if inputs.is_empty() && outputs.is_empty() {
        return Err(Error::internal(format!("model {} has an empty network", config.name)));
    }
    if config.output.is_empty() {
        return Err(unable(
            config,
            "configuration must name at least one output: a GraphDef does not say what callers may ask",
        ));
    }
    if inputs.len() < config.input.len() {
        let (configured, provided) = (config.input.len(), inputs.len());
        let text = format!("configuration expects {configured} inputs, model provides at most {provided}");
        return Err(unable(config, &text));
    }
    let inputs: BTreeSet<&str> = inputs.iter().map(|operation| &*operation.name).collect();
    let outputs: BTreeSet<&str> = outputs.iter().map(|operation| &*operation.name).collect();
    let find = |side: &str, allowed: &BTreeSet<&str>, names: BTreeSet<&str>| {
        let one = |name: &str| {
            let operation = name.rsplit_once(':').map_or(name, |(operation, _)| operation);
            let found = session.endpoint(name).filter(|_| allowed.contains(operation));
            let (endpoint, number) = found.ok_or_else(|| unexpected(config, side, name, allowed))?;
            let kind = match types::data_type(number) {
                Some(data_type) if session.rank(endpoint) == Some(0) => Kind::Tensor(data_type, Shape::new()),
                Some(data_type) => Kind::AnyRank(data_type),
                None => Kind::Foreign(types::name(number)),
            };
            Ok(Offered { name: name.to_owned(), kind })
        };
        names.into_iter().map(one).collect::<Result<Vec<_>>>()
    };
    let signature = Signature {
        inputs: find("input", &inputs, input_names(config))?,
        outputs: find("output", &outputs, output_names(config))?,
        initializers: Vec::new(),
    };
    let same = |offered: &[Offered]| offered.iter().map(|one| (one.name.clone(), one.name.clone())).collect();
    let (inputs, outputs) = (same(&signature.inputs), same(&signature.outputs));
    Ok(Interface { signature, inputs, outputs })
}

/// Whatever is fed: by callers, or by the server.
fn input_names(config: &ModelConfig) -> BTreeSet<&str> {
    let by_callers = config.input.iter().map(|input| &*input.name);
    let computed = config.batch_input.iter().flat_map(|input| &input.target_name).map(String::as_str);
    let controls = sequence::controls(config).map(|control| control.name);
    let states = sequence::states(config).iter().map(|state| &*state.input_name);
    by_callers.chain(computed).chain(controls).chain(states).collect()
}

/// Whatever is computed, for callers or for sequences.
fn output_names(config: &ModelConfig) -> BTreeSet<&str> {
    let states = sequence::states(config).iter().map(|state| &*state.output_name);
    config.output.iter().map(|output| &*output.name).chain(states).collect()
}

fn unable(config: &ModelConfig, text: &str) -> Error {
    Error::invalid_argument(format!("unable to load model '{}', {text}", config.name))
}

fn unexpected(config: &ModelConfig, side: &str, name: &str, allowed: &BTreeSet<&str>) -> Error {
    let listed = allowed.iter().copied().take(MOST_LISTED).collect::<Vec<_>>().join(", ");
    let more = match allowed.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    unable(config, &format!("unexpected inference {side} '{name}', allowed {side}s are: {listed}{more}"))
}
