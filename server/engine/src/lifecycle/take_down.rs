//! The end of a version: it serves those who have found it, then whatever waits, and its instances go after the last request.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::model::LoadedModel;

/// How long a model that has left the registry takes requests of those who found it before: they may still be reading
/// their bodies.
const LATE_REQUESTS: Duration = Duration::from_secs(1);
const LATE_REQUESTS_INTERVAL: Duration = Duration::from_millis(1);

/// How often it is looked after that whether requests of ensembles still need the model.
const HELD_INTERVAL: Duration = Duration::from_millis(10);

/// How long an unload waits for requests before the log says so; then twice as long each time.
const UNRELEASED_PATIENCE: Duration = Duration::from_secs(10);

/// Serves those who have found the model already, for a while, then whatever waits, and takes the instances down.
pub(super) fn take_down(model: &Arc<LoadedModel>) {
    model.runner().stop_waiting();
    let deadline = Instant::now() + LATE_REQUESTS;
    while Arc::strong_count(model) > 1 && Instant::now() < deadline {
        thread::sleep(LATE_REQUESTS_INTERVAL);
    }
    while model.is_held() {
        thread::sleep(HELD_INTERVAL);
    }
    model.runner().close();
    await_requests(model);
    model.runner().drain();
}

/// Blocks until the last request is gone, and says who keeps some if that takes long.
fn await_requests(model: &LoadedModel) {
    let begun = Instant::now();
    let (mut interval, mut patience) = (LATE_REQUESTS_INTERVAL, UNRELEASED_PATIENCE);
    while model.runner().in_flight() > 0 {
        if begun.elapsed() >= patience {
            say_unreleased(model);
            patience *= 2;
        }
        thread::sleep(interval);
        interval = (interval * 2).min(HELD_INTERVAL);
    }
}

/// Says that a model is kept by requests, and by whom those are.
pub(super) fn say_unreleased(model: &LoadedModel) {
    let count = model.runner().in_flight();
    if count > 0 {
        let (version, backend) = (model.interface.version, &model.config.backend);
        let of = if backend.is_empty() { String::new() } else { format!(" by its backend '{backend}'") };
        tracing::warn!(
            "model '{}' version {version} cannot be unloaded yet: requests not released{of}: {count}",
            model.key
        );
    }
}
