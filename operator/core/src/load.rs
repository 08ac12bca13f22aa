//! How loaded a server's pods are: two looks at a pod's metrics page become its queue latency, what waits and how busy its instances
//! are. Pure arithmetic on counters; who asks the pods, and when, is not decided here. Times are told, as spans since an origin of
//! the caller's.

mod page;
mod selection;
mod trigger;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crds::{TritonServerSpec, parts::autoscaling::AutoscalingEngine};

pub use self::{
    page::{Page, PageError, Series, loaded_versions},
    selection::{MODEL_LABEL, Models},
    trigger::{Trigger, TriggerError},
};

/// Span over which counters are compared.
pub const WINDOW: Duration = Duration::from_secs(15);
/// Between two looks at a pod.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// After this time without a new look, nothing is said of a pod.
pub const STALE: Duration = Duration::from_secs(20);

/// Whether the operator has to know the load of such a server: to tell an autoscaler, or to see when nobody asks any more.
pub fn is_wanted(server: &TritonServerSpec) -> bool {
    let Some(autoscaling) = &server.autoscaling else { return false };
    let is_told = match autoscaling.engine.unwrap_or_default() {
        AutoscalingEngine::Operator => true,
        AutoscalingEngine::PrometheusAdapter => false,
        AutoscalingEngine::Keda => autoscaling.prometheus.is_none(),
    };
    is_told || autoscaling.min_replicas == Some(0)
}

/// A measure of load, of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Mean time requests waited for execution, in microseconds.
    QueueLatency,
    /// Mean number of requests that waited.
    QueuedRequests,
    /// Requests that wait now.
    PendingRequests,
    /// Share of their time that a model's instances spent executing, in percent: the highest of the models.
    Saturation,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 4] = [Self::QueueLatency, Self::QueuedRequests, Self::PendingRequests, Self::Saturation];

    /// Its name, the same in every metrics API.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueLatency => "triton_queue_latency_us",
            Self::QueuedRequests => "triton_queued_requests",
            Self::PendingRequests => "triton_pending_requests",
            Self::Saturation => "triton_saturation_percent",
        }
    }

    /// The metric of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }
}

/// Load of one model of a pod, all of its versions together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ModelLoad {
    /// Requests that left the queue within the window.
    pub exits: f64,
    /// Time that requests waited within the window, in microseconds.
    pub waited_us: f64,
    /// Age of the oldest request that waits now, in microseconds; 0 if none does.
    pub oldest_us: f64,
    /// Requests that wait now.
    pub pending: f64,
    /// Busiest version: share of the time of its instances, in percent. None where its page does not say.
    pub saturation_percent: Option<f64>,
}

/// Load of one pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodLoad {
    /// When it was last looked at.
    pub at: Duration,
    /// Time between the looks that were compared.
    pub window: Duration,
    /// Requests that have arrived so far: those that left the queue and those in it.
    pub requests: u64,
    /// By model.
    pub models: BTreeMap<String, ModelLoad>,
}

impl PodLoad {
    /// One measure over those models that are selected. A pod without models has no load, so 0. None if the pod has none of the
    /// models that are selected, or its page does not have what is needed.
    pub fn value(&self, metric: Metric, models: &Models) -> Option<f64> {
        if self.models.is_empty() && models.are_all() {
            return Some(0.0);
        }
        let selected = || self.models.iter().filter(|(name, _)| models.select(name)).map(|(_, load)| load);
        selected().next()?;
        match metric {
            Metric::QueueLatency => Some(queue_latency(selected())),
            Metric::QueuedRequests => {
                let waited: f64 = selected().map(|load| load.waited_us).sum();
                Some(waited / micros(self.window))
            }
            Metric::PendingRequests => Some(selected().map(|load| load.pending).sum()),
            Metric::Saturation => selected().filter_map(|load| load.saturation_percent).reduce(f64::max),
        }
    }
}

