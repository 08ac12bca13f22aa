//! Repository agents: what a configuration has done with a model's folder before the model is loaded. There is one, `checksum`,
//! which compares files with their checksums; others are libraries for Triton.

use server_proto::inference::{ModelConfig, model_repository_agents::Agent};

use crate::error::{Code, Error, Result};

/// A file and the checksum that it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChecksum {
    /// Path inside the model's folder.
    pub file: String,
    /// MD5, in hexadecimal digits.
    pub expected: String,
}

/// The checks that the agents of a configuration ask for, in their order. `directory` is where Triton would look for their
/// libraries.
///
/// Errors: in Triton's words, an agent that there is not, or a check that cannot be made.
/// Source: Triton's checksum repository agent: parameters `MD5:FILE` with the checksum as value.
pub fn checksums(config: &ModelConfig, directory: &str) -> Result<Vec<FileChecksum>> {
    let mut checks = Vec::new();
    for agent in config.model_repository_agents.iter().flat_map(|agents| &agents.agents) {
        if agent.name != "checksum" {
            return Err(unknown(&agent.name, directory));
        }
        checks.append(&mut checks_of(agent)?);
    }
    Ok(checks)
}

fn unknown(name: &str, directory: &str) -> Error {
    Error::invalid_argument(format!(
        "unable to find 'libtritonrepoagent_{name}.so' for repo agent '{name}', searched: {directory}; this server has \
         'checksum' built in and loads no others"
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
        let result = match checksums(&config, "/agents") {
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
        check(
            "agents [ { name: 'checksum' }, { name: 'decrypt' } ]",
            "unable to find 'libtritonrepoagent_decrypt.so' for repo agent 'decrypt', searched: /agents; this server has \
             'checksum' built in and loads no others",
        );
    }

    #[test]
    fn digits_of_a_checksum_may_be_large() {
        let check = FileChecksum { file: "a".into(), expected: "0A".into() };
        assert_eq!(check.compare("0a"), Ok(()));
        assert_eq!(check.compare("0b").unwrap_err().message, "Mismatched MD5 hash for file a, expect: 0A, got: 0b");
    }
}
