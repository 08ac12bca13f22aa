//! Repository agent libraries: `libtritonrepoagent_NAME.so` as a [`server_core::repository::agents::AgentLibrary`], and the functions
//! `TRITONREPOAGENT_*` that it calls.
//!
//! Source: `tritonrepoagent.h` 0.1 of triton-inference-server/core.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    path::{Component, Path, PathBuf},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
};

use parking_lot::Mutex;
use server_core::{
    error::{Error, Result},
    repository::agents::{Action, AgentLibraries, AgentLibrary, AgentModel, AgentTask},
};

use crate::{
    abi::{
        Handle, Out, Status, Text,
        export::exports,
        handle::objects,
        objects::{Message, result_of, text},
    },
    library::{function, open, required},
};

objects! {
    42: Agent => "TRITONREPOAGENT_Agent",
    43: Model => "TRITONREPOAGENT_AgentModel",
}

/// Version of `tritonrepoagent.h` that is followed.
const API_VERSION: (u32, u32) = (0, 1);

/// `TRITONREPOAGENT_ArtifactType`: files on this machine.
const FILESYSTEM: u32 = 0;

type WithAgent = unsafe extern "C" fn(Handle<Agent>) -> Status;
type WithModel = unsafe extern "C" fn(Handle<Agent>, Handle<Model>) -> Status;
type ModelAction = unsafe extern "C" fn(Handle<Agent>, Handle<Model>, u32) -> Status;

/// Agent libraries, by the folder that they lie in.
pub struct Agents {
    directory: PathBuf,
    open: Mutex<HashMap<String, Arc<Library>>>,
}

/// An open agent library.
struct Library {
    agent: Handle<Agent>,
    model_initialize: Option<WithModel>,
    model_finalize: Option<WithModel>,
    model_action: ModelAction,
    finalize: Option<WithAgent>,
}

/// `TRITONREPOAGENT_Agent`: an agent library as it sees itself.
#[derive(Default)]
pub(crate) struct Agent {
    state: AtomicPtr<c_void>,
}

/// `TRITONREPOAGENT_AgentModel`: one load of a model, from the first look at its folder until it is unloaded.
pub(crate) struct Model {
    state: AtomicPtr<c_void>,
    parameters: Vec<(CString, CString)>,
    config: Option<String>,
    place: Mutex<Place>,
}

struct Place {
    /// Where the model's files lie now.
    now: CString,
    /// Whether the library may say that they lie elsewhere.
    is_loading: bool,
    /// Folders that were made for the library.
    acquired: Vec<(CString, tempfile::TempDir)>,
}

/// An agent's part in one load of a model.
struct Lifecycle {
    library: Arc<Library>,
    model: Handle<Model>,
    object: Arc<Model>,
}

impl Agents {
    /// The libraries of that folder: `NAME/libtritonrepoagent_NAME.so`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, open: Mutex::default() }
    }
}

impl AgentLibraries for Agents {
    fn find(&self, name: &str) -> Option<Result<Arc<dyn AgentLibrary>>> {
        if !Path::new(name).components().eq([Component::Normal(name.as_ref())]) {
            return None;
        }
        let mut open = self.open.lock();
        if let Some(library) = open.get(name) {
            return Some(Ok(library.clone()));
        }
        let path = self.directory.join(name).join(format!("libtritonrepoagent_{name}.so"));
        if !path.is_file() {
            return None;
        }
        Some(Library::open(&path).map(|library| {
            let library = Arc::new(library);
            open.insert(name.to_owned(), library.clone());
            library as Arc<dyn AgentLibrary>
        }))
    }
}

impl Library {
    #[allow(unsafe_code)]
    fn open(path: &Path) -> Result<Self> {
        let library = open(path)?;
        let model_action = required(library, c"TRITONREPOAGENT_ModelAction", path)?;
        let agent = Handle::new(Agent::default());
        let mut opened = Self {
            agent,
            model_initialize: function(library, c"TRITONREPOAGENT_ModelInitialize"),
            model_finalize: function(library, c"TRITONREPOAGENT_ModelFinalize"),
            model_action,
            finalize: None,
        };
        if let Some(initialize) = function::<WithAgent>(library, c"TRITONREPOAGENT_Initialize") {
            // SAFETY: the type is that of the header, and the handle is good during the call.
            result_of(unsafe { initialize(agent) })?;
        }
        opened.finalize = function(library, c"TRITONREPOAGENT_Finalize"); // what did not begin does not end
        Ok(opened)
    }
}

