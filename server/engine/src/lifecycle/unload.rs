//! The way out of service: of one version, of a model, and of all models when the server ends.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use parking_lot::Mutex;
use server_core::tensor::Name;
use tokio::time::{Instant, interval, sleep};

use super::{Lifecycle, take_down};
use crate::{
    background,
    model::LoadedModel,
    registry::{Registry, UNLOADED, Version, VersionState},
};

/// How often the drain of the whole server looks whether the last request has ended.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// How often the log says what the drain waits for.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Threads that take models down when the server stops.
const DRAIN_THREADS: usize = 8;

impl Lifecycle {
    /// Takes every version of a model out of service. Returns at once; requests inside are finished first.
    pub(super) fn unload(&self, name: &str) {
        self.overrides.lock().remove(name);
        self.ensembles.lock().remove(name);
        self.requested.lock().remove(name);
        self.repositories.forget(name);
        if self.registry.entry(name).is_none() {
            return;
        }
        let leaving: Vec<_> = self.registry.update(name, |entry| {
            (entry.failure, entry.lacking) = (None, None);
            // versions that did not load keep their reason, as in Triton
            entry.versions.iter_mut().filter_map(|(&version, held)| Some((version, leave(held)?))).collect()
        });
        for (version, model) in leaving {
            self.finish_in_background(name, version, model);
        }
    }

    /// Waits for the last request of all models, then takes every model down. While any request is inside, every model
    /// serves on, for models ask other models; the engine lets no caller in meanwhile. `true` if all ended within the
    /// limit.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        let models: Vec<(Name, Arc<LoadedModel>)> = self
            .registry
            .entries()
            .into_iter()
            .flat_map(|(name, entry)| {
                let models: Vec<_> = entry.versions.values().filter_map(|version| version.model.clone()).collect();
                models.into_iter().map(move |model| (name.clone(), model))
            })
            .collect();
        let begun = Instant::now();
        let live = Arc::new(Live::of(models.iter().map(|(name, _)| name.clone())));
        let is_complete = tokio::select! {
            biased; // the first report comes before all else
            never = self.report(begun, limit, &live) => match never {},
            is_complete = Self::take_all_down(models, begun + limit, &live) => is_complete,
        };
        if is_complete {
            self.say_what_is_left(begun, limit, &live);
        }
        is_complete
    }

    async fn report(&self, begun: Instant, limit: Duration, live: &Live) -> Infallible {
        let mut due = interval(REPORT_INTERVAL);
        loop {
            due.tick().await;
            self.say_what_is_left(begun, limit, live);
        }
    }

    /// Source: Triton, the line that scripts wait for at its end.
    fn say_what_is_left(&self, begun: Instant, limit: Duration, live: &Live) {
        let seconds = limit.saturating_sub(begun.elapsed()).as_secs_f64().ceil();
        let live = live.count();
        let changes = self.load_locks.lock().values().filter(|lock| Arc::strong_count(lock) > 1).count();
        tracing::info!("Timeout {seconds}: Found {live} live models and {changes} in-flight non-inference requests");
    }

    async fn take_all_down(models: Vec<(Name, Arc<LoadedModel>)>, deadline: Instant, live: &Arc<Live>) -> bool {
        for (_, model) in &models {
            model.runner().stop_waiting();
        }
        while !is_quiet(&models) {
            if Instant::now() >= deadline {
                models.iter().for_each(|(_, model)| take_down::say_unreleased(model));
                return false;
            }
            sleep(DRAIN_INTERVAL).await;
        }
        for (_, model) in &models {
            model.runner().close();
        }
        let mut drains = tokio::task::JoinSet::new();
        for share in shares(models, DRAIN_THREADS) {
            let live = live.clone();
            drains.spawn_blocking(move || {
                for (name, model) in share {
                    model.runner().drain();
                    live.version_gone(&name);
                    tracing::info!("successfully unloaded '{name}' version {}", model.interface.version);
                }
            });
        }
        tokio::time::timeout_at(deadline, async { while drains.join_next().await.is_some() {} }).await.is_ok()
    }

    /// Takes one version out of service in the same way.
    pub(super) fn unload_version(&self, name: &str, version: u64) {
        let model = self.registry.update(name, |entry| leave(entry.versions.get_mut(&version)?));
        if let Some(model) = model {
            self.finish_in_background(name, version, model);
        }
    }

    fn finish_in_background(&self, name: &str, version: u64, model: Arc<LoadedModel>) {
        let registry = self.registry.clone();
        let owned: Name = name.into();
        in_background(name, move || {
            finish_unload(&registry, &owned, version, &model);
        });
    }
}

/// Models that have not been taken down: how many versions there are of each.
struct Live(Mutex<HashMap<Name, usize>>);

impl Live {
    /// From the name of each version's model.
    fn of(names: impl Iterator<Item = Name>) -> Self {
        let mut versions = HashMap::new();
        names.for_each(|name| *versions.entry(name).or_default() += 1);
        Self(Mutex::new(versions))
    }

    fn version_gone(&self, name: &str) {
        let mut versions = self.0.lock();
        if let Some(count) = versions.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                versions.remove(name);
            }
        }
    }

    fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// Takes a version out of service. Returns what is to be taken down; `None` if it does not serve.
fn leave(held: &mut Version) -> Option<Arc<LoadedModel>> {
    let model = held.model.take()?;
    held.state = VersionState::Unloading;
    held.reason.clear();
    Some(model)
}

/// Whether no request is inside any model. One that is inside may have just asked another model, so the admissions are
/// counted before and after.
fn is_quiet(models: &[(Name, Arc<LoadedModel>)]) -> bool {
    let admitted = || models.iter().map(|(_, model)| model.runner().admitted()).sum::<u64>();
    let before = admitted();
    models.iter().all(|(_, model)| model.runner().in_flight() == 0) && admitted() == before
}

/// Deals the items out into at most `count` shares.
fn shares<T>(items: Vec<T>, count: usize) -> Vec<Vec<T>> {
    let mut shares: Vec<Vec<T>> = (0..count.min(items.len())).map(|_| Vec::new()).collect();
    for (index, item) in items.into_iter().enumerate() {
        shares[index % count].push(item);
    }
    shares
}

fn finish_unload(registry: &Registry, name: &str, version: u64, model: &Arc<LoadedModel>) {
    take_down::take_down(model);
    registry.update(name, |entry| {
        // A load may have brought the version back meanwhile: that state stands.
        if let Some(held) = entry.versions.get_mut(&version)
            && held.state == VersionState::Unloading
        {
            *held = Version::unavailable(UNLOADED.into());
        }
    });
    tracing::info!("successfully unloaded '{name}' version {version}");
}

/// Runs something that blocks until a model is drained, on a thread of its own.
pub(super) fn in_background(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = background::in_background(work) {
        tracing::error!(%error, "cannot start a thread to unload '{name}'; it goes when its last request does");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_live_until_its_last_version_is_gone() {
        let live = Live::of(["a", "b", "a"].into_iter().map(Name::from));
        assert_eq!(live.count(), 2);
        live.version_gone("a");
        live.version_gone("b");
        assert_eq!(live.count(), 1);
        live.version_gone("a");
        assert_eq!(live.count(), 0);
    }
}
