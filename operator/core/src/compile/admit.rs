//! Which models fit: GPU memory of a replica, and the bytes a manifest may have. Models come in the order of their rank; one
//! that does not fit is passed over, the next may still.

use crds::{TritonServer, parts::ByteCount};

use super::{Candidate, GpuMemory};
use crate::{ManifestModel, Problem, Reason, canonical, defaults, manifest::ManifestSource};

/// Most bytes the models of a manifest may take as JSON. A ConfigMap holds 1 MiB, of which names and labels take a little.
pub const MANIFEST_MAX: usize = 1_000_000;

/// Which models fit and which do not.
pub(super) struct Admitted {
    pub(super) models: Vec<ManifestModel>,
    pub(super) refused: Vec<Problem>,
    pub(super) gpu_memory: Option<GpuMemory>,
}

/// Admits `candidates`, best rank first. A ConfigMap for which the manifest has no room is mounted where `may_mount` says so.
pub(super) fn admit(server: &TritonServer, candidates: Vec<Candidate>, may_mount: impl Fn(&str) -> bool) -> Admitted {
    let server_name = server.metadata.name.as_deref().unwrap_or_default();
    let gpu = server.spec.gpu.as_ref();
    let budget = gpu.and_then(defaults::gpu_memory_budget);
    let total = gpu.and_then(|gpu| gpu.memory_per_replica).unwrap_or_default();
    let mut admitted = Admitted { models: vec![], refused: vec![], gpu_memory: None };
    let mut requested = 0_u64;
    let mut bytes = 0_usize;
    for Candidate { object, mut entry, .. } in candidates {
        let wanted = entry.gpu_memory.unwrap_or_default().0;
        let free = budget.map(|budget| budget.0.saturating_sub(requested));
        if let (Some(budget), Some(free)) = (budget, free.filter(|free| wanted > *free)) {
            admitted.refused.push(Problem {
                object,
                reason: Reason::InsufficientGPUMemory,
                path: "spec.gpuMemory".into(),
                message: format!(
                    "needs {} of GPU memory, but {} of {} are free on TritonServer {server_name} ({} less the \
                     reserve): lower gpuMemory, remove a model or raise spec.gpu.memoryPerReplica of the server",
                    ByteCount(wanted).rounded(),
                    ByteCount(free).rounded(),
                    budget.rounded(),
                    total.rounded(),
                ),
            });
            continue;
        }
        let mut size = size_of(&entry);
        if bytes + size > MANIFEST_MAX && put_down_keys(&mut entry, &may_mount) {
            size = size_of(&entry); // pods mount the ConfigMap instead
        }
        if bytes + size > MANIFEST_MAX {
            admitted.refused.push(Problem {
                object,
                reason: Reason::ManifestTooLarge,
                path: "spec.source".into(),
                message: format!(
                    "takes {size} bytes of the manifest of TritonServer {server_name}, of whose {MANIFEST_MAX} bytes {} are \
                     free: use a configMap, pvc or http source, or another server",
                    MANIFEST_MAX - bytes,
                ),
            });
            continue;
        }
        requested = requested.saturating_add(wanted);
        bytes += size;
        admitted.models.push(entry);
    }
    admitted.gpu_memory = budget.map(|budget| GpuMemory { budget, requested: ByteCount(requested) });
    admitted
}

/// Bytes an entry takes, and the comma after it.
fn size_of(entry: &ManifestModel) -> usize {
    canonical::to_string(entry).len() + 1
}

/// Takes what a ConfigMap holds out of the entry. `false` if there was nothing to take.
fn put_down_keys(entry: &mut ManifestModel, may_mount: impl Fn(&str) -> bool) -> bool {
    match &mut entry.source {
        ManifestSource::ConfigMap { name, keys, .. } if may_mount(name) => keys.take().is_some(),
        _ => false,
    }
}
