//! Has repository agents do their work on a model's folder, before the model is loaded from it; agents that are libraries hear
//! also what becomes of the model.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use md5::{Digest, Md5};
use server_core::{
    config::{self, ModelConfig},
    error::{Error, Result},
    repository::agents::{self, Action, AgentLibraries, AgentModel, AgentTask, CHECKSUM},
};

use crate::model_files;

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// What a loaded model keeps of where it came from: files that are there for it alone, and agents that hear when it goes.
#[derive(Default)]
pub(crate) struct Held {
    _folder: Option<Arc<tempfile::TempDir>>,
    /// After the folder, for it is theirs to look at until they have heard.
    agents: LoadAgents,
}

impl Held {
    /// `None` if there is nothing to keep.
    pub(crate) fn of(folder: Option<Arc<tempfile::TempDir>>, agents: LoadAgents) -> Option<Arc<Self>> {
        (folder.is_some() || !agents.models.is_empty()).then(|| Arc::new(Self { _folder: folder, agents }))
    }

    /// The model serves.
    pub(crate) fn loaded(&self) {
        self.agents.is_loaded.store(true, SeqCst);
        self.agents.tell(Action::LoadComplete);
    }
}

/// The agent libraries of one load of a model. They hear of its end when this is dropped.
#[derive(Default)]
pub(crate) struct LoadAgents {
    models: Vec<(String, Box<dyn AgentModel>)>,
    is_loaded: AtomicBool,
}

/// Whether a configuration asks for agents that are not built in.
pub(crate) fn has_libraries(config: &ModelConfig) -> bool {
    agents::of(config).any(|agent| agent.name != CHECKSUM)
}

impl LoadAgents {
    /// Has the agent libraries of a configuration do their work; they say where the model's files lie then. Blocks.
    ///
    /// Errors: an agent that there is not, or that refuses the model.
    pub(crate) fn load(
        config: &ModelConfig,
        model_dir: &Path,
        libraries: Option<&dyn AgentLibraries>,
        directory: &str,
    ) -> Result<(Self, PathBuf)> {
        let (mut loading, mut location) = (Self::default(), model_dir.to_owned());
        for agent in agents::of(config).filter(|agent| agent.name != CHECKSUM) {
            let name = &agent.name;
            let found = libraries.and_then(|libraries| libraries.find(name));
            let library = found.unwrap_or_else(|| Err(agents::unknown(name, directory)))?;
            let mut parameters: Vec<_> =
                agent.parameters.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            parameters.sort();
            let task = AgentTask { location, parameters, config: Some(config::to_json(config).to_string()) };
            let model = library.begin(task)?;
            let moved = model.act(Action::Load);
            loading.models.push((name.clone(), model)); // it hears of the failure as well
            location = moved?;
        }
        Ok((loading, location))
    }

    fn tell(&self, action: Action) {
        let tell = |(name, model): &(String, Box<dyn AgentModel>)| {
            if let Err(error) = model.act(action) {
                tracing::error!("repository agent '{name}' failed at {action:?}: {error}");
            }
        };
        match action {
            Action::Load | Action::Unload => self.models.iter().for_each(tell),
            _ => self.models.iter().rev().for_each(tell), // the last to begin is the first to end
        }
    }
}

impl Drop for LoadAgents {
    fn drop(&mut self) {
        if self.is_loaded.load(SeqCst) {
            self.tell(Action::Unload);
            self.tell(Action::UnloadComplete);
        } else {
            self.tell(Action::LoadFail);
        }
    }
}

/// Runs the agent that is built in, where a configuration asks for it. Blocks while files are read; nothing is kept of them.
///
/// Errors: in Triton's words, a file that is not as it should be.
pub(crate) fn run(config: &ModelConfig, model_dir: &Path) -> Result<()> {
    for check in agents::checksums(config)? {
        // a configuration may come from a client, who must not learn of files elsewhere
        let path = model_dir.join(model_files::inside(&check.file)?);
        let actual = md5(&path).map_err(|error| {
            Error::invalid_argument(format!("failed to open text file for read {}: {error}", check.file))
        })?;
        check.compare(&actual)?;
    }
    Ok(())
}

/// The checksum of a file, in hexadecimal digits. Errors: it is no file, or cannot be read.
fn md5(path: &Path) -> io::Result<String> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let (mut digest, mut file) = (Md5::new(), File::open(path)?);
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => digest.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
