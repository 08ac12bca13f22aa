//! How long a worker may take for what it is told to do, and what is said of one that takes longer. Pure.

use std::{fmt, time::Duration};

use server_core::{
    backend::Settings,
    error::{Error, Result},
};

/// The setting that limits everything a worker does.
const SETTING: &str = "stub-timeout-seconds";

/// For a worker to start, as Triton allows its stub by default.
const START: Duration = Duration::from_secs(30);

/// For `finalize`, so that a server that is told to exit has ended all workers before its own limit of 30 seconds.
const FINALIZE: Duration = Duration::from_secs(20);

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The interpreter starts and imports NumPy.
    Start,
    /// It imports the model.
    Import,
    AutoComplete,
    Initialize,
    Execute,
    Finalize,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "its interpreter",
            Self::Import => "the import of the model",
            Self::AutoComplete => "auto_complete_config",
            Self::Initialize => "initialize",
            Self::Execute => "execute",
            Self::Finalize => "finalize",
        })
    }
}

/// The limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TimeLimits {
    /// For each stage, if a setting says so.
    set: Option<Duration>,
}

impl TimeLimits {
    /// `stub-timeout-seconds`: without it only the start and `finalize` are limited.
    ///
    /// Errors: it is no number of seconds above 0.
    /// Source: Triton Python backend, "Python Backend Settings". There it limits the start; executions are an addition.
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let Some(value) = settings.get(SETTING) else { return Ok(Self::default()) };
        let seconds: Option<u32> = value.trim().parse().ok().filter(|seconds| *seconds > 0);
        let seconds = seconds.ok_or_else(|| {
            Error::invalid_argument(format!(
                "--backend-config=python,{SETTING} must be a number of seconds above 0, not '{value}'"
            ))
        })?;
        Ok(Self { set: Some(Duration::from_secs(seconds.into())) })
    }

    /// How long that may take; `None` is as long as it likes.
    pub(super) fn of(&self, stage: Stage) -> Option<Duration> {
        self.set.or(match stage {
            Stage::Start => Some(START),
            Stage::Finalize => Some(FINALIZE),
            Stage::Import | Stage::AutoComplete | Stage::Initialize | Stage::Execute => None,
        })
    }

    /// That took longer than `limit` in the worker of that name.
    pub(super) fn exceeded(&self, name: &str, stage: Stage, limit: Duration) -> Error {
        let what = match stage {
            Stage::Start => "did not start",
            _ => "did not end",
        };
        let limit = limit.as_secs();
        Error::internal(format!(
            "Stub process '{name}' is not healthy. ({stage} {what} within {limit} s and was killed; \
             --backend-config=python,{SETTING} sets the limit)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(value: &str) -> Result<TimeLimits> {
        TimeLimits::new(&Settings::from([(SETTING.into(), value.into())]))
    }

    #[test]
    fn only_the_start_and_the_end_are_limited_unless_a_setting_says_so() {
        let default = TimeLimits::new(&Settings::new()).unwrap();
        assert_eq!(default.of(Stage::Start), Some(START));
        assert_eq!(default.of(Stage::Finalize), Some(FINALIZE));
        assert_eq!(
            [Stage::Import, Stage::AutoComplete, Stage::Initialize, Stage::Execute].map(|s| default.of(s)),
            [None; 4]
        );
        let set = limits("5").unwrap();
        for stage in [Stage::Start, Stage::Import, Stage::Initialize, Stage::Execute, Stage::Finalize] {
            assert_eq!(set.of(stage), Some(Duration::from_secs(5)));
        }
    }

    #[test]
    fn what_took_too_long_is_named_with_its_limit_and_where_it_is_set() {
        let error = limits("3").unwrap().exceeded("m_0_0", Stage::Execute, Duration::from_secs(3));
        assert_eq!(
            error.message,
            "Stub process 'm_0_0' is not healthy. (execute did not end within 3 s and was killed; \
             --backend-config=python,stub-timeout-seconds sets the limit)"
        );
    }

    #[test]
    fn a_limit_is_a_whole_number_of_seconds() {
        for wrong in ["0", "-1", "soon", "1.5", ""] {
            let error = limits(wrong).unwrap_err();
            let expect = format!("must be a number of seconds above 0, not '{wrong}'");
            assert!(error.message.contains(&expect), "{}", error.message);
        }
    }
}
