//! A mistake in the meaning of a configuration, with its path.

use std::fmt;

use crate::error::Error;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, e.g. `instance_group[1].gpus`.
    pub path: String,
    /// What, in Triton's words where Triton has them.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// All problems of a model as the one error a load answers with.
///
/// A single problem keeps Triton's sentence word for word, because clients match on it; several are listed with
/// their paths. `problems` holds at least one.
pub fn problems_error(model: &str, problems: &[Problem]) -> Error {
    match problems {
        [only] => Error::invalid_argument(only.message.clone()),
        _ => {
            let list: Vec<String> = problems.iter().map(Problem::to_string).collect();
            Error::invalid_argument(format!(
                "the configuration of model '{model}' has {} problems: {}",
                problems.len(),
                list.join("; ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Problem, problems_error};

    #[test]
    fn a_single_problem_speaks_for_itself() {
        let problems = [Problem::new("max_batch_size", "'max_batch_size' must be non-negative value for m")];
        assert_eq!(problems_error("m", &problems).message, "'max_batch_size' must be non-negative value for m");
    }

    #[test]
    fn several_problems_are_listed_with_their_paths() {
        let problems = [Problem::new("input[0].dims", "first"), Problem::new("name", "second")];
        assert_eq!(
            problems_error("m", &problems).message,
            "the configuration of model 'm' has 2 problems: input[0].dims: first; name: second"
        );
    }
}