impl AgentLibrary for Library {
    #[allow(unsafe_code)]
    fn begin(self: Arc<Self>, task: AgentTask) -> Result<Box<dyn AgentModel>> {
        let object = Arc::new(Model {
            state: AtomicPtr::new(ptr::null_mut()),
            parameters: task.parameters.iter().map(|(name, value)| (text(name), text(value))).collect(),
            config: task.config,
            place: Mutex::new(Place {
                now: text(&task.location.to_string_lossy()),
                is_loading: false,
                acquired: Vec::new(),
            }),
        });
        let model = Handle::of(object.clone());
        let begun = match self.model_initialize {
            // SAFETY: the type is that of the header, and both handles are good during the call.
            Some(initialize) => result_of(unsafe { initialize(self.agent, model) }),
            None => Ok(()),
        };
        if let Err(error) = begun {
            let _ = model.take(); // what did not begin does not end
            return Err(error);
        }
        Ok(Box::new(Lifecycle { library: self, model, object }))
    }
}

impl AgentModel for Lifecycle {
    #[allow(unsafe_code)]
    fn act(&self, action: Action) -> Result<PathBuf> {
        let number = match action {
            Action::Load => 0,
            Action::LoadComplete => 1,
            Action::LoadFail => 2,
            Action::Unload => 3,
            Action::UnloadComplete => 4,
        };
        self.object.place.lock().is_loading = action == Action::Load;
        // SAFETY: the type is that of the header, and both handles are good during the call.
        let result = result_of(unsafe { (self.library.model_action)(self.library.agent, self.model, number) });
        let mut place = self.object.place.lock();
        place.is_loading = false;
        result.map(|()| PathBuf::from(place.now.to_string_lossy().into_owned()))
    }
}

impl Drop for Lifecycle {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if let Some(finalize) = self.library.model_finalize {
            // SAFETY: the type is that of the header, and both handles are good during the call.
            if let Err(error) = result_of(unsafe { finalize(self.library.agent, self.model) }) {
                tracing::error!("a repository agent did not end its work on a model: {error}");
            }
        }
        let _ = self.model.take(); // it was given here
    }
}

impl Drop for Library {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if let Some(finalize) = self.finalize {
            // SAFETY: the type is that of the header, and the handle is good during the call.
            if let Err(error) = result_of(unsafe { finalize(self.agent) }) {
                tracing::error!("a repository agent did not end: {error}");
            }
        }
        let _ = self.agent.take(); // it was given here
    }
}

