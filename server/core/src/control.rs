//! Control calls: those that change what a server serves, or how. A server with a control socket takes them there, and its
//! front ends on the network refuse them. Which of its calls are of that kind is said by each front end.

use std::sync::Arc;

/// A call that changes what a server serves, or how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlCall {
    /// Loads a model, or loads it anew.
    Load,
    /// Unloads a model.
    Unload,
    /// Asks callers to go elsewhere for a while.
    Drain,
    /// Changes trace settings, of the server or of a model.
    TraceSettings,
    /// Changes log settings.
    LogSettings,
    /// Registers a region of shared memory, system or CUDA.
    RegisterSharedMemory,
    /// Unregisters regions of shared memory, one or all.
    UnregisterSharedMemory,
}

impl ControlCall {
    const fn text(self) -> &'static str {
        match self {
            Self::Load => "loading models",
            Self::Unload => "unloading models",
            Self::Drain => "draining the server",
            Self::TraceSettings => "changing trace settings",
            Self::LogSettings => "changing log settings",
            Self::RegisterSharedMemory => "registering shared memory",
            Self::UnregisterSharedMemory => "unregistering shared memory",
        }
    }
}

/// The socket at which control calls are taken, and nowhere else: `--control-socket` without `--public-control`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateControl {
    /// Its path, as on the command line.
    pub socket: Arc<str>,
}

impl PrivateControl {
    /// What a front end on the network says about a control call.
    pub fn refusal(&self, call: ControlCall) -> String {
        let (call, socket) = (call.text(), &self.socket);
        format!(
            "{call} is not allowed on this port: the server takes such calls at its control socket '{socket}' only. Send them \
             there, or start the server with --public-control=true (of a TritonServer: spec.control: Public)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_call_the_socket_and_the_cure() {
        let control = PrivateControl { socket: "/run/triton/control.sock".into() };
        let expect = "unloading models is not allowed on this port: the server takes such calls at its control socket \
                      '/run/triton/control.sock' only. Send them there, or start the server with --public-control=true \
                      (of a TritonServer: spec.control: Public)";
        assert_eq!(control.refusal(ControlCall::Unload), expect);
    }
}
