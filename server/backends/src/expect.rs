//! What the test backends expect of a configuration, in the words of Triton's.

use server_core::{
    config::ModelConfig,
    error::{Error, Result},
    tensor::{DataType, shape_text},
};
use server_proto::inference as proto;

/// So many inputs and outputs.
pub(crate) fn counts(config: &ModelConfig, inputs: usize, outputs: usize) -> Result<()> {
    for (side, want, got) in [("input", inputs, config.input.len()), ("output", outputs, config.output.len())] {
        let plural = if want == 1 { "" } else { "s" };
        that(got == want, || format!("expected {want} {side}{plural}, got {got}"))?;
    }
    Ok(())
}

/// That name; `place` says which of the tensors it is.
pub(crate) fn name(place: &str, want: &str, got: &str) -> Result<()> {
    that(got == want, || format!("expected {place} tensor name to be {want}, got {got}"))
}

/// A shape of one value.
pub(crate) fn one_value(tensor: &str, dims: &[i64]) -> Result<()> {
    that(dims == [1], || format!("expected {tensor} shape to be [1], got {}", shape_text(dims)))
}

/// That type.
pub(crate) fn data_type(tensor: &str, want: DataType, got: i32) -> Result<()> {
    that(got == want.to_config() as i32, || {
        let got = proto::DataType::try_from(got).map_or("TYPE_INVALID", |data_type| data_type.as_str_name());
        format!("expected {tensor} datatype to be {}, got {got}", want.wire_name())
    })
}

/// A parameter of the configuration that is a number, 0 if it is not given.
pub(crate) fn number(config: &ModelConfig, key: &str) -> Result<u64> {
    let Some(parameter) = config.parameters.get(key) else { return Ok(0) };
    let value = &parameter.string_value;
    value.trim().parse().map_err(|_| {
        Error::invalid_argument(format!(
            "unexpected value '{value}' of '{key}', expected a number that is not negative"
        ))
    })
}

/// Anything else.
pub(crate) fn that(holds: bool, text: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid_argument(text())) }
}