exports! {
    /// The version of the interface.
    fn TRITONREPOAGENT_ApiVersion(major: Out<u32>, minor: Out<u32>) {
        major.set(API_VERSION.0)?;
        minor.set(API_VERSION.1)
    }

    /// Where the model's files lie now.
    fn TRITONREPOAGENT_ModelRepositoryLocation(
        agent: Handle<Agent>,
        model: Handle<Model>,
        artifact_type: Out<u32>,
        location: Out<Text>,
    ) {
        agent.get()?;
        artifact_type.set(FILESYSTEM)?;
        location.set(Text::of(&model.get()?.place.lock().now))
    }

    /// An empty folder for files that the library makes; it goes with the model.
    fn TRITONREPOAGENT_ModelRepositoryLocationAcquire(
        agent: Handle<Agent>,
        model: Handle<Model>,
        artifact_type: u32,
        location: Out<Text>,
    ) {
        agent.get()?;
        only_files(artifact_type)?;
        let folder = tempfile::tempdir()
            .map_err(|error| Error::internal(format!("Failed to create mutable location: {error}")))?;
        let (model, path) = (model.get()?, text(&folder.path().to_string_lossy()));
        location.set(Text::of(&path))?; // the text stays where it is when its owner moves
        model.place.lock().acquired.push((path, folder));
        Ok(())
    }

    /// Gives such a folder back, with what is in it.
    fn TRITONREPOAGENT_ModelRepositoryLocationRelease(agent: Handle<Agent>, model: Handle<Model>, location: Text) {
        agent.get()?;
        let (model, path) = (model.get()?, text(&location.get()?));
        let acquired = &mut model.place.lock().acquired;
        let place = acquired.iter().position(|(known, _)| *known == path);
        let place = place.ok_or_else(|| {
            Error::not_found(format!("location '{}' was not acquired, or was released before", path.to_string_lossy()))
        })?;
        acquired.swap_remove(place);
        Ok(())
    }

    /// Says that the model is loaded from that folder instead.
    fn TRITONREPOAGENT_ModelRepositoryUpdate(
        agent: Handle<Agent>,
        model: Handle<Model>,
        artifact_type: u32,
        location: Text,
    ) {
        agent.get()?;
        only_files(artifact_type)?;
        let (model, path) = (model.get()?, text(&location.get()?));
        let mut place = model.place.lock();
        if !place.is_loading {
            let text = "location can only be updated during TRITONREPOAGENT_ACTION_LOAD";
            return Err(Error::invalid_argument(text));
        }
        place.now = path;
        Ok(())
    }

    /// How many parameters the configuration gives the agent.
    fn TRITONREPOAGENT_ModelParameterCount(agent: Handle<Agent>, model: Handle<Model>, count: Out<u32>) {
        agent.get()?;
        count.set(u32::try_from(model.get()?.parameters.len()).unwrap_or(u32::MAX))
    }

    /// One of them.
    fn TRITONREPOAGENT_ModelParameter(
        agent: Handle<Agent>,
        model: Handle<Model>,
        index: u32,
        name: Out<Text>,
        value: Out<Text>,
    ) {
        agent.get()?;
        let model = model.get()?;
        let count = model.parameters.len();
        let (its_name, its_value) = model.parameters.get(index as usize).ok_or_else(|| {
            Error::invalid_argument(format!("index out of range for model parameters: {index} of {count}"))
        })?;
        name.set(Text::of(its_name))?;
        value.set(Text::of(its_value))
    }

    /// The configuration as JSON, or null; the caller deletes the message.
    fn TRITONREPOAGENT_ModelConfig(
        agent: Handle<Agent>,
        model: Handle<Model>,
        version: u32,
        config: Out<Handle<Message>>,
    ) {
        agent.get()?;
        if version != 1 {
            return Err(Error::invalid_argument(format!("model configuration version {version} not supported, supported versions are: 1")));
        }
        let message = model.get()?.config.as_deref().map(Message::of);
        config.set(message.map_or(Handle::NULL, Handle::new))
    }

    /// What [`TRITONREPOAGENT_ModelSetState`] was given.
    fn TRITONREPOAGENT_ModelState(model: Handle<Model>, state: Out<*mut c_void>) {
        state.set(model.get()?.state.load(Ordering::Acquire))
    }

    /// Keeps an address for the library.
    fn TRITONREPOAGENT_ModelSetState(model: Handle<Model>, state: *mut c_void) {
        model.get()?.state.store(state, Ordering::Release);
        Ok(())
    }

    /// What [`TRITONREPOAGENT_SetState`] was given.
    fn TRITONREPOAGENT_State(agent: Handle<Agent>, state: Out<*mut c_void>) {
        state.set(agent.get()?.state.load(Ordering::Acquire))
    }

    /// Keeps an address for the library.
    fn TRITONREPOAGENT_SetState(agent: Handle<Agent>, state: *mut c_void) {
        agent.get()?.state.store(state, Ordering::Release);
        Ok(())
    }
}

fn only_files(artifact_type: u32) -> Result<()> {
    if artifact_type == FILESYSTEM {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "models are loaded from files on this machine, and not from artifact type {artifact_type}"
    )))
}
