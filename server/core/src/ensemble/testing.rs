//! Ensembles and models for the tests of this folder, written as configurations.

use std::{collections::BTreeMap, sync::Arc};

use super::{Graph, Member, Members};
use crate::{
    config::{Machine, ModelConfig, complete, from_text, normalize},
    error::Error,
    interface::{Interface, Labels},
    request::{RequestedOutput, VersionChoice},
    tensor::{DataType, Tensor},
};

/// The interface of a model with that configuration.
pub(super) fn interface(text: &str, version: u64) -> Interface {
    Interface::new(&from_text(text).unwrap(), version, Labels::new()).unwrap()
}

/// Models that serve as version 1, by their configurations.
pub(super) fn members(configs: &[&str]) -> Members {
    configs
        .iter()
        .map(|text| {
            let interface = interface(text, 1);
            let name = interface.model_name.to_string();
            (name, Member::Ready(BTreeMap::from([(1, Arc::new(interface))])))
        })
        .collect()
}

/// An ensemble's configuration as the graph is compiled from it.
pub(super) fn config(text: &str) -> ModelConfig {
    let mut config = from_text(text).unwrap();
    config.platform = "ensemble".into();
    complete(&mut config, "e", &[]).unwrap();
    normalize(&mut config, &Machine::default());
    config
}

/// Compiles an ensemble named `e`.
pub(super) fn compile(text: &str, members: &Members) -> Result<(Graph, ModelConfig, Interface), Error> {
    let mut config = config(text);
    let mut own = Interface::new(&config, 1, Labels::new()).unwrap();
    let graph = Graph::compile(&mut config, &mut own, members)?;
    Ok((graph, config, own))
}

/// A tensor of one byte.
pub(super) fn byte(name: &str, shape: &[i64], value: u8) -> Tensor {
    let data = vec![value; shape.iter().product::<i64>() as usize].into();
    Tensor { name: name.into(), data_type: DataType::Uint8, shape: shape.into(), data }
}

pub(super) fn wanted(names: &[String]) -> Vec<RequestedOutput> {
    names.iter().map(|name| RequestedOutput::values(name.as_str())).collect()
}

#[test]
fn versions_are_chosen_as_triton_writes_them() {
    use super::members::version_choice;
    assert_eq!(version_choice(-1), Some(VersionChoice::Latest));
    assert_eq!(version_choice(7), Some(VersionChoice::Exact(7)));
    assert_eq!(version_choice(-3), None);
}
