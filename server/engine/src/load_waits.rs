//! Models that have models loaded and unloaded: who waits for the load of whom, so that no two wait for each other for ever.
//! A model may have others loaded while it is loaded itself, and those may do the same.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use server_core::error::{Error, Result};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Most loads and unloads under way that models have asked for. Each may hold a thread, and loads behind each other wait.
const MOST_ASKED_FOR: usize = 64;

/// Loads and unloads under way that models have asked for.
pub(crate) struct LoadWaits {
    /// Who waits for the load or unload of whom.
    waits: Mutex<Vec<(String, String)>>,
    permits: Arc<Semaphore>,
}

impl Default for LoadWaits {
    fn default() -> Self {
        Self { waits: Mutex::default(), permits: Arc::new(Semaphore::new(MOST_ASKED_FOR)) }
    }
}

/// The lock on a model's load, and the mark of who waits for it.
pub(crate) struct Locked<'a> {
    _guard: OwnedMutexGuard<()>,
    _wait: Option<Wait<'a>>,
}

struct Wait<'a> {
    waits: &'a LoadWaits,
    asked_by: String,
    name: String,
}

impl LoadWaits {
    /// Takes one of the places of loads and unloads that models ask for.
    ///
    /// Errors: `Unavailable` if all are taken.
    pub(crate) fn permit(&self, asked_by: &str, name: &str) -> Result<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().map_err(|_| {
            Error::unavailable(format!(
                "model '{asked_by}' cannot have model '{name}' loaded or unloaded: {MOST_ASKED_FOR} loads and unloads that \
                 models asked for are under way, and no more may be; try again when they have ended"
            ))
        })
    }

    /// Takes the lock on the load of a model, for a model that asked for it or for a client.
    ///
    /// Errors: `Internal` in Triton's words if the lock is taken by somebody who waits for the model that asks.
    pub(crate) async fn lock(
        &self,
        asked_by: Option<&str>,
        name: &str,
        lock: Arc<tokio::sync::Mutex<()>>,
    ) -> Result<Locked<'_>> {
        let Some(asked_by) = asked_by else { return Ok(Locked { _guard: lock.lock_owned().await, _wait: None }) };
        match lock.clone().try_lock_owned() {
            Ok(guard) => Ok(Locked { _guard: guard, _wait: Some(self.note(asked_by, name)) }),
            Err(_) => {
                let wait = self.begin(asked_by, name)?;
                Ok(Locked { _guard: lock.lock_owned().await, _wait: Some(wait) })
            }
        }
    }

    /// Takes the lock on the load of a model, for a client, if nobody has it.
    pub(crate) fn try_lock(&self, lock: Arc<tokio::sync::Mutex<()>>) -> Option<Locked<'_>> {
        lock.try_lock_owned().ok().map(|guard| Locked { _guard: guard, _wait: None })
    }

    /// Notes a wait. Errors: it would never end.
    fn begin(&self, asked_by: &str, name: &str) -> Result<Wait<'_>> {
        let mut waits = self.waits.lock();
        if leads_to(&waits, name, asked_by) {
            return Err(Error::internal(format!(
                "a related model '{name}' to a load/unload request is currently loading or unloading"
            )));
        }
        waits.push((asked_by.to_owned(), name.to_owned()));
        Ok(Wait { waits: self, asked_by: asked_by.to_owned(), name: name.to_owned() })
    }

    /// Notes that the load of a model that nobody else loads is waited for: its own requests may come back here.
    fn note(&self, asked_by: &str, name: &str) -> Wait<'_> {
        self.waits.lock().push((asked_by.to_owned(), name.to_owned()));
        Wait { waits: self, asked_by: asked_by.to_owned(), name: name.to_owned() }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut waits = self.waits.waits.lock();
        let own = waits.iter().position(|(asked_by, name)| *asked_by == self.asked_by && *name == self.name);
        if let Some(own) = own {
            waits.swap_remove(own);
        }
    }
}

/// Whether `from` waits for `to`, directly or through others, or is it.
fn leads_to(waits: &[(String, String)], from: &str, to: &str) -> bool {
    let (mut open, mut seen) = (vec![from], BTreeSet::new());
    while let Some(model) = open.pop() {
        if model == to {
            return true;
        }
        if seen.insert(model) {
            open.extend(waits.iter().filter(|(asked_by, _)| asked_by == model).map(|(_, name)| name.as_str()));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_leads_back_is_refused_and_no_other() {
        let waits = LoadWaits::default();
        let ab = waits.begin("a", "b").unwrap();
        let _bc = waits.begin("b", "c").unwrap();
        let error = waits.begin("c", "a").map(drop).unwrap_err();
        assert_eq!(error.message, "a related model 'a' to a load/unload request is currently loading or unloading");
        assert!(waits.begin("d", "d").is_err(), "a model that waits for itself");
        assert!(waits.begin("d", "a").is_ok() && waits.begin("a", "c").is_ok());
        drop(ab);
        assert!(waits.begin("c", "a").is_ok(), "nobody waits for 'b' any more");
    }

    #[test]
    fn only_so_many_are_under_way() {
        let waits = LoadWaits::default();
        let held: Vec<_> = (0..MOST_ASKED_FOR).map(|_| waits.permit("a", "b").unwrap()).collect();
        let error = waits.permit("a", "b").map(drop).unwrap_err();
        assert!(error.message.starts_with("model 'a' cannot have model 'b' loaded or unloaded: 64 loads"), "{error}");
        drop(held);
        assert!(waits.permit("a", "b").is_ok());
    }
}
