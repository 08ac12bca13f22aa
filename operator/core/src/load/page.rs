//! What a metrics page says of load: the text format of Prometheus, of which only the families that matter are kept. Pages of
//! NVIDIA's server, which has fewer of them, are read as well. Knows no time.

use std::collections::{BTreeMap, BTreeSet};

/// The family that every loaded version has a series of, whatever it is and whatever of its counters are switched off.
const OF_EVERY_VERSION: &str = "nv_inference_request_success";

/// Longest name of a model or version that is kept. Longer ones are no model of ours.
const LONGEST_NAME: usize = 1024;

/// What one look at a metrics page has shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// By model, then version.
    pub(super) series: Vec<Series>,
}

/// What a page says of one version of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// Name of the model.
    pub model: Box<str>,
    /// Its version.
    pub version: Box<str>,
    /// Time that requests have waited for execution so far, in microseconds.
    pub waited_us: f64,
    /// Requests that have left the queue.
    pub exits: f64,
    /// Requests that wait now.
    pub pending: f64,
    /// Age of the oldest request that waits, in microseconds; none where the page does not say.
    pub oldest_us: Option<f64>,
    /// Time that instances have spent executing, in microseconds.
    pub executing_us: f64,
    /// Executions so far, where `executing_us` counts an execution once for each of its requests.
    pub executions: Option<f64>,
    /// Instances that may execute at the same time.
    pub instances: f64,
}

/// Why a page is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// It is no text.
    #[error("the metrics page is not UTF-8")]
    NotText,
    /// It is some other page.
    #[error("the page has no metric of an inference server (nv_… or tritonserver_…)")]
    NoMetrics,
    /// One of its lines is malformed.
    #[error("line {0} of the metrics page cannot be read")]
    Malformed(usize),
}

/// A family that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    QueueTime,
    QueueExits,
    OldestAge,
    Busy,
    Instances,
    Pending,
    NvidiaQueueTime,
    NvidiaSuccesses,
    NvidiaExecutions,
    NvidiaCompute,
}

impl Family {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "tritonserver_queue_time_us" => Self::QueueTime,
            "tritonserver_queue_exits" => Self::QueueExits,
            "tritonserver_queue_oldest_age_us" => Self::OldestAge,
            "tritonserver_busy_us" => Self::Busy,
            "tritonserver_instances" => Self::Instances,
            "nv_inference_pending_request_count" => Self::Pending,
            "nv_inference_queue_duration_us" => Self::NvidiaQueueTime,
            "nv_inference_request_success" => Self::NvidiaSuccesses,
            "nv_inference_exec_count" => Self::NvidiaExecutions,
            "nv_inference_compute_input_duration_us"
            | "nv_inference_compute_infer_duration_us"
            | "nv_inference_compute_output_duration_us" => Self::NvidiaCompute,
            _ => return None,
        })
    }
}

/// What is found of one version of a model; one field per family.
#[derive(Debug, Default)]
struct Found {
    queue_time: Option<f64>,
    queue_exits: Option<f64>,
    oldest_age: Option<f64>,
    busy: Option<f64>,
    instances: Option<f64>,
    pending: Option<f64>,
    nvidia_queue_time: Option<f64>,
    nvidia_successes: Option<f64>,
    nvidia_executions: Option<f64>,
    nvidia_compute: Option<f64>,
}

impl Page {
    /// Reads a page.
    ///
    /// Series of one version that differ in further labels (one for each GPU) are added up. Ensembles are left out: what their
    /// members report would count twice. A value that is no number, or below 0, is passed over.
    ///
    /// Errors: [`PageError`], if it is no metrics page of an inference server. Nothing is made of one that is cut off in a line that
    /// matters.
    /// Source: "Exposition formats" of Prometheus, text format 0.0.4; "Metrics" of Triton.
    pub fn read(page: &[u8]) -> Result<Self, PageError> {
        let text = std::str::from_utf8(page).map_err(|_| PageError::NotText)?;
        let mut found = BTreeMap::<(String, String), Found>::new();
        let (mut is_ours, mut is_servers, mut has_pending) = (false, false, false);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_ascii();
            if let Some(comment) = line.strip_prefix('#') {
                let name = comment.trim_ascii_start().strip_prefix("TYPE ").unwrap_or_default();
                is_servers |= is_of_server(name);
                continue;
            }
            let name = &line[..line.find(['{', ' ', '\t']).unwrap_or(line.len())];
            is_servers |= is_of_server(name);
            let Some(family) = Family::named(name) else { continue };
            let malformed = || PageError::Malformed(index + 1);
            let (model, version, value) = sample(&line[name.len()..]).ok_or_else(malformed)?;
            if model.len() > LONGEST_NAME || version.len() > LONGEST_NAME {
                continue;
            }
            is_ours |= family == Family::QueueExits;
            has_pending |= family == Family::Pending;
            found.entry((model, version)).or_default().add(family, value);
        }
        if !is_servers {
            return Err(PageError::NoMetrics);
        }
        let series = found.into_iter().filter_map(|((model, version), found)| match is_ours {
            true => found.into_ours(model, version),
            false => found.into_nvidias(model, version, has_pending),
        });
        Ok(Self { series: series.collect() })
    }

    /// What it says of a version of a model.
    pub(super) fn of(&self, model: &str, version: &str) -> Option<&Series> {
        let place = self.series.binary_search_by(|it| (&*it.model, &*it.version).cmp(&(model, version)));
        self.series.get(place.ok()?)
    }
}

