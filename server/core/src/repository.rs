//! Decisions about model repositories: what the names in a folder mean, which versions are served, which model names
//! are allowed. Callers pass in what lies in a folder; nothing here reads it.

pub mod agents;
pub mod layout;
pub mod plan;
pub mod version_policy;
pub mod watch;

use crate::error::{Error, Result};

/// Refuses model names that are empty or lead out of their repository.
///
/// Source: Triton model repository extension, load.
pub fn check_model_name(name: &str) -> Result<()> {
    let trimmed = name.trim();
    if trimmed.is_empty() {
        return Err(Error::invalid_argument("Model name cannot be empty. Please enter a valid name to deploy."));
    }
    if trimmed == "." || trimmed == ".." || trimmed.contains(['/', '\0']) {
        return Err(Error::invalid_argument(format!(
            "invalid model name '{name}', model name must not contain path traversal characters"
        )));
    }
    Ok(())
}

/// What a model is called where models of several repositories may have one name: its name behind that of its repository, or
/// alone if that is empty.
///
/// Source: Triton's logs with `--model-namespacing`.
pub fn model_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}::{name}") }
}

#[cfg(test)]
mod tests {
    use super::check_model_name;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["..", ".", "a/b", "../a", "/etc", " .. ", "a\0b"] {
            let expected =
                format!("invalid model name '{name}', model name must not contain path traversal characters");
            assert_eq!(check_model_name(name).unwrap_err().message, expected);
        }
        for name in ["", "  ", "\t"] {
            let expected = "Model name cannot be empty. Please enter a valid name to deploy.";
            assert_eq!(check_model_name(name).unwrap_err().message, expected);
        }
        for name in ["digits", "simple.identity", "..a", "ein modell", "a\\b"] {
            assert_eq!(check_model_name(name), Ok(()));
        }
    }
}
