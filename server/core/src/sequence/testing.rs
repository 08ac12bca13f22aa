//! Requests of sequences for tests: numbers that note what they were given.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    SlotRef,
    controls::Position,
    item::SequenceItem,
    settings::{ExtraInputs, Hold, Settings, extra_inputs},
    state::States,
};
use crate::{
    batching::{
        item::Exceptions,
        item::Item,
        policy::{Decision, Policy, Rejection},
        queue::Removal,
    },
    config::{Machine, from_text, normalize},
    error::Error,
    request::{CorrelationId, Sequence},
};

/// A request: its number, its place in its sequence, and what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) name: u32,
    pub(super) sequence: Option<Sequence>,
    pub(super) is_abandoned: bool,
    pub(super) rows: u32,
    pub(super) shape: u32,
    pub(super) in_slot: Option<SlotRef>,
    /// Sequence, and the flags it was run with.
    pub(super) ran_as: Option<(CorrelationId, bool, bool)>,
    pub(super) is_empty_row: bool,
}

/// Request `name` of sequence `id`, with `S` and `E` among `flags` for the first and the last one.
pub(super) fn asked(name: u32, id: u64, flags: &str) -> Asked {
    let id = CorrelationId::Number(id);
    let sequence = Some(Sequence { id, is_start: flags.contains('S'), is_end: flags.contains('E') });
    Asked { name, sequence, is_abandoned: false, rows: 1, shape: 0, in_slot: None, ran_as: None, is_empty_row: false }
}

impl Item for Asked {
    fn rows(&self) -> u32 {
        self.rows
    }

    fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    fn may_share(&self, other: &Self, _exceptions: &Exceptions) -> bool {
        self.shape == other.shape
    }
}

impl SequenceItem for Asked {
    fn sequence(&self) -> Option<&Sequence> {
        self.sequence.as_ref()
    }

    fn request_id(&self) -> &str {
        "r"
    }

    fn enter(&mut self, slot: SlotRef, at: Position<'_>, _states: Option<&Arc<States>>, _extra: &ExtraInputs) {
        assert!(!self.is_empty_row);
        self.in_slot = Some(slot);
        self.ran_as = Some((at.id.clone(), at.is_start, at.is_end));
    }

    fn slot(&self) -> Option<SlotRef> {
        self.in_slot
    }

    fn leave(&mut self) {
        (self.in_slot, self.ran_as) = (None, None);
    }

    fn empty_row(&self, _extra: &ExtraInputs) -> Self {
        Self { is_empty_row: true, in_slot: None, ran_as: None, sequence: None, ..self.clone() }
    }
}

/// The settings of a configuration `max_batch_size: 4` with that `sequence_batching`.
pub(super) fn settings(batching: &str, hold: Hold) -> (Settings, ExtraInputs) {
    let mut config =
        from_text(&format!("name: 'm' max_batch_size: 4 input {{ dims: -1 }} sequence_batching {{ {batching} }}"))
            .unwrap();
    normalize(&mut config, &Machine { gpus: 0 });
    let extra = extra_inputs(&config, |name| Err(Error::internal(name.to_owned()))).unwrap();
    (Settings::of(&config, hold).unwrap(), extra)
}

/// A policy with instances that run nothing themselves: a test says what ends when.
pub(super) struct Bench<P> {
    pub(super) policy: P,
    pub(super) start: Instant,
    /// Slots of what runs, by request.
    running: BTreeMap<u32, SlotRef>,
}

/// Milliseconds.
pub(super) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl<P: Policy<Asked>> Bench<P> {
    pub(super) fn new(mut policy: P, instances: usize) -> Self {
        let start = Instant::now();
        for instance in 0..instances {
            policy.add_instance(instance, start);
        }
        Self { policy, start, running: BTreeMap::new() }
    }

    /// The deadline in milliseconds, or the error.
    pub(super) fn push(&mut self, at: u64, item: Asked, timeout: Option<u64>) -> Result<Option<u64>, String> {
        match self.policy.push(item, 0, timeout.map(ms), self.start + ms(at)) {
            Ok(pushed) => Ok(pushed.deadline.map(|deadline| (deadline - self.start).as_millis() as u64)),
            Err(rejected) => Err(match rejected.reason {
                Rejection::Full => "full".into(),
                Rejection::Invalid(error) => error.message.into_owned(),
            }),
        }
    }

    #[track_caller]
    pub(super) fn pushes(&mut self, at: u64, items: impl IntoIterator<Item = Asked>) {
        for item in items {
            self.push(at, item, None).unwrap();
        }
    }

    /// What an instance does at that moment: `Run` gives the batch as text, one word for each row: the request with the
    /// flags it is run with, or `-` for a row without one.
    pub(super) fn look(&mut self, at: u64, instance: usize) -> (Decision, String, Vec<(u32, Removal)>) {
        let (mut batch, mut removed) = (Vec::new(), Vec::new());
        let mut decision = self.policy.decide(instance, self.start + ms(at), &mut batch, &mut removed);
        while let Decision::AskAgain(_) = decision {
            decision = self.policy.decide(instance, self.start + ms(at), &mut batch, &mut removed);
        }
        let words: Vec<String> = batch.iter().map(|item| self.word(item, instance)).collect();
        (decision, words.join(" "), removed.into_iter().map(|(item, removal)| (item.name, removal)).collect())
    }

    fn word(&mut self, item: &Asked, instance: usize) -> String {
        if item.is_empty_row {
            return "-".into();
        }
        let slot = item.in_slot.expect("what runs is in a slot");
        assert_eq!(slot.instance as usize, instance);
        assert!(!self.running.values().any(|other| *other == slot), "two requests run in one slot");
        self.running.insert(item.name, slot);
        let (_, is_start, is_end) = item.ran_as.clone().expect("what runs has its controls");
        format!("{}{}{}", item.name, if is_start { "S" } else { "" }, if is_end { "E" } else { "" })
    }

    /// What an instance runs at that moment, as [`Bench::look`] shows it; empty if nothing.
    #[track_caller]
    pub(super) fn check(&mut self, at: u64, instance: usize, batch: &str) {
        assert_eq!(self.look(at, instance).1, batch);
    }

    /// That request has ended.
    #[track_caller]
    pub(super) fn end(&mut self, at: u64, name: u32) {
        let slot = self.running.remove(&name).expect("it runs");
        self.policy.released(slot, self.start + ms(at));
    }

    /// Runs everything that waits, on all instances, and ends it. Names in the order in which they ran.
    pub(super) fn run_all(&mut self, at: u64, instances: usize, removed: &mut Vec<(u32, Removal)>) -> Vec<u32> {
        let mut ran = Vec::new();
        loop {
            let before = ran.len();
            for instance in 0..instances {
                let (_, _, gone) = self.look(at, instance);
                removed.extend(gone);
                for name in self.running.keys().copied().collect::<Vec<_>>() {
                    ran.push(name);
                    self.end(at, name);
                }
            }
            if ran.len() == before {
                return ran;
            }
        }
    }
}

impl<P: Policy<Asked>> Bench<P> {
    /// That request runs again.
    #[track_caller]
    pub(super) fn put_back(&mut self, name: u32, item: Asked) {
        let slot = self.running.remove(&name).expect("it runs");
        let item = Asked { in_slot: Some(slot), ..item };
        assert!(self.policy.put_back(item, self.start).is_ok());
    }
}
