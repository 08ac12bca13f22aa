//! Functions by which a program has a server in its own process: makes one, sets its options, ends it, changes its repositories. This
//! process is a server already, which its command line rules and not a library: so they refuse, and say what to use instead.

use server_core::error::{Error, Result};

use crate::abi::{Export, Status, status};

/// Declares functions that refuse, whatever they are called with. They have no arguments here: by the C ABI the caller takes those away
/// again, and none is read.
macro_rules! refusing {
    ($($refuse:ident { $($name:ident),+ $(,)? })+) => {
        $($(
            #[allow(non_snake_case)]
            extern "C" fn $name() -> Status {
                status(stringify!($name), || $refuse(stringify!($name)))
            }
        )+)+

        /// The functions of this file, by name.
        pub(crate) const EXPORTS: &[Export] =
            &[$($(Export { name: stringify!($name), address: $name as *const () }),+),+];
    };
}

/// Errors: always.
fn no_other_server(name: &str) -> Result<()> {
    Err(Error::unsupported(format!(
        "{name} is for programs that start a server in their own process: this process is a server, and has no other; give its \
         options on its command line"
    )))
}

/// Errors: always.
fn not_to_end(name: &str) -> Result<()> {
    Err(Error::unsupported(format!(
        "{name} is for the program that started the server: a library cannot end the server that runs it"
    )))
}

/// Errors: always.
fn fixed_repositories(name: &str) -> Result<()> {
    Err(Error::unsupported(format!(
        "{name} is not available: the repositories of this server are those of --model-repository, which it looks through by itself \
         with --model-control-mode=poll; load models with TRITONSERVER_ServerLoadModel"
    )))
}

refusing! {
    no_other_server {
        TRITONSERVER_ServerNew,
        TRITONSERVER_ServerOptionsAddRateLimiterResource,
        TRITONSERVER_ServerOptionsDelete,
        TRITONSERVER_ServerOptionsNew,
        TRITONSERVER_ServerOptionsSetBackendConfig,
        TRITONSERVER_ServerOptionsSetBackendDirectory,
        TRITONSERVER_ServerOptionsSetBufferManagerThreadCount,
        TRITONSERVER_ServerOptionsSetCacheConfig,
        TRITONSERVER_ServerOptionsSetCacheDirectory,
        TRITONSERVER_ServerOptionsSetCpuMetrics,
        TRITONSERVER_ServerOptionsSetCudaMemoryPoolByteSize,
        TRITONSERVER_ServerOptionsSetCudaVirtualAddressSize,
        TRITONSERVER_ServerOptionsSetEnablePeerAccess,
        TRITONSERVER_ServerOptionsSetExitOnError,
        TRITONSERVER_ServerOptionsSetExitTimeout,
        TRITONSERVER_ServerOptionsSetGpuMetrics,
        TRITONSERVER_ServerOptionsSetHostPolicy,
        TRITONSERVER_ServerOptionsSetLogError,
        TRITONSERVER_ServerOptionsSetLogFile,
        TRITONSERVER_ServerOptionsSetLogFormat,
        TRITONSERVER_ServerOptionsSetLogInfo,
        TRITONSERVER_ServerOptionsSetLogVerbose,
        TRITONSERVER_ServerOptionsSetLogWarn,
        TRITONSERVER_ServerOptionsSetMetrics,
        TRITONSERVER_ServerOptionsSetMetricsConfig,
        TRITONSERVER_ServerOptionsSetMetricsInterval,
        TRITONSERVER_ServerOptionsSetMinSupportedComputeCapability,
        TRITONSERVER_ServerOptionsSetModelConfigName,
        TRITONSERVER_ServerOptionsSetModelControlMode,
        TRITONSERVER_ServerOptionsSetModelLoadDeviceLimit,
        TRITONSERVER_ServerOptionsSetModelLoadRetryCount,
        TRITONSERVER_ServerOptionsSetModelLoadThreadCount,
        TRITONSERVER_ServerOptionsSetModelNamespacing,
        TRITONSERVER_ServerOptionsSetModelRepositoryPath,
        TRITONSERVER_ServerOptionsSetPinnedMemoryPoolByteSize,
        TRITONSERVER_ServerOptionsSetRateLimiterMode,
        TRITONSERVER_ServerOptionsSetRepoAgentDirectory,
        TRITONSERVER_ServerOptionsSetResponseCacheByteSize,
        TRITONSERVER_ServerOptionsSetServerId,
        TRITONSERVER_ServerOptionsSetStartupModel,
        TRITONSERVER_ServerOptionsSetStrictModelConfig,
        TRITONSERVER_ServerOptionsSetStrictReadiness,
    }
    not_to_end {
        TRITONSERVER_ServerDelete,
        TRITONSERVER_ServerSetExitTimeout,
        TRITONSERVER_ServerStop,
    }
    fixed_repositories {
        TRITONSERVER_ServerPollModelRepository,
        TRITONSERVER_ServerRegisterModelRepository,
        TRITONSERVER_ServerUnregisterModelRepository,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_cannot_have_a_server_of_its_own() {
        let words = |status: Status| status.take().unwrap().message.to_str().unwrap().to_owned();
        assert!(
            words(TRITONSERVER_ServerNew()).starts_with("TRITONSERVER_ServerNew is for programs that start a server")
        );
        assert!(
            words(TRITONSERVER_ServerStop()).starts_with("TRITONSERVER_ServerStop is for the program that started")
        );
        let poll = words(TRITONSERVER_ServerPollModelRepository());
        assert!(poll.starts_with("TRITONSERVER_ServerPollModelRepository is not available"), "{poll}");
    }
}
