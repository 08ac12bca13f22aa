//! Which instances a configuration asks for: where each runs, and what it needs to run.

use std::sync::Arc;

use server_core::{
    backend::{Device, Placement},
    config::{self, ModelConfig, ModelInstanceGroup},
    error::Result,
    rate_limit::Needs,
};

use crate::executing;

/// One instance to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstancePlan {
    pub(crate) placement: Placement,
    /// What it is called where it ends the process.
    pub(crate) label: &'static str,
    /// What it shares with others, where that is limited.
    pub(crate) needs: Needs,
    /// It is made and never given requests.
    pub(crate) is_passive: bool,
}

/// One plan per instance of the normalised configuration's groups, in the order of the configuration. `cores` says which
/// processors a group's instances on a device are bound to.
///
/// Errors: those of `cores`.
pub(crate) fn instance_plans(
    model: &ModelConfig,
    cores: impl Fn(&ModelInstanceGroup, Device) -> Result<Option<Arc<[usize]>>>,
) -> Result<Vec<InstancePlan>> {
    let mut plans = Vec::new();
    for group in &model.instance_group {
        let devices = match config::InstanceKind::try_from(group.kind) {
            Ok(config::InstanceKind::Gpu) => {
                group.gpus.iter().map(|&gpu| Device::Gpu(u32::try_from(gpu).unwrap_or(0))).collect()
            }
            Ok(config::InstanceKind::Model) => vec![Device::Model],
            _ => vec![Device::Cpu],
        };
        let needs = Needs::of(group);
        let mut number = 0;
        for device in devices {
            let cores = cores(group, device)?;
            for _ in 0..group.count.max(1) {
                let instance_name = format!("{}_{number}", group.name);
                let placement = Placement { instance_name, device, cores: cores.clone() };
                let label = executing::name(&placement.instance_name, &model.name);
                plans.push(InstancePlan { placement, label, needs: needs.clone(), is_passive: group.passive });
                number += 1;
            }
        }
    }
    Ok(plans)
}
