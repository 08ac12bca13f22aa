//! `TRITONBACKEND_ModelInstance`: one execution context, as its backend library sees it.

use std::{
    ffi::{CString, c_void},
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use parking_lot::Mutex;
use server_core::{
    backend::{Device, MemoryUse, Placement},
    config::{ModelConfig, ModelInstanceGroup},
    error::{Error, Result},
};

use super::{
    executions::Executions,
    model::{Model, memory_uses},
};
use crate::abi::{
    Array, Handle, Out, Text,
    export::exports,
    handle::objects,
    numbers::InstanceGroupKind,
    objects::{BufferAttributes, Message, text},
};

objects! { 7: Instance => "TRITONBACKEND_ModelInstance" }

/// One execution context of a model.
pub(crate) struct Instance {
    name: CString,
    kind: InstanceGroupKind,
    device: i32,
    host_policy: String,
    is_passive: bool,
    profiles: Vec<CString>,
    secondary_devices: Vec<(CString, i64)>,
    model: Handle<Model>,
    state: AtomicPtr<c_void>,
    memory: Mutex<Vec<MemoryUse>>,
    /// What it has run and the library has said nothing of.
    pub(crate) executions: Executions,
}

impl Instance {
    /// The instance at that place.
    pub(crate) fn new(model: Handle<Model>, config: &ModelConfig, placement: &Placement) -> Self {
        let group = group_of(config, &placement.instance_name);
        let (kind, device) = match placement.device {
            Device::Cpu => (InstanceGroupKind::CPU, 0),
            Device::Gpu(gpu) => (InstanceGroupKind::GPU, i32::try_from(gpu).unwrap_or(0)),
            Device::Model => (InstanceGroupKind::MODEL, 0),
        };
        let profiles = group.map_or(&[][..], |group| &group.profile).iter().map(|name| text(name)).collect();
        let secondary = group.map_or(&[][..], |group| &group.secondary_devices).iter();
        let secondary = secondary.map(|device| (text(device.kind().as_str_name()), device.device_id)).collect();
        Self {
            name: text(&placement.instance_name),
            kind,
            device,
            host_policy: host_policy(group, placement),
            is_passive: group.is_some_and(|group| group.passive),
            profiles,
            secondary_devices: secondary,
            model,
            state: AtomicPtr::new(ptr::null_mut()),
            memory: Mutex::default(),
            executions: Executions::default(),
        }
    }

    /// What the library says that it holds.
    pub(crate) fn memory(&self) -> Vec<MemoryUse> {
        self.memory.lock().clone()
    }
}

/// The group that an instance is one of: its name is the group's and a number.
fn group_of<'a>(config: &'a ModelConfig, instance_name: &str) -> Option<&'a ModelInstanceGroup> {
    let (name, _) = instance_name.rsplit_once('_')?;
    config.instance_group.iter().find(|group| group.name == name)
}

/// The host policy as JSON: its name, and what it says.
fn host_policy(group: Option<&ModelInstanceGroup>, placement: &Placement) -> String {
    let named = group.map(|group| group.host_policy.as_str()).filter(|name| !name.is_empty());
    let name = named.map_or_else(
        || match placement.device {
            Device::Cpu => "cpu".to_owned(),
            Device::Gpu(gpu) => format!("gpu_{gpu}"),
            Device::Model => "model".to_owned(),
        },
        str::to_owned,
    );
    let mut settings = serde_json::Map::new();
    if let Some(cores) = &placement.cores {
        let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
        settings.insert("cpu-cores".into(), cores.join(",").into());
    }
    serde_json::json!({ name: settings }).to_string()
}

/// The entry of that number.
fn at<'a, T>(of: &'a [T], index: u32, what: &str) -> Result<&'a T> {
    of.get(index as usize).ok_or_else(|| {
        Error::invalid_argument(format!("out of bounds index {index}: the instance has {} {what}", of.len()))
    })
}

fn count<T>(of: &[T]) -> u32 {
    u32::try_from(of.len()).unwrap_or(u32::MAX)
}

exports! {
    /// Its name, which is unique in its model.
    fn TRITONBACKEND_ModelInstanceName(instance: Handle<Instance>, name: Out<Text>) {
        name.set(Text::of(&instance.get()?.name))
    }

    /// What it runs on.
    fn TRITONBACKEND_ModelInstanceKind(instance: Handle<Instance>, kind: Out<InstanceGroupKind>) {
        kind.set(instance.get()?.kind)
    }

    /// On which GPU, or 0.
    fn TRITONBACKEND_ModelInstanceDeviceId(instance: Handle<Instance>, device_id: Out<i32>) {
        device_id.set(instance.get()?.device)
    }

    /// Its host policy, as JSON; the caller deletes the message.
    fn TRITONBACKEND_ModelInstanceHostPolicy(instance: Handle<Instance>, host_policy: Out<Handle<Message>>) {
        host_policy.give(Message::of(&instance.get()?.host_policy))
    }

    /// Whether it is never given requests.
    fn TRITONBACKEND_ModelInstanceIsPassive(instance: Handle<Instance>, is_passive: Out<bool>) {
        is_passive.set(instance.get()?.is_passive)
    }

    /// How many profiles it is to use.
    fn TRITONBACKEND_ModelInstanceProfileCount(instance: Handle<Instance>, number: Out<u32>) {
        number.set(count(&instance.get()?.profiles))
    }

    /// The name of a profile.
    fn TRITONBACKEND_ModelInstanceProfileName(instance: Handle<Instance>, index: u32, name: Out<Text>) {
        let instance = instance.get()?;
        name.set(Text::of(at(&instance.profiles, index, "profiles")?))
    }

    /// How many further devices it has.
    fn TRITONBACKEND_ModelInstanceSecondaryDeviceCount(instance: Handle<Instance>, number: Out<u32>) {
        number.set(count(&instance.get()?.secondary_devices))
    }

    /// Kind and number of a further device.
    fn TRITONBACKEND_ModelInstanceSecondaryDeviceProperties(
        instance: Handle<Instance>,
        index: u32,
        kind: Out<Text>,
        id: Out<i64>,
    ) {
        let instance = instance.get()?;
        let device = at(&instance.secondary_devices, index, "secondary devices")?;
        kind.set(Text::of(&device.0))?;
        id.set(device.1)
    }

    /// Its model.
    fn TRITONBACKEND_ModelInstanceModel(instance: Handle<Instance>, model: Out<Handle<Model>>) {
        model.set(instance.get()?.model)
    }

    /// What [`TRITONBACKEND_ModelInstanceSetState`] was given.
    fn TRITONBACKEND_ModelInstanceState(instance: Handle<Instance>, state: Out<*mut c_void>) {
        state.set(instance.get()?.state.load(Ordering::Acquire))
    }

    /// Keeps an address for the library.
    fn TRITONBACKEND_ModelInstanceSetState(instance: Handle<Instance>, state: *mut c_void) {
        instance.get()?.state.store(state, Ordering::Release);
        Ok(())
    }

    /// Says what the instance holds.
    fn TRITONBACKEND_ModelInstanceReportMemoryUsage(
        instance: Handle<Instance>,
        usage: Array<Handle<BufferAttributes>>,
        usage_size: u32,
    ) {
        let instance = instance.get()?;
        let uses = memory_uses(&usage, usage_size)?;
        *instance.memory.lock() = uses;
        Ok(())
    }
}
