//! Whether pods and containers have ended, and how.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use crate::termination_message;

/// Whether `pod` is terminating or has ended.
pub fn is_leaving(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed"))
}

/// How a container ended, and its last word, to be put behind its name.
pub(super) fn end(last: &ContainerStateTerminated) -> String {
    let log = last.message.as_deref().unwrap_or_default();
    let (how, why) = match signal(last) {
        Some(signal) => (format!(" was ended by {signal}"), termination_message::error(log)),
        None => {
            let how = last.reason.as_deref().unwrap_or("Error");
            (format!(" ended with {} ({how})", last.exit_code), termination_message::reason(log))
        }
    };
    how + &why.map_or_else(String::new, |why| format!(": {why}"))
}

/// Whether a container has done what it was to do, once.
pub(super) fn has_ended_well(container: &ContainerStatus) -> bool {
    let terminated = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    terminated.is_some_and(|terminated| terminated.exit_code == 0)
}

/// The signal that ended a container's process: its exit code is 128 more than the signal's number, be it that a container runtime or
/// the first process of the container says so of the one below it.
fn signal(last: &ContainerStateTerminated) -> Option<String> {
    signal_name(last.signal.filter(|number| *number > 0).unwrap_or(last.exit_code - 128))
}

/// The name of a signal; none if there is no such signal.
pub fn signal_name(number: i32) -> Option<String> {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        31 => "SIGSYS",
        number if (1..=64).contains(&number) => return Some(format!("signal {number}")),
        _ => return None,
    };
    Some(name.to_owned())
}
