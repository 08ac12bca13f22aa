//! Which models fit: GPU memory of a replica, and the bytes a manifest may have. Higher priorities come first. Among models of
//! one priority what the last manifest has comes before what is new, be that a newcomer or what a model wants beyond what it has:
//! nothing gives way but to a higher priority. One that does not fit is passed over, the next may still. What has a place keeps it by
//! what models claim; a newcomer also finds taken what others were measured to take beyond that.

use crds::{TritonServer, parts::ByteCount};

use super::candidate::{Candidate, Former};
use crate::{ManifestModel, ObjectRef, Problem, Reason, canonical, defaults, manifest::ManifestSource};

/// Most bytes the models of a manifest may take as JSON. A ConfigMap holds 1 MiB, of which names and labels take a little.
pub const MANIFEST_MAX: usize = 1_000_000;
/// Most models that are named for their higher priority.
const NAMED_MAX: usize = 3;

/// GPU memory of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// What models may claim.
    pub budget: ByteCount,
    /// What the placed ones claim.
    pub requested: ByteCount,
}

/// Which models fit and which do not.
pub(super) struct Admitted {
    pub(super) models: Vec<ManifestModel>,
    /// Those for which there is no room.
    pub(super) refused: Vec<Problem>,
    /// Those that go on as the last manifest has them: for what they ask for now there is no room.
    pub(super) kept: Vec<Problem>,
    pub(super) gpu_memory: Option<GpuMemory>,
}

/// Admits `candidates`, best rank first. A ConfigMap for which the manifest has no room is mounted where `may_mount` says so.
pub(super) fn admit(server: &TritonServer, candidates: &[Candidate], may_mount: impl Fn(&str) -> bool) -> Admitted {
    let budget = server.spec.gpu.as_ref().and_then(defaults::gpu_memory_budget);
    let mut room = Room { server, may_mount, budget, requested: 0, beyond: 0, bytes: 0, taken: vec![] };
    let (mut refused, mut kept) = (vec![], vec![]);
    for peers in candidates.chunk_by(|one, other| one.priority() == other.priority()) {
        let mut places: Vec<Option<Place>> =
            peers.iter().map(|candidate| room.take(candidate, candidate.undisputed()?).ok()).collect();
        for (candidate, place) in peers.iter().zip(&mut places) {
            if place.as_ref().is_some_and(|place| place.is_final) {
                continue;
            }
            let former = place.take();
            if let Some(former) = &former {
                room.give_back(former);
            }
            *place = match (room.take(candidate, &candidate.entry), former) {
                (Ok(new), _) => Some(new),
                (Err(problem), Some(former)) => {
                    kept.push(*problem);
                    room.put_back(&former);
                    Some(former)
                }
                (Err(problem), None) => {
                    refused.push(*problem);
                    None
                }
            };
        }
        let taken = peers.iter().zip(places).filter_map(|(candidate, place)| Some((&candidate.object, place?)));
        room.taken.extend(taken);
    }
    let gpu_memory = budget.map(|budget| GpuMemory { budget, requested: ByteCount(room.requested) });
    Admitted { models: room.taken.into_iter().map(|(_, place)| place.entry).collect(), refused, kept, gpu_memory }
}

impl Candidate {
    /// What nobody of the same priority takes from it: what it asks for, if that is no more than the last manifest gives it; else
    /// what that gives it.
    fn undisputed(&self) -> Option<&ManifestModel> {
        let former = match &self.former {
            Former::None => return None,
            Former::Same => return Some(&self.entry),
            Former::Other(former) => former,
        };
        let is_no_more = gpu_memory(&self.entry) <= gpu_memory(former) && size_of(&self.entry) <= size_of(former);
        Some(if is_no_more { &self.entry } else { former })
    }
}

/// What is left of a manifest and of the GPU memory of a replica.
struct Room<'a, F> {
    server: &'a TritonServer,
    may_mount: F,
    budget: Option<ByteCount>,
    requested: u64,
    /// What models were measured to take beyond what they claim.
    beyond: u64,
    bytes: usize,
    /// Places of models of higher priority.
    taken: Vec<(&'a ObjectRef, Place)>,
}

