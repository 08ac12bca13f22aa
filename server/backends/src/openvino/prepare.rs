//! A model that was read, fitted to its configuration: names, shapes, batches and types.

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::{DataType, Shape},
};

use super::{
    element::{self, Elements},
    raw::{Model, Port, Side},
    settings::ModelSettings,
};
use crate::native::{Kind, Offered, Signature, sequence, verify};

/// How many rows a run may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// Any number, or the model does not batch.
    Any,
    /// So many alone.
    Fixed(i64),
}

/// A model that fits its configuration.
pub(super) struct Fitted {
    pub(super) model: Model,
    /// Inputs and outputs by the names of the configuration; a fixed number of rows counts as an open one.
    pub(super) signature: Signature,
    pub(super) rows: Rows,
}

/// Inputs and outputs of a model, as a configuration may leave them open.
pub(super) fn signature(model: &Model, elements: &Elements, config: &ModelConfig) -> Result<Signature> {
    let side = |side: Side, configured: &mut dyn Iterator<Item = &str>| -> Result<Vec<Offered>> {
        let ports = model.ports(side)?;
        let mut names: Vec<String> =
            ports.iter().enumerate().map(|(index, port)| own_name(side, index, port)).collect();
        for name in configured {
            // A port may have several names, and a configuration may use any of them.
            if names.iter().all(|known| known != name)
                && let Some(port) = model.port_named(side, name)
                && let Some(place) = names.iter().position(|known| port.name.as_ref() == Some(known))
            {
                names[place] = name.to_owned();
            }
        }
        Ok(names.into_iter().zip(&ports).map(|(name, port)| Offered { name, kind: kind(port, elements) }).collect())
    };
    let states = sequence::states(config);
    let inputs = config.input.iter().map(|input| &*input.name);
    let inputs = inputs.chain(sequence::controls(config).map(|control| control.name));
    let inputs = inputs.chain(config.batch_input.iter().flat_map(|input| &input.target_name).map(String::as_str));
    let mut inputs = inputs.chain(states.iter().map(|state| &*state.input_name));
    let outputs = config.output.iter().map(|output| &*output.name);
    let mut outputs = outputs.chain(states.iter().map(|state| &*state.output_name));
    Ok(Signature {
        inputs: side(Side::Input, &mut inputs)?,
        initializers: Vec::new(),
        outputs: side(Side::Output, &mut outputs)?,
    })
}

/// A port without a name goes by its place.
fn own_name(side: Side, index: usize, port: &Port) -> String {
    let place = match side {
        Side::Input => "input",
        Side::Output => "output",
    };
    port.name.clone().unwrap_or_else(|| format!("{place}_{index}"))
}

fn kind(port: &Port, elements: &Elements) -> Kind {
    match (elements.data_type(port.element), &port.shape) {
        (Some(data_type), Some(shape)) => Kind::Tensor(data_type, shape.clone()),
        (Some(data_type), None) => Kind::AnyRank(data_type),
        (None, _) => Kind::Foreign(elements.foreign(port.element)),
    }
}

/// The signature of a model that will be made to batch: every first extent is open.
pub(super) fn with_open_rows(signature: Signature) -> Signature {
    opened(signature, |_| true)
}

/// The signature with first extents open where they are rows.
fn opened(mut signature: Signature, is_rows: impl Fn(i64) -> bool) -> Signature {
    for offered in signature.inputs.iter_mut().chain(&mut signature.outputs) {
        if let Kind::Tensor(_, shape) = &mut offered.kind
            && let Some(first) = shape.first_mut()
            && is_rows(*first)
        {
            *first = -1;
        }
    }
    signature
}

/// A scalar is one value of all rows, and would count the zeros that fill up a batch.
fn refuse_scalars(config: &ModelConfig, signature: &Signature) -> Result<()> {
    let is_scalar = |name: &str| signature.output(name).and_then(Offered::rank) == Some(0);
    let Some(output) = config.output.iter().find(|output| is_scalar(&output.name)) else { return Ok(()) };
    Err(Error::invalid_argument(format!(
        "unable to load model '{}', output '{}' is a scalar, in which 'ENABLE_BATCH_PADDING' would count the zeros that fill up a \
         batch; set it to 'NO'",
        config.name, output.name
    )))
}

