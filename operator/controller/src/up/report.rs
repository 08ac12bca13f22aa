//! What the user reads: a table of where everything stands, and a line for each thing that happened. Pure: the
//! screen decides where the words go.

use std::collections::BTreeMap;

use operator_core::termination_message;
use triton_agent::{
    State,
    state::{Failure, ModelState, Phase},
};

use super::{
    ports::Ports,
    process::{Event, Status},
};

/// What the user sees of a server.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) title: String,
    pub(crate) ports: Ports,
    pub(crate) status: Status,
    pub(crate) state: State,
    /// What the state should be about; while it is about something older, it is not final.
    pub(crate) manifest_hash: String,
}

/// A line of what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// The table shows it as well.
    pub(crate) is_in_table: bool,
}

/// Remembers what was reported, so that each thing is reported once.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    servers: BTreeMap<String, Reported>,
}

#[derive(Debug, Default)]
struct Reported {
    standing: Standing,
    models: BTreeMap<String, ModelState>,
    /// Failures reported, until the model is ready: each is reported when it first happens and when it is given up.
    failures: BTreeMap<String, Failure>,
}

/// How a server stands as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Standing {
    /// On its way.
    #[default]
    Coming,
    /// Everything serves.
    Ready,
    /// It takes requests, but these models do not serve what they should.
    Partly(Vec<String>),
}

impl Reporter {
    /// What happened since the last time.
    pub(crate) fn changes(&mut self, views: &[View]) -> Vec<Line> {
        let mut lines = Vec::new();
        self.servers.retain(|title, _| views.iter().any(|view| view.title == *title));
        for view in views {
            let reported = self.servers.entry(view.title.clone()).or_default();
            let several = views.len() > 1;
            for (name, model) in &view.state.models {
                if !reported.is_news(name, model) {
                    continue;
                }
                let before = reported.models.get(name);
                let name = if several { format!("{}/{name}", view.title) } else { name.clone() };
                lines.extend(happened(&name, before, model));
            }
            for name in reported.models.keys().filter(|name| !view.state.models.contains_key(*name)) {
                lines.push(Line { text: format!("{name}: gone"), is_in_table: true });
            }
            reported.models.clone_from(&view.state.models);
            let standing = view.standing();
            if standing != reported.standing {
                lines.extend(announce(view, &standing).map(|text| Line { text, is_in_table: false }));
                reported.standing = standing;
            }
        }
        lines
    }
}

impl Reported {
    /// Whether a failure is another one than was reported; anything else may be new.
    fn is_news(&mut self, name: &str, model: &ModelState) -> bool {
        match &model.phase {
            Phase::Failed(failure) => {
                let before = self.failures.insert(name.to_owned(), failure.clone());
                before.is_none_or(|before| {
                    before.message != failure.message || (before.will_retry && !failure.will_retry)
                })
            }
            Phase::Ready => {
                self.failures.remove(name);
                true
            }
            _ => true,
        }
    }
}

impl View {
    fn standing(&self) -> Standing {
        if self.status != Status::Running || self.state.manifest_hash != self.manifest_hash {
            return Standing::Coming;
        }
        if self.state.is_ready() {
            return Standing::Ready;
        }
        let is_decided = self.state.models.values().all(|model| matches!(model.phase, Phase::Ready | Phase::Failed(_)));
        if !self.state.server_is_ready || !is_decided {
            return Standing::Coming;
        }
        let failed = self.state.models.iter().filter(|(_, model)| model.failure().is_some());
        Standing::Partly(failed.map(|(name, _)| name.clone()).collect())
    }

    fn word(&self) -> &'static str {
        match (self.status, self.standing()) {
            (Status::Waiting, _) => "starting",
            (Status::Restarting, _) => "down, will be started again",
            (Status::Stopping, _) => "stopping",
            (Status::Running, Standing::Ready) => "ready",
            (Status::Running, Standing::Partly(_)) => "serving in part",
            (Status::Running, Standing::Coming) if self.state.server_is_ready => "ready, updating",
            (Status::Running, Standing::Coming) => "not ready",
        }
    }
}

/// The table: where everything stands, within so many characters and lines.
pub(crate) fn table(views: &[View], (width, height): (usize, usize)) -> Vec<String> {
    let mut lines = Vec::new();
    for view in views {
        lines.push(format!("{}  {}  {}", view.title, view.word(), view.ports));
        let longest = view.state.models.keys().map(|name| name.chars().count()).max().unwrap_or(0).min(40);
        for (name, model) in &view.state.models {
            lines.push(format!("  {name:longest$}  {}", in_table(model)));
        }
    }
    if lines.len() > height {
        let hidden = lines.len() - height.saturating_sub(1);
        lines.truncate(height.saturating_sub(1));
        lines.push(format!("  … and {hidden} more"));
    }
    lines.into_iter().map(|line| cut(&line, width)).collect()
}

/// What to say of resources that only a cluster needs.
pub(crate) fn not_needed(titles: &[String]) -> Vec<String> {
    if titles.is_empty() {
        return vec![];
    }
    vec![format!("not needed on one machine, ignored: {}", titles.join(", "))]
}

