//! `TRITONBACKEND_BackendAttribute`: what a backend library says of itself before its first model.

use parking_lot::Mutex;
use server_core::error::{Error, Result};

use crate::abi::{Array, Handle, export::exports, handle::objects, numbers::InstanceGroupKind};

objects! { 5: Attributes => "TRITONBACKEND_BackendAttribute" }

/// What the library says of itself.
#[derive(Default)]
pub(crate) struct Attributes(Mutex<Said>);

/// The values of [`Attributes`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Instances of one model may be made at the same time.
    pub(crate) loads_in_parallel: bool,
    /// Groups of instances for models that ask for none, the most wanted one first.
    pub(crate) preferred_groups: Vec<PreferredGroup>,
}

/// A group of instances that a library would like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PreferredGroup {
    /// What they run on.
    pub(crate) kind: InstanceGroupKind,
    /// How many, or 0: the usual number.
    pub(crate) count: u64,
    /// Of GPUs, which.
    pub(crate) devices: Vec<u64>,
}

impl Attributes {
    /// What was said.
    pub(crate) fn said(&self) -> Said {
        self.0.lock().clone()
    }
}

/// Most groups that a library may ask for.
const MOST_GROUPS: usize = 64;

exports! {
    /// Adds a group of instances for models that ask for none.
    fn TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
        attributes: Handle<Attributes>,
        kind: InstanceGroupKind,
        count: u64,
        device_ids: Array<u64>,
        id_count: u64,
    ) {
        let attributes = attributes.get()?;
        let devices = device_ids.get(id_count)?.to_vec();
        known(kind)?;
        let mut said = attributes.0.lock();
        if said.preferred_groups.len() >= MOST_GROUPS {
            return Err(Error::invalid_argument(format!("a backend can prefer {MOST_GROUPS} instance groups at most")));
        }
        said.preferred_groups.push(PreferredGroup { kind, count, devices });
        Ok(())
    }

    /// Says whether instances of one model may be made at the same time.
    fn TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes: Handle<Attributes>, enabled: bool) {
        attributes.get()?.0.lock().loads_in_parallel = enabled;
        Ok(())
    }
}

fn known(kind: InstanceGroupKind) -> Result<()> {
    if kind.text().is_some() {
        return Ok(());
    }
    Err(Error::invalid_argument(format!("there is no kind {} of instance groups", kind.0)))
}
