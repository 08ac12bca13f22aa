//! Model configurations: text and JSON in and out, completed, normalised, verified. The order of a load is
//! [`from_text`] (or [`from_json`]), [`complete`], the backend's own completion, [`normalize`], [`verify`]; what the
//! server cannot act upon is told by [`not_acted_upon`]. Nothing here reads a file or asks the machine: both are told.

mod complete;
mod frameworks;
mod json;
mod normalize;
mod parse_error;
mod problem;
mod reflect;
mod text;
mod unacted;
mod verify;

pub use server_proto::inference::{ModelConfig, model_instance_group::Kind as InstanceKind};

pub use self::{
    complete::complete,
    frameworks::backend_name,
    json::{from_json, to_json},
    normalize::{Machine, normalize},
    parse_error::ParseError,
    problem::{Problem, problems_error},
    text::{from_text, to_text},
    unacted::not_acted_upon,
    verify::verify,
};