/// Mean over models, each weighted by the requests it speaks for: those that left its queue, or, if none did, those that wait in it,
/// as old as the oldest of them.
fn queue_latency<'a>(models: impl Iterator<Item = &'a ModelLoad>) -> f64 {
    let (time, requests) = models.fold((0.0, 0.0), |(time, requests), load| match load.exits > 0.0 {
        true => (time + load.waited_us, requests + load.exits),
        false if load.oldest_us > 0.0 => {
            let waiting = load.pending.max(1.0);
            (time + load.oldest_us * waiting, requests + waiting)
        }
        false => (time, requests),
    });
    if requests > 0.0 { time / requests } else { 0.0 }
}

/// Load of a server: what is known of its pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerLoad {
    /// Of each pod that is ready and was looked at twice, by name. Pods of which nothing is known are absent.
    pub pods: BTreeMap<String, PodLoad>,
    /// Why nothing is known of the other ready pods, by name.
    pub silent: BTreeMap<String, String>,
    /// Further pods that are not ready, and so not asked for anything.
    pub unready: usize,
    /// Since when no request has arrived and none was worked on; none while there are some, or while a ready pod says nothing.
    pub idle_since: Option<Duration>,
}

impl ServerLoad {
    /// Mean time that requests of all pods waited, in microseconds; none if no pod has one of the models that are selected.
    pub fn queue_latency(&self, models: &Models) -> Option<f64> {
        let loads = || self.pods.values().flat_map(|pod| &pod.models).filter(|(name, _)| models.select(name));
        let is_known = loads().next().is_some() || (models.are_all() && !self.pods.is_empty());
        is_known.then(|| queue_latency(loads().map(|(_, load)| load)))
    }

    /// One measure of each pod that says it.
    pub fn values(&self, metric: Metric, models: &Models) -> BTreeMap<&str, f64> {
        self.pods.iter().filter_map(|(name, pod)| Some((name.as_str(), pod.value(metric, models)?))).collect()
    }
}

/// Looks at one pod: as many as the window needs.
#[derive(Debug, Default)]
pub struct Window {
    looks: VecDeque<(Duration, Page)>,
    requests: u64,
}

impl Window {
    /// Takes a look in. Whether the pod was at work since the one before, or at any time if there was none.
    pub fn push(&mut self, at: Duration, page: Page) -> bool {
        let is_waiting = page.series.iter().any(|series| series.pending > 0.0 || series.oldest_us.unwrap_or(0.0) > 0.0);
        let before = self.looks.back().map(|(_, page)| page);
        // the first look says how many there were in all; so does that of a series that is new
        let gained = page.series.iter().map(|series| match before {
            Some(before) if before.of(&series.model, &series.version).is_some() => increase(before, series),
            _ => increase_from(&Series::default(), series),
        });
        let (left, worked) = gained.fold((0.0, false), |(left, worked), it| (left + it.exits, worked || it.is_busy()));
        self.requests = self.requests.saturating_add(whole(left));
        if self.looks.back().is_none_or(|(before, _)| *before < at) {
            self.looks.push_back((at, page));
        }
        while self.looks.get(1).is_some_and(|(second, _)| at.saturating_sub(*second) >= WINDOW) {
            self.looks.pop_front();
        }
        is_waiting || worked
    }

    /// The pod was not there to be looked at, or is another one: what was seen says nothing of what comes.
    pub fn clear(&mut self) {
        self.looks.clear();
    }