/// An entry that has its room.
struct Place {
    entry: ManifestModel,
    bytes: usize,
    beyond: u64,
    /// It is what the model asks for.
    is_final: bool,
}

impl<F: Fn(&str) -> bool> Room<'_, F> {
    /// Takes the room that `entry` needs, for `candidate`.
    fn take(&mut self, candidate: &Candidate, entry: &ManifestModel) -> Result<Place, Box<Problem>> {
        let object = candidate.object.clone();
        let is_final = std::ptr::eq(entry, &candidate.entry);
        let server = self.server.metadata.name.as_deref().unwrap_or_default();
        let wanted = gpu_memory(entry);
        let beyond = if matches!(candidate.former, Former::None) { self.beyond } else { 0 };
        let free = self.budget.map(|budget| budget.0.saturating_sub(self.requested).saturating_sub(beyond));
        if let (Some(budget), Some(free)) = (self.budget, free.filter(|free| wanted > *free)) {
            let total = self.server.spec.gpu.as_ref().and_then(|gpu| gpu.memory_per_replica).unwrap_or_default();
            let message = format!(
                "needs {} of GPU memory, but {} of {} are free{} on TritonServer {server} ({} less the reserve{}): lower gpuMemory, \
                 remove a model or raise spec.gpu.memoryPerReplica of the server",
                ByteCount(wanted).rounded(),
                ByteCount(free).rounded(),
                budget.rounded(),
                if beyond > 0 { ", as measured," } else { "" },
                total.rounded(),
                self.of_higher_priority(|place| gpu_memory(&place.entry) > 0),
            );
            let (reason, path) = (Reason::InsufficientGPUMemory, "spec.gpuMemory".into());
            return Err(Box::new(Problem { object, reason, path, message }));
        }
        let mut entry = entry.clone();
        let mut bytes = size_of(&entry);
        if self.bytes + bytes > MANIFEST_MAX && put_down_keys(&mut entry, &self.may_mount) {
            bytes = size_of(&entry); // pods mount the ConfigMap instead
        }
        if self.bytes + bytes > MANIFEST_MAX {
            let message = format!(
                "takes {bytes} bytes of the manifest of TritonServer {server}, of whose {MANIFEST_MAX} bytes {} are free{}: use a \
                 configMap, pvc or http source, or another server",
                MANIFEST_MAX - self.bytes,
                self.of_higher_priority(|_| true),
            );
            let (reason, path) = (Reason::ManifestTooLarge, "spec.source".into());
            return Err(Box::new(Problem { object, reason, path, message }));
        }
        let beyond = candidate.measured.saturating_sub(wanted);
        let place = Place { is_final, entry, bytes, beyond };
        self.put_back(&place);
        Ok(place)
    }

    fn put_back(&mut self, place: &Place) {
        self.requested = self.requested.saturating_add(gpu_memory(&place.entry));
        self.beyond = self.beyond.saturating_add(place.beyond);
        self.bytes += place.bytes;
    }

    fn give_back(&mut self, place: &Place) {
        self.requested = self.requested.saturating_sub(gpu_memory(&place.entry));
        self.beyond = self.beyond.saturating_sub(place.beyond);
        self.bytes -= place.bytes;
    }

    /// Who has room that a model of lower priority cannot have, to follow on a number.
    fn of_higher_priority(&self, is_counted: impl Fn(&Place) -> bool) -> String {
        let counted = self.taken.iter().filter(|(_, place)| is_counted(place));
        let mut names: Vec<&str> = counted.map(|(object, _)| object.name.as_str()).collect();
        if names.is_empty() {
            return String::new();
        }
        names.sort_unstable();
        let more = names.split_off(names.len().min(NAMED_MAX)).len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!(", after TritonModels of a higher spec.priority: {}{more}", names.join(", "))
    }
}

fn gpu_memory(entry: &ManifestModel) -> u64 {
    entry.gpu_memory.unwrap_or_default().0
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
