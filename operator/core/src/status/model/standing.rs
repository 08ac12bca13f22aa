//! Where a model stands on one replica.

use crate::{
    replica::{Phase, Replica},
    status::view::View,
};

/// Where a model stands on one replica.
pub(super) enum Standing<'a> {
    /// Serves what is asked for.
    Loaded,
    /// Loaded, in a replica that gets no requests yet.
    Unreached,
    Downloading,
    Loading,
    Pending,
    /// It serves what was proven before, or nothing, until others have tried the content.
    Held,
    /// It serves what is asked for, and its server has yet to show that it lives on with it.
    Settling,
    Failed {
        reason: &'a str,
        message: &'a str,
        will_retry: bool,
    },
    /// The replica cannot be asked.
    Silent,
}

impl Standing<'_> {
    /// As the status has it.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Loaded | Self::Settling => "Loaded",
            Self::Unreached => "Unready",
            Self::Downloading => "Downloading",
            Self::Loading => "Loading",
            Self::Pending => "Pending",
            Self::Held => "Held",
            Self::Failed { will_retry: true, .. } => "Retrying",
            Self::Failed { will_retry: false, .. } => "Failed",
            Self::Silent => "Unknown",
        }
    }
}

pub(super) fn standing<'a>(replica: &'a Replica, name: &str, was_loaded: bool, view: &View<'_>) -> Standing<'a> {
    let Some(report) = &replica.report else { return Standing::Silent };
    let Some(model) = report.models.get(name) else { return Standing::Pending };
    let content = view.contents.get(name);
    if content.is_some_and(|content| !content.is_wanted) {
        return Standing::Pending; // whatever it says is about a content of before
    }
    if !content.is_some_and(|content| model.is_about(&content.hash, report, Some(&view.manifest.hash))) {
        // An older agent speaks of the last manifest. What was loaded of this very generation still is.
        let is_older = model.entry.is_none() && report.adopts.is_none();
        let is_still_loaded = is_older && was_loaded && model.phase == Phase::Ready && replica.is_ready;
        let is_held = content.is_some_and(|content| content.rollout.is_some());
        let is_chosen = content.is_some_and(|content| replica.may_adopt.contains(&content.word));
        return match (is_still_loaded, is_held && !is_chosen) {
            (true, _) => Standing::Loaded,
            (false, true) => Standing::Held,
            (false, false) => Standing::Pending,
        };
    }
    match &model.phase {
        Phase::Ready if replica.is_ready && !model.has_settled() => Standing::Settling,
        Phase::Ready if replica.is_ready => Standing::Loaded,
        Phase::Ready => Standing::Unreached,
        Phase::Downloading => Standing::Downloading,
        Phase::Loading => Standing::Loading,
        Phase::Failed { reason, message, will_retry } => Standing::Failed { reason, message, will_retry: *will_retry },
        Phase::Pending | Phase::Unloading => Standing::Pending,
    }
}
