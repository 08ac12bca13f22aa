//! What is wrong with a command line, and how that is told.
//!
//! Source: texts and their order, recorded of Triton 2.51. Where it says too little, a line of our own follows.

use std::fmt;

use server_core::{latency::SettingError, restriction::ApiGroup};
use server_engine::LocationError;

use super::{getopt::SplitError, refused::Refused};

/// Why a command line is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("'{0}' is not valid UTF-8")]
    NotText(String),
    #[error(transparent)]
    Split(#[from] SplitError),
    #[error("{}", Told(.flag, .text, .refused))]
    Value { flag: &'static str, text: String, refused: Refused },
    #[error("error: creating server: Invalid argument - --model-repository must be specified")]
    NoRepository,
    #[error("--model-repository {0}")]
    Repository(#[from] LocationError),
    #[error("Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.")]
    StartupModels,
    #[error(
        "error: creating server: Invalid argument - Wildcard model name '*' must be the ONLY startup model if specified at all."
    )]
    Wildcard,
    #[error(
        "Bad option: \"--cache-config\".\nNo cache specified. --cache-config option format is <cache \
         name>,<setting>=<value>. Got {0}"
    )]
    NoCacheNamed(String),
    #[error(
        "Bad option: \"--cache-config\".\n--cache-config option format is '<cache name>,<setting>=<value>'. Got {0}"
    )]
    CacheSetting(String),
    #[error("Bad option: \"--metrics-config\".\n--metrics-config option format is <setting>=<value>. Got {0}")]
    MetricsSetting(String),
    #[error(transparent)]
    Latency(#[from] SettingError),
    #[error(
        "Error: Incompatible flags --response-cache-byte-size and --cache-config both provided. Please provide one or the \
         other."
    )]
    TwoCacheFlags,
    #[error(
        "Failed to build Triton option:\nerror: setting host policy: Unsupported - Unsupported host policy setting '{0}' is \
         specified, supported settings are 'numa-node', 'cpu-cores'"
    )]
    HostPolicySetting(String),
    #[error(
        "no endpoint is allowed: at least one of --allow-http, --allow-grpc, --allow-metrics, --allow-sagemaker and \
         --allow-vertex-ai must be true"
    )]
    NoEndpoint,
    #[error(
        "--{0}-use-ssl and --{0}-use-ssl-mutual need the server's certificate and key: give --{0}-server-cert and \
         --{0}-server-key"
    )]
    NoCertificate(&'static str),
    #[error("--{0}-use-ssl-mutual needs the roots of the certificates that clients bring: give --{0}-root-cert")]
    NoRootCertificate(&'static str),
    #[error(
        "Bad option: \"--{flag}\".\nunknown restricted {kind} '{category}'\n--{flag}: got '{category}', expected one of {}",
        ApiGroup::ALL.iter().map(|group| group.name()).collect::<Vec<_>>().join(", ")
    )]
    UnknownCategory { flag: &'static str, kind: &'static str, category: String },
    #[error("Bad option: \"--{flag}\".\nrestricted {kind} '{category}' can not be specified in multiple config groups")]
    RepeatedCategory { flag: &'static str, kind: &'static str, category: String },
    #[error("The server cannot listen to {0} requests and {1} requests at the same address and port {2}:{3}")]
    PortClash(&'static str, &'static str, String, u16),
    #[error("The server cannot listen to {0} requests at port {1}, allowed port range is [{2}, {3}]")]
    UnsafePort(&'static str, u16, u16, u16),
}

/// A flag, the text after it, and why that is no value.
struct Told<'a>(&'a str, &'a str, &'a Refused);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.2.write(self.0, self.1, f)
    }
}