/// Gives inputs the dims of the configuration: all with `RESHAPE_IO_LAYERS`, else those whose rank the model leaves open, for
/// devices want to know that.
///
/// Errors: the model does not fit them.
pub(super) fn reshape_inputs(model: &Model, config: &ModelConfig, signature: &Signature, all: bool) -> Result<()> {
    let is_open = |offered: &Offered| matches!(offered.kind, Kind::AnyRank(_));
    if !all && !signature.inputs.iter().any(is_open) {
        return Ok(());
    }
    let wanted = |offered: &Offered| -> Result<Shape> {
        let own: Option<&[i64]> = offered.tensor().ok().and_then(|(_, shape)| shape);
        let input = config.input.iter().find(|input| input.name == offered.name);
        let dims = match (own, input) {
            (Some(own), None) => return Ok(own.into()),
            (Some(own), Some(_)) if !all => return Ok(own.into()),
            (_, Some(input)) => input.reshape.as_ref().map_or(&input.dims, |reshape| &reshape.shape),
            (None, None) => {
                let text = format!("unable to load model '{}', input '{}' has no shape", config.name, offered.name);
                return Err(Error::invalid_argument(text));
            }
        };
        if dims.iter().any(|&dim| dim == 0 || dim < -1) {
            let text = "openvino backend does not support dimensions values other than `-1` or positive integers";
            return Err(Error::internal(text));
        }
        let rows = (config.max_batch_size > 0).then(|| own.and_then(|own| own.first().copied()).unwrap_or(-1));
        Ok(rows.into_iter().chain(dims.iter().copied()).collect())
    };
    let shapes = signature.inputs.iter().map(wanted).collect::<Result<Vec<_>>>()?;
    Ok(model.reshape(&shapes)?)
}

/// Makes the model what its configuration says: rows, then types; and holds one against the other.
pub(super) fn fit(model: Model, elements: &Elements, config: &ModelConfig, settings: &ModelSettings) -> Result<Fitted> {
    reshape_inputs(&model, config, &signature(&model, elements, config)?, false)?;
    let rows = if config.max_batch_size > 0 { set_rows(&model, elements, config, settings)? } else { Rows::Any };
    let offered = signature(&model, elements, config)?;
    let inputs = conversions(&offered.inputs, elements, |name| {
        config.input.iter().find(|input| input.name == name).map(|input| input.data_type)
    });
    let outputs = conversions(&offered.outputs, elements, |name| {
        config.output.iter().find(|output| output.name == name).map(|output| output.data_type)
    });
    let is_same = inputs.is_empty() && outputs.is_empty();
    let model = if is_same { model } else { model.converting(&inputs, &outputs)? };
    let signature = signature(&model, elements, config)?;
    let signature = match rows {
        Rows::Any => signature,
        Rows::Fixed(rows) => opened(signature, |first| first == rows),
    };
    verify(config, &signature, |data_type| element::word(data_type).to_owned())?;
    if rows != Rows::Any && settings.pads_batches {
        refuse_scalars(config, &signature)?;
    }
    Ok(Fitted { model, signature, rows })
}

/// Opens the first extent of every input; where the model cannot run any number of rows, or shall not, all runs have
/// `max_batch_size` of them.
fn set_rows(model: &Model, elements: &Elements, config: &ModelConfig, settings: &ModelSettings) -> Result<Rows> {
    let before = signature(model, elements, config)?;
    let with_rows = |rows: i64| -> Option<Vec<Shape>> {
        let of_input = |offered: &Offered| match &offered.kind {
            Kind::Tensor(_, shape) => {
                let is_ragged = config.input.iter().any(|input| input.name == offered.name && input.allow_ragged_batch);
                let mut shape = shape.clone();
                shape.first_mut().filter(|_| !is_ragged).into_iter().for_each(|first| *first = rows);
                Some(shape)
            }
            _ => None,
        };
        before.inputs.iter().map(of_input).collect()
    };
    let is_open = |offered: &Offered| match &offered.kind {
        Kind::Tensor(_, shape) => matches!(shape.first(), Some(-1) | None),
        _ => true,
    };
    let all_open = |signature: &Signature| signature.inputs.iter().chain(&signature.outputs).all(is_open);
    if !settings.has_fixed_batch {
        if all_open(&before) {
            return Ok(Rows::Any);
        }
        let opened = with_rows(-1).is_some_and(|shapes| model.reshape(&shapes).is_ok());
        if opened && all_open(&signature(model, elements, config)?) {
            return Ok(Rows::Any);
        }
    }
    let rows = i64::from(config.max_batch_size);
    if let Some(shapes) = with_rows(rows) {
        model.reshape(&shapes)?;
    }
    Ok(Rows::Fixed(rows))
}

/// Numbers of the tensors whose configured type is another than the model's and can be converted, and OpenVINO's numbers of those
/// types.
fn conversions(
    tensors: &[Offered],
    elements: &Elements,
    configured: impl Fn(&str) -> Option<i32>,
) -> Vec<(usize, u32)> {
    let conversion = |(index, offered): (usize, &Offered)| {
        let wanted = DataType::from_config(configured(&offered.name)?)?;
        let (own, _) = offered.tensor().ok()?;
        elements.number(wanted).filter(|_| wanted != own).map(|number| (index, number))
    };
    tensors.iter().enumerate().filter_map(conversion).collect()
}