    /// The load at `now`; none before two looks, or if the last one is too old.
    pub fn load(&self, now: Duration) -> Option<PodLoad> {
        let ((first, _), (last, page)) = (self.looks.front()?, self.looks.back()?);
        let window = last.saturating_sub(*first);
        if window.is_zero() || now.saturating_sub(*last) > STALE {
            return None;
        }
        let mut models = BTreeMap::<String, ModelLoad>::new();
        for series in &page.series {
            let load = models.entry(series.model.to_string()).or_default();
            let moved = self.moved(series);
            load.exits += moved.exits;
            load.waited_us += moved.waited_us;
            load.pending += series.pending;
            let oldest = series.oldest_us.unwrap_or_else(|| micros(self.waits_for(series)));
            load.oldest_us = load.oldest_us.max(oldest);
            let capacity = micros(window) * series.instances;
            if capacity > 0.0 {
                let percent = (100.0 * moved.busy_us() / capacity).clamp(0.0, 100.0);
                load.saturation_percent = Some(load.saturation_percent.unwrap_or(0.0).max(percent));
            }
        }
        let waiting: f64 = page.series.iter().map(|series| series.pending).sum();
        Some(PodLoad { at: *last, window, requests: self.requests.saturating_add(whole(waiting)), models })
    }

    /// What the counters of a model version have gained within the window.
    fn moved(&self, series: &Series) -> Increase {
        let looks = self.looks.iter().map(|(_, page)| page);
        let pairs = looks.clone().zip(looks.skip(1));
        pairs.fold(Increase::default(), |sum, (before, after)| match after.of(&series.model, &series.version) {
            Some(series) => sum.and(increase(before, series)),
            None => sum,
        })
    }

    /// For how long at least something has been waiting, where the page does not say: as long as none has left.
    fn waits_for(&self, series: &Series) -> Duration {
        let last = self.looks.back().map_or(Duration::ZERO, |(at, _)| *at);
        let stood_still = self.looks.iter().rev().take_while(|(_, page)| {
            let before = page.of(&series.model, &series.version);
            before.is_some_and(|before| before.pending > 0.0 && before.exits == series.exits)
        });
        stood_still.last().map_or(Duration::ZERO, |(since, _)| last.saturating_sub(*since))
    }
}

/// What counters have gained.
#[derive(Debug, Clone, Copy, Default)]
struct Increase {
    exits: f64,
    waited_us: f64,
    executing_us: f64,
    /// Executions and the requests in them, where time is counted for each request of an execution.
    batched: Option<(f64, f64)>,
}

impl Increase {
    fn and(self, other: Self) -> Self {
        let batched = match (self.batched, other.batched) {
            (Some((a, b)), Some((c, d))) => Some((a + c, b + d)),
            (one, other) => one.or(other),
        };
        Self {
            exits: self.exits + other.exits,
            waited_us: self.waited_us + other.waited_us,
            executing_us: self.executing_us + other.executing_us,
            batched,
        }
    }

    fn is_busy(&self) -> bool {
        self.exits > 0.0 || self.waited_us > 0.0 || self.executing_us > 0.0
    }

    /// Time that instances were executing, a batch counted once.
    fn busy_us(&self) -> f64 {
        match self.batched {
            Some((executions, requests)) if requests > 0.0 => self.executing_us * (executions / requests).min(1.0),
            _ => self.executing_us,
        }
    }
}

/// What one series has gained since another page. A counter that fell began anew at 0; a series that was not there has gained
/// nothing: whether it is new or was missing cannot be told.
fn increase(before: &Page, after: &Series) -> Increase {
    before.of(&after.model, &after.version).map_or_else(Increase::default, |before| increase_from(before, after))
}

fn increase_from(before: &Series, after: &Series) -> Increase {
    let gained = |before: f64, after: f64| if after >= before { after - before } else { after };
    Increase {
        exits: gained(before.exits, after.exits),
        waited_us: gained(before.waited_us, after.waited_us),
        executing_us: gained(before.executing_us, after.executing_us),
        batched: match (before.executions, after.executions) {
            (Some(a), Some(b)) => Some((gained(a, b), gained(before.exits, after.exits))),
            _ => None,
        },
    }
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

/// A count as a whole number; what is none is 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, and NaN becomes 0")]
fn whole(count: f64) -> u64 {
    count as u64
}

#[cfg(test)]
mod tests;
