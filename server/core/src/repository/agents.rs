//! Repository agents: what a configuration has done with a model's folder before the model is loaded. One is built in, `checksum`,
//! which compares files with their checksums; others are libraries ([`AgentLibraries`]).

use std::{path::PathBuf, sync::Arc};

use server_proto::inference::{ModelConfig, model_repository_agents::Agent};

use crate::error::{Code, Error, Result};

/// What becomes of a model, in the order in which its agents are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is about to be loaded. Only then may an agent say that its files lie elsewhere.
    Load,
    /// It serves.
    LoadComplete,
    /// It could not be loaded.
    LoadFail,
    /// It is about to be unloaded.
    Unload,
    /// It is gone.
    UnloadComplete,
}

/// Where agent libraries are found.
pub trait AgentLibraries: Send + Sync {
    /// The agent of that name; `None` if there is none.
    ///
    /// Errors: it is there, and cannot be used.
    fn find(&self, name: &str) -> Option<Result<Arc<dyn AgentLibrary>>>;
}

/// An agent.
pub trait AgentLibrary: Send + Sync {
    /// Begins its work on one load of a model, which ends when what is returned is dropped.
    ///
    /// Errors: it does not want to.
    fn begin(self: Arc<Self>, task: AgentTask) -> Result<Box<dyn AgentModel>>;
}

/// What an agent has to know of a model.
#[derive(Debug, Clone)]
pub struct AgentTask {
    /// The model's folder.
    pub location: PathBuf,
    /// The parameters that its configuration gives to the agent, sorted by name.
    pub parameters: Vec<(String, String)>,
    /// Its configuration, as JSON.
    pub config: Option<String>,
}

/// An agent's work on one load of a model.
pub trait AgentModel: Send + Sync {
    /// Tells it what becomes of the model; returns where its files lie now. One call at a time. Blocks.
    ///
    /// Errors: the model must not be loaded; for other actions, nothing depends on it.
    fn act(&self, action: Action) -> Result<PathBuf>;
}

/// A file and the checksum that it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChecksum {
    /// Path inside the model's folder.
    pub file: String,
    /// MD5, in hexadecimal digits.
    pub expected: String,
}

/// The checks that the agent which is built in makes for a configuration, in their order.
///
/// Errors: in Triton's words, a check that cannot be made.
/// Source: Triton's checksum repository agent: parameters `MD5:FILE` with the checksum as value.
pub fn checksums(config: &ModelConfig) -> Result<Vec<FileChecksum>> {
    let mut checks = Vec::new();
    for agent in of(config).filter(|agent| agent.name == CHECKSUM) {
        checks.append(&mut checks_of(agent)?);
    }
    Ok(checks)
}

/// The agents of a configuration, in their order.
pub fn of(config: &ModelConfig) -> impl Iterator<Item = &Agent> {
    config.model_repository_agents.iter().flat_map(|agents| &agents.agents)
}

/// The agent that is built in.
pub const CHECKSUM: &str = "checksum";

/// The error for an agent that there is not; `directory` is where libraries are looked for.
pub fn unknown(name: &str, directory: &str) -> Error {
    Error::invalid_argument(format!(
        "unable to find 'libtritonrepoagent_{name}.so' for repo agent '{name}', searched: {directory}; this server has \
         'checksum' built in"
    ))
}

fn checks_of(agent: &Agent) -> Result<Vec<FileChecksum>> {
    let mut parameters: Vec<_> = agent.parameters.iter().collect();
    parameters.sort();
    let check = |(key, value): (&String, &String)| {
        let (algorithm, file) =
            key.split_once(':').ok_or_else(|| Error::invalid_argument(format!("failed to parse key: {key}")))?;
        if !algorithm.eq_ignore_ascii_case("md5") {
            return Err(Error::new(Code::Unsupported, format!("Unsupported checksum algorithm: {algorithm}")));
        }
        Ok(FileChecksum { file: file.to_owned(), expected: value.clone() })
    };
    parameters.into_iter().map(check).collect()
}

impl FileChecksum {
    /// Errors: the file has another checksum, in Triton's words.
    pub fn compare(&self, actual: &str) -> Result<()> {
        let Self { file, expected } = self;
        if expected.eq_ignore_ascii_case(actual) {
            return Ok(());
        }
        Err(Error::invalid_argument(format!("Mismatched MD5 hash for file {file}, expect: {expected}, got: {actual}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    #[track_caller]
    fn check(agents: &str, expected: &str) {
        let config = from_text(&format!("model_repository_agents {{ {agents} }}")).unwrap();
        let result = match checksums(&config) {
            Ok(checks) => checks.iter().map(|check| format!("{}={} ", check.file, check.expected)).collect(),
            Err(error) => error.to_string(),
        };
        assert_eq!(result, expected);
    }

    #[test]
    fn parameters_of_the_agent_are_files_with_their_checksums() {
        check("", "");
        check("agents { name: 'checksum' }", "");
        check(
            "agents { name: 'checksum' parameters { key: 'MD5:1/model.onnx' value: 'aa' } parameters { key: 'md5:a:b' value: '' } }",
            "1/model.onnx=aa a:b= ",
        );
        check(
            "agents { name: 'checksum' parameters { key: '1/model.onnx' value: 'aa' } }",
            "failed to parse key: 1/model.onnx",
        );
        check(
            "agents { name: 'checksum' parameters { key: 'SHA256:a' value: 'aa' } }",
            "Unsupported checksum algorithm: SHA256",
        );
        check("agents [ { name: 'decrypt' }, { name: 'checksum' parameters { key: 'md5:b' value: 'c' } } ]", "b=c ");
    }

    #[test]
    fn digits_of_a_checksum_may_be_large() {
        let check = FileChecksum { file: "a".into(), expected: "0A".into() };
        assert_eq!(check.compare("0a"), Ok(()));
        assert_eq!(check.compare("0b").unwrap_err().message, "Mismatched MD5 hash for file a, expect: 0A, got: 0b");
    }
}