/// An event of a process, as lines.
pub(crate) fn event(title: &str, event: &Event) -> Vec<String> {
    match event {
        Event::Exited { how, last_lines, pause } => {
            let why =
                termination_message::error(&last_lines.join("\n")).map_or_else(String::new, |why| format!(": {why}"));
            let mut lines =
                vec![format!("{title}: the server {how}{why}; it is started again in {} s", pause.as_secs())];
            lines.extend(last_lines.iter().map(|line| format!("{title} | {line}")));
            lines
        }
        Event::NotStarted { why, pause } => {
            vec![format!("{title}: the server cannot be started: {why}; trying again in {} s", pause.as_secs())]
        }
        Event::SettingsChanged => {
            vec![format!("{title}: its settings changed: the server ends what runs and starts again")]
        }
        Event::Killed => vec![format!("{title}: the server did not end in time and was killed")],
    }
}

fn announce(view: &View, standing: &Standing) -> Option<String> {
    match standing {
        Standing::Coming => None,
        Standing::Ready => Some(format!("Ready: {}  ({})", view.ports, view.title)),
        Standing::Partly(failed) => {
            Some(format!("Serving, except what failed ({}): {}  ({})", failed.join(", "), view.ports, view.title))
        }
    }
}

fn happened(name: &str, before: Option<&ModelState>, now: &ModelState) -> Option<Line> {
    let kind = |model: &ModelState| std::mem::discriminant(&model.phase);
    let failure = |model: Option<&ModelState>| model.and_then(ModelState::failure).cloned();
    let is_same = before.is_some_and(|before| kind(before) == kind(now)) && failure(before) == failure(Some(now));
    let text = match &now.phase {
        // a new content of a model that was ready all the time
        Phase::Ready if is_same && before.is_some_and(|before| before.serving == now.serving) => return None,
        Phase::Ready => format!("{name}: ready, {}", ready(now)),
        _ if is_same => return None,
        Phase::Pending => return None,
        Phase::Downloading { .. } => format!("{name}: downloading"),
        Phase::Verifying => return None,
        Phase::Loading => format!("{name}: loading"),
        Phase::Unloading => format!("{name}: unloading"),
        Phase::Failed(failure) => {
            return Some(Line { text: format!("{name}: {}", failed(failure, now)), is_in_table: false });
        }
    };
    Some(Line { text, is_in_table: true })
}

fn in_table(model: &ModelState) -> String {
    let words = match &model.phase {
        Phase::Pending => "waiting".to_owned(),
        Phase::Downloading { bytes, total: Some(total) } if *total > 0 => {
            format!("downloading  {}  {} of {}", bar(*bytes, *total), megabytes(*bytes), megabytes(*total))
        }
        Phase::Downloading { bytes, .. } => format!("downloading  {}", megabytes(*bytes)),
        Phase::Verifying => "verifying".to_owned(),
        Phase::Loading => "loading".to_owned(),
        Phase::Unloading => "unloading".to_owned(),
        Phase::Ready => return format!("ready  {}", ready(model)),
        Phase::Failed(failure) => return failed(failure, model),
    };
    match versions(model) {
        Some(serving) => format!("{words}  ({serving} {} on serving)", go(model)),
        None => words,
    }
}

fn ready(model: &ModelState) -> String {
    let versions = versions(model).unwrap_or_default();
    match model.load_ms {
        Some(ms) => format!("{versions}, loaded in {ms} ms"),
        None => versions,
    }
}

fn failed(failure: &Failure, model: &ModelState) -> String {
    let Failure { reason, message, attempts, will_retry } = failure;
    // Triton ends a list of failed versions with a semicolon
    let mut words = format!("failed, {reason}: {}", message.trim_end_matches([';', ' ', '\n']));
    if let Some(serving) = versions(model) {
        words += &format!("; {serving} {} on serving", go(model));
    }
    if *will_retry {
        let times = if *attempts == 1 { "once".to_owned() } else { format!("{attempts} times") };
        words += &format!("; tried {times} so far, trying again");
    }
    words
}

fn versions(model: &ModelState) -> Option<String> {
    let numbers: Vec<_> = model.versions.iter().map(u64::to_string).collect();
    match numbers.len() {
        0 => None,
        1 => Some(format!("version {}", numbers[0])),
        _ => Some(format!("versions {}", numbers.join(", "))),
    }
}

fn go(model: &ModelState) -> &'static str {
    if model.versions.len() == 1 { "goes" } else { "go" }
}

fn bar(done: u64, total: u64) -> String {
    const WIDTH: u64 = 20;
    let full = usize::try_from((u128::from(done.min(total)) * u128::from(WIDTH)) / u128::from(total)).unwrap_or(0);
    let width = usize::try_from(WIDTH).unwrap_or(0);
    format!("[{}{}]", "#".repeat(full), ".".repeat(width - full))
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

fn cut(line: &str, width: usize) -> String {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= width {
        return line;
    }
    let kept: String = line.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

#[cfg(test)]
mod tests;