/// The versions that are loaded, by model: those that a page has counters of, ensembles included.
///
/// Errors: as for [`Page::read`].
pub fn loaded_versions(page: &[u8]) -> Result<BTreeMap<String, BTreeSet<i64>>, PageError> {
    let text = std::str::from_utf8(page).map_err(|_| PageError::NotText)?;
    let mut loaded = BTreeMap::<_, BTreeSet<_>>::new();
    let mut is_servers = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_ascii();
        is_servers |= is_of_server(line.strip_prefix("# TYPE ").unwrap_or(line));
        let series = line.strip_prefix(OF_EVERY_VERSION).filter(|rest| rest.starts_with(['{', ' ', '\t']));
        let Some(series) = series else { continue };
        let (model, version, _) = sample(series).ok_or(PageError::Malformed(index + 1))?;
        if let Some(version) = version.parse().ok().filter(|_| model.len() <= LONGEST_NAME) {
            loaded.entry(model).or_default().insert(version);
        }
    }
    if is_servers { Ok(loaded) } else { Err(PageError::NoMetrics) }
}

fn is_of_server(name: &str) -> bool {
    name.starts_with("nv_") || name.starts_with("tritonserver_")
}

impl Found {
    fn add(&mut self, family: Family, value: f64) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        let place = match family {
            Family::QueueTime => &mut self.queue_time,
            Family::QueueExits => &mut self.queue_exits,
            Family::OldestAge => &mut self.oldest_age,
            Family::Busy => &mut self.busy,
            Family::Instances => &mut self.instances,
            Family::Pending => &mut self.pending,
            Family::NvidiaQueueTime => &mut self.nvidia_queue_time,
            Family::NvidiaSuccesses => &mut self.nvidia_successes,
            Family::NvidiaExecutions => &mut self.nvidia_executions,
            Family::NvidiaCompute => &mut self.nvidia_compute,
        };
        let before = place.unwrap_or(0.0);
        *place = Some(if family == Family::OldestAge { before.max(value) } else { before + value });
    }

    fn into_ours(self, model: String, version: String) -> Option<Series> {
        Some(Series {
            model: model.into(),
            version: version.into(),
            waited_us: self.queue_time?,
            exits: self.queue_exits?,
            pending: self.pending.unwrap_or(0.0),
            oldest_us: Some(self.oldest_age.unwrap_or(0.0)),
            executing_us: self.busy.unwrap_or(0.0),
            executions: None,
            instances: self.busy.and(self.instances).unwrap_or(0.0),
        })
    }

    /// How many instances there are is not on such a page: one is assumed, so that a model with more of them is held to be busier
    /// than it is and never the other way round.
    fn into_nvidias(self, model: String, version: String, has_pending: bool) -> Option<Series> {
        if has_pending && self.pending.is_none() {
            return None; // an ensemble: everything else has that gauge
        }
        let is_timed = self.nvidia_compute.is_some() && self.nvidia_executions.is_some();
        Some(Series {
            model: model.into(),
            version: version.into(),
            waited_us: self.nvidia_queue_time?,
            exits: self.nvidia_successes?,
            pending: self.pending.unwrap_or(0.0),
            oldest_us: None,
            executing_us: self.nvidia_compute.unwrap_or(0.0),
            executions: self.nvidia_executions,
            instances: f64::from(u8::from(is_timed)),
        })
    }
}

/// Model, version and value of a line behind its name.
fn sample(rest: &str) -> Option<(String, String, f64)> {
    let (mut model, mut version) = (String::new(), String::new());
    let mut rest = rest.trim_ascii_start();
    if let Some(labels) = rest.strip_prefix('{') {
        rest = labels.trim_ascii_start();
        while !rest.starts_with('}') {
            let (name, after) = rest.split_once('=')?;
            let (value, after) = quoted(after.trim_ascii_start())?;
            match name.trim_ascii() {
                "model" => model = value,
                "version" => version = value,
                _ => {}
            }
            rest = after.trim_ascii_start();
            rest =
                rest.strip_prefix(',').map(str::trim_ascii_start).or_else(|| rest.starts_with('}').then_some(rest))?;
        }
        rest = &rest[1..];
    }
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?; // takes NaN and +Inf as well
    let has_timestamp = words.next().is_none_or(|time| time.parse::<i64>().is_ok());
    (has_timestamp && words.next().is_none() && !model.is_empty()).then_some((model, version, value))
}

/// The text in quotes at the beginning, and what comes behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                letter => letter,
            }),
            letter => value.push(letter),
        }
    }
    None
}
