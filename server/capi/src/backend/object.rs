//! `TRITONBACKEND_Backend`: one backend library, shared by all of its models.

use std::{
    ffi::{CString, c_void},
    path::Path,
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use server_core::{
    backend::Settings,
    error::{Error, Result},
};

use crate::abi::{
    Handle, Out, Text,
    export::exports,
    handle::{Part, objects},
    numbers::{ArtifactType, ExecutionPolicy},
    objects::{Message, text},
};

objects! { 4: Backend => "TRITONBACKEND_Backend" }

/// Version of `tritonbackend.h` that is followed.
pub(crate) const API_VERSION: (u32, u32) = (1, 19);

/// One backend library, as it sees itself.
pub(crate) struct Backend {
    pub(crate) name: CString,
    folder: CString,
    config: String,
    policy: AtomicU32,
    state: AtomicPtr<c_void>,
}

/// The part of a backend that gives it memory.
pub(crate) struct MemoryManager;

impl Part for MemoryManager {
    const NAME: &'static str = "TRITONBACKEND_MemoryManager";
}

impl Backend {
    /// The backend of that name, whose files lie in that folder.
    pub(crate) fn new(name: &str, folder: &Path, settings: &Settings) -> Self {
        let settings: serde_json::Map<_, _> =
            settings.iter().map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str()))).collect();
        Self {
            name: text(name),
            folder: text(&folder.to_string_lossy()),
            config: serde_json::json!({ "cmdline": settings }).to_string(),
            policy: AtomicU32::new(ExecutionPolicy::BLOCKING.0),
            state: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Whether one thread is to run all instances of a model on a device.
    pub(crate) fn blocks_device(&self) -> bool {
        self.policy.load(Ordering::Acquire) == ExecutionPolicy::DEVICE_BLOCKING.0
    }
}

exports! {
    /// The version of the interface.
    fn TRITONBACKEND_ApiVersion(major: Out<u32>, minor: Out<u32>) {
        major.set(API_VERSION.0)?;
        minor.set(API_VERSION.1)
    }

    /// The name by which models choose it.
    fn TRITONBACKEND_BackendName(backend: Handle<Backend>, name: Out<Text>) {
        name.set(Text::of(&backend.get()?.name))
    }

    /// The settings of the command line, as JSON; the caller deletes the message.
    fn TRITONBACKEND_BackendConfig(backend: Handle<Backend>, config: Out<Handle<Message>>) {
        config.give(Message::of(&backend.get()?.config))
    }

    /// Which threads run instances.
    fn TRITONBACKEND_BackendExecutionPolicy(backend: Handle<Backend>, policy: Out<ExecutionPolicy>) {
        policy.set(ExecutionPolicy(backend.get()?.policy.load(Ordering::Acquire)))
    }

    /// Chooses which threads run instances: before the first model is there.
    fn TRITONBACKEND_BackendSetExecutionPolicy(backend: Handle<Backend>, policy: ExecutionPolicy) {
        let backend = backend.get()?;
        known(policy)?;
        backend.policy.store(policy.0, Ordering::Release);
        Ok(())
    }

    /// The folder of its files.
    fn TRITONBACKEND_BackendArtifacts(backend: Handle<Backend>, kind: Out<ArtifactType>, location: Out<Text>) {
        let backend = backend.get()?;
        kind.set(ArtifactType::FILESYSTEM)?;
        location.set(Text::of(&backend.folder))
    }

    /// What gives it memory.
    fn TRITONBACKEND_BackendMemoryManager(backend: Handle<Backend>, manager: Out<Handle<Backend, MemoryManager>>) {
        backend.get()?;
        manager.set(backend.part(0)?)
    }

    /// What [`TRITONBACKEND_BackendSetState`] was given.
    fn TRITONBACKEND_BackendState(backend: Handle<Backend>, state: Out<*mut c_void>) {
        state.set(backend.get()?.state.load(Ordering::Acquire))
    }

    /// Keeps an address for the library.
    fn TRITONBACKEND_BackendSetState(backend: Handle<Backend>, state: *mut c_void) {
        backend.get()?.state.store(state, Ordering::Release);
        Ok(())
    }
}

fn known(policy: ExecutionPolicy) -> Result<()> {
    if policy.text().is_some() {
        return Ok(());
    }
    Err(Error::invalid_argument(format!("there is no execution policy {}", policy.0)))
}
