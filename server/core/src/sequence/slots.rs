//! The slots of all instances of a model and the sequences in them. A new sequence takes a free slot, or waits with all
//! its requests in the backlog for one; it holds the slot until its last request has ended or it has been silent too
//! long. At most one request of a sequence runs at a time.
//!
//! No step looks through all slots: free ones are kept in order, silent ones by the time they began to be silent.

mod ending;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    SlotRef,
    backlog::{Backlog, Backlogged, Entry, skip_abandoned, skip_to_start},
    controls::Position,
    item::{self, SequenceItem},
    settings::{ExtraInputs, Settings, Strategy},
    state::States,
};
use crate::{
    batching::{
        levels::DEFAULT_LIMIT,
        policy::{Rejected, Rejection, Wake},
        queue::{Full, Removal},
    },
    request::CorrelationId,
};

/// A slot and the sequence in it, if any.
struct Slot<T> {
    sequence: Option<Occupant<T>>,
    /// It has an entry among the silent ones, maybe an old one.
    is_timed: bool,
}

struct Occupant<T> {
    id: CorrelationId,
    queue: VecDeque<Entry<T>>,
    states: Option<Arc<States>>,
    is_running: bool,
    /// The request that runs started it.
    is_starting: bool,
    /// The request that runs is the last one.
    is_ending: bool,
    /// Since when nothing of it waits or runs.
    silent_since: Instant,
}

impl<T> Occupant<T> {
    fn is_silent(&self) -> bool {
        self.queue.is_empty() && !self.is_running
    }
}

struct Instance<T> {
    /// Those that were ever used: a large number of slots costs nothing before.
    slots: Vec<Slot<T>>,
    /// Slots with a sequence.
    occupied: usize,
    /// Requests that wait in slots.
    waiting: usize,
    is_retiring: bool,
}

/// Where a sequence is that may get more requests.
#[derive(Clone, Copy)]
enum Place {
    Slot(SlotRef),
    Backlog(u64),
}

/// What came of adding a request.
pub(super) struct Entered {
    /// When it has waited too long for a slot.
    pub(super) deadline: Option<Instant>,
    /// It starts a sequence that had not ended.
    pub(super) warning: Option<String>,
}

/// Sequences and their slots.
pub(super) struct Slots<T> {
    settings: Settings,
    extra: ExtraInputs,
    instances: Vec<Instance<T>>,
    /// Slots without a sequence; of those that were never used only the first one of each instance.
    free: BTreeSet<SlotRef>,
    /// Sequences whose last request has not come yet.
    live: HashMap<CorrelationId, Place>,
    backlog: Backlog<T>,
    /// At most one entry for each slot: not before then its sequence has been silent too long.
    silent: BinaryHeap<Reverse<(Instant, SlotRef)>>,
    /// Requests that wait, in slots and in the backlog.
    waiting: usize,
    /// Requests of the backlog that ended when it moved on, as far as nobody has answered them yet.
    gone: Vec<(T, Removal)>,
    /// Slots whose next request may run, as far as nobody has asked for them yet.
    ready: Vec<SlotRef>,
    /// Whom what happened concerns.
    wake: Wake,
    is_held: bool,
    is_closed: bool,
    /// Identity of the next sequence that no caller named.
    next_id: u64,
}

impl<T: SequenceItem> Slots<T> {
    pub(super) fn new(settings: Settings, extra: ExtraInputs) -> Self {
        let is_held = settings.hold.queued > 0 || settings.hold.backlog > 0;
        Self {
            settings,
            extra,
            instances: Vec::new(),
            free: BTreeSet::new(),
            live: HashMap::new(),
            backlog: Backlog::new(),
            silent: BinaryHeap::new(),
            waiting: 0,
            gone: Vec::new(),
            ready: Vec::new(),
            wake: Wake::Nobody,
            is_held,
            is_closed: false,
            next_id: 1,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn extra(&self) -> &ExtraInputs {
        &self.extra
    }

    /// Requests that wait, in slots and in the backlog.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// When the request came that has waited longest, in slots and in the backlog. Looks at every sequence.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let slots = self.instances.iter().flat_map(|instance| &instance.slots);
        let queues = slots.filter_map(|slot| slot.sequence.as_ref()).map(|sequence| &sequence.queue);
        let firsts = queues.filter_map(VecDeque::front).map(|entry| entry.queued_at);
        firsts.chain(self.backlog.oldest()).min()
    }

    /// The slots of that instance that were ever used.
    pub(super) fn used(&self, instance: usize) -> impl Iterator<Item = SlotRef> + use<T> {
        let count = self.instances.get(instance).map_or(0, |instance| instance.slots.len()) as u32;
        (0..count).map(move |number| SlotRef { number, instance: instance as u32 })
    }

    /// Requests that wait in the slots of that instance.
    pub(super) fn waiting_for(&self, instance: usize) -> usize {
        self.instances.get(instance).map_or(0, |instance| instance.waiting)
    }

    /// Whether nothing may run yet.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// One more instance with its slots.
    pub(super) fn add_instance(&mut self, instance: usize, now: Instant) {
        let none = || Instance { slots: Vec::new(), occupied: 0, waiting: 0, is_retiring: false };
        if self.instances.len() <= instance {
            self.instances.resize_with(instance + 1, none);
        }
        self.free.insert(SlotRef { number: 0, instance: instance as u32 });
        self.fill(now);
    }

    /// That instance gets no further sequences.
    pub(super) fn retire_instance(&mut self, instance: usize) {
        self.free.retain(|slot| slot.instance as usize != instance);
        if let Some(instance) = self.instances.get_mut(instance) {
            instance.is_retiring = true;
        }
    }

    /// Whether sequences live on that instance that retires.
    pub(super) fn is_needed(&self, instance: usize) -> bool {
        self.instances.get(instance).is_some_and(|instance| instance.occupied > 0)
    }

    /// Whether that instance goes when its last sequence is over.
    pub(super) fn is_retiring(&self, instance: usize) -> bool {
        self.instances.get(instance).is_some_and(|instance| instance.is_retiring)
    }

    /// Adds a request to its sequence, or begins one.
    pub(super) fn push(&mut self, item: T, timeout: Option<Duration>, now: Instant) -> Result<Entered, Rejected<T>> {
        if let Err(error) = item::check(&item, &self.settings, &self.extra) {
            return Err(Rejected { item, reason: Rejection::Invalid(error) });
        }
        self.give_up_silent(now);
        let is_iterative = self.settings.is_iterative;
        let (id, is_start, is_end) = match item.sequence().filter(|sequence| !item::is_none(&sequence.id)) {
            // A request of an iterative model is a sequence of its own, whoever names it.
            Some(sequence) => (sequence.id.clone(), sequence.is_start, sequence.is_end || is_iterative),
            None => (CorrelationId::Number(self.next_id), true, true),
        };
        let place = self.live.get(&id).copied();
        if place.is_none() && !is_start {
            let error = item::not_started(&self.settings, &id);
            return Err(Rejected { item, reason: Rejection::Invalid(error) });
        }
        if self.waiting >= DEFAULT_LIMIT {
            return Err(Full(item).into());
        }
        let warning = (is_start && place.is_some()).then(|| item::conflict(&self.settings, &id));
        let place = place.unwrap_or_else(|| self.begin(&id, now));
        match (is_end, is_iterative) {
            (_, true) => self.next_id = self.next_id.wrapping_add(1).max(1),
            (true, false) => drop(self.live.remove(&id)),
            (false, false) => drop(self.live.insert(id, place)),
        }
        self.waiting += 1;
        let entry = Entry { item, queued_at: now, is_start, is_end };
        let deadline = match place {
            Place::Slot(slot) => {
                self.add(slot, entry);
                None
            }
            Place::Backlog(key) => {
                let before = self.backlog.next_deadline();
                let deadline = self.backlog.add(key, entry, timeout.and_then(|wait| now.checked_add(wait)));
                if self.backlog.next_deadline() != before {
                    self.wake = self.wake.and(Wake::Any); // who watches has to be back earlier
                }
                deadline
            }
        };
        if self.is_held {
            let hold = self.settings.hold;
            if self.queued_for_hold() >= hold.queued && self.backlog.requests() >= hold.backlog {
                self.let_go();
            }
        }
        Ok(Entered { deadline, warning })
    }

    /// Requests of sequences may run although fewer wait than was asked for.
    pub(super) fn let_go(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.wake = Wake::All;
        }
    }

    /// No request comes any more: sequences that are silent now stay so.
    pub(super) fn close(&mut self, now: Instant) {
        self.is_closed = true;
        self.let_go();
        let all = (0..self.instances.len()).flat_map(|instance| self.used(instance));
        for slot in all.collect::<Vec<_>>() {
            if self.occupant(slot).is_some_and(|sequence| sequence.is_silent()) {
                self.free(slot, now);
            }
        }
    }

    /// The next request of a slot, without taking it, and when it came. `None` if there is none or one runs.
    pub(super) fn next(&self, slot: SlotRef) -> Option<(&T, Instant)> {
        let sequence =
            self.instances.get(slot.instance as usize)?.slots.get(slot.number as usize)?.sequence.as_ref()?;
        let entry = sequence.queue.front().filter(|_| !sequence.is_running)?;
        Some((&entry.item, entry.queued_at))
    }

    /// What the next request of a slot would read of its sequence.
    pub(super) fn next_has_states_like(&self, slot: SlotRef, other: SlotRef) -> bool {
        let shapes = |slot: SlotRef| {
            let instance = self.instances.get(slot.instance as usize)?;
            let sequence = instance.slots.get(slot.number as usize)?.sequence.as_ref()?;
            let starts = sequence.queue.front().is_some_and(|entry| entry.is_start);
            let states = sequence.states.as_ref()?;
            let tensors =
                if starts && !sequence.is_running { self.extra.states.initial().inputs() } else { states.inputs() };
            Some(tensors.into_iter().map(|tensor| tensor.shape).collect::<Vec<_>>())
        };
        !self.extra.states.is_variable() || shapes(slot) == shapes(other)
    }

    /// Takes the next request of a slot to run it: it has its control inputs and states.
    pub(super) fn take(&mut self, slot: SlotRef) -> Option<T> {
        let extra = &self.extra;
        let instance = self.instances.get_mut(slot.instance as usize)?;
        let sequence = instance.slots.get_mut(slot.number as usize)?.sequence.as_mut()?;
        if sequence.is_running {
            return None;
        }
        let Entry { mut item, is_start, is_end, .. } = sequence.queue.pop_front()?;
        if let (true, Some(states)) = (is_start, &sequence.states) {
            states.reset();
        }
        let position = Position { id: &sequence.id, is_start, is_end: is_end && !self.settings.is_iterative };
        item.enter(slot, position, sequence.states.as_ref(), extra);
        (sequence.is_running, sequence.is_starting, sequence.is_ending) = (true, is_start, is_end);
        self.taken(slot, 1);
        Some(item)
    }

    /// What ran in a slot has ended.
    pub(super) fn released(&mut self, slot: SlotRef, now: Instant) {
        let Some(sequence) = self.occupant(slot).filter(|sequence| sequence.is_running) else { return };
        sequence.is_running = false;
        sequence.silent_since = now;
        let (is_ending, is_silent) = (sequence.is_ending, sequence.is_silent());
        if is_ending || (is_silent && self.is_closed) {
            self.free(slot, now);
        } else if is_silent {
            self.is_silent_now(slot);
        } else {
            self.ready.push(slot);
        }
    }

    /// What was taken from a slot did not run, for its caller left. If it was to start its sequence, that is over.
    pub(super) fn not_run(&mut self, slot: SlotRef, now: Instant, removed: &mut Vec<(T, Removal)>) {
        let Some(sequence) = self.occupant(slot).filter(|sequence| sequence.is_running) else { return };
        if sequence.is_starting {
            let before = removed.len();
            sequence.is_ending |= skip_to_start(&mut sequence.queue, removed);
            self.taken(slot, removed.len() - before);
        }
        self.released(slot, now);
    }

    /// What ran in a slot runs again, before whatever waits there.
    pub(super) fn put_back(&mut self, slot: SlotRef, item: T, now: Instant) -> Result<(), T> {
        let Some(sequence) = self.occupant(slot).filter(|sequence| sequence.is_running) else { return Err(item) };
        let is_end = sequence.is_ending;
        sequence.queue.push_front(Entry { item, queued_at: now, is_start: false, is_end });
        (sequence.is_running, sequence.is_ending) = (false, false);
        let instance = &mut self.instances[slot.instance as usize];
        instance.waiting += 1;
        self.waiting += 1;
        self.ready.push(slot);
        Ok(())
    }

    /// Slots whose next request may run since this was last asked.
    pub(super) fn take_ready(&mut self) -> Vec<SlotRef> {
        std::mem::take(&mut self.ready)
    }

    /// Whom concerns what happened since this was last asked, ready slots aside.
    pub(super) fn take_wake(&mut self) -> Wake {
        std::mem::replace(&mut self.wake, Wake::Nobody)
    }

    fn slot(&mut self, slot: SlotRef) -> &mut Slot<T> {
        &mut self.instances[slot.instance as usize].slots[slot.number as usize]
    }

    fn occupant(&mut self, slot: SlotRef) -> Option<&mut Occupant<T>> {
        self.slot(slot).sequence.as_mut()
    }

    /// So many requests of that slot wait no more.
    fn taken(&mut self, slot: SlotRef, count: usize) {
        self.waiting -= count;
        self.instances[slot.instance as usize].waiting -= count;
    }

    /// Requests that count for what is held back. The batcher of the oldest strategy gets one request of each sequence, so
    /// one counts for each, unless more are asked for than there are slots.
    fn queued_for_hold(&self) -> usize {
        let slots = (self.settings.slots as usize).saturating_mul(self.instances.len());
        match self.settings.strategy {
            Strategy::Oldest { .. } if self.settings.hold.queued <= slots => self.ready.len(),
            _ => self.waiting - self.backlog.requests(),
        }
    }

    /// A place for a sequence that begins: the first free slot, or the end of the backlog.
    fn begin(&mut self, id: &CorrelationId, now: Instant) -> Place {
        if self.backlog.is_empty()
            && let Some(slot) = self.take_free()
        {
            self.occupy(slot, id.clone(), VecDeque::new(), now);
            return Place::Slot(slot);
        }
        if self.backlog.is_empty() {
            self.wake = self.wake.and(Wake::Any); // somebody has to watch for a slot to become free
        }
        Place::Backlog(self.backlog.begin(id.clone()))
    }

    /// The free slot of the lowest number; of an instance of which all used ones are taken, the next one.
    fn take_free(&mut self) -> Option<SlotRef> {
        let slot = self.free.pop_first()?;
        let slots = &mut self.instances[slot.instance as usize].slots;
        if slot.number as usize == slots.len() {
            slots.push(Slot { sequence: None, is_timed: false });
            if slot.number + 1 < self.settings.slots {
                self.free.insert(SlotRef { number: slot.number + 1, ..slot });
            }
        }
        Some(slot)
    }

    fn occupy(&mut self, slot: SlotRef, id: CorrelationId, queue: VecDeque<Entry<T>>, now: Instant) {
        let states = self.extra.initial_states().map(Arc::new);
        let instance = &mut self.instances[slot.instance as usize];
        instance.occupied += 1;
        instance.waiting += queue.len();
        let sequence =
            Occupant { id, queue, states, is_running: false, is_starting: false, is_ending: false, silent_since: now };
        instance.slots[slot.number as usize].sequence = Some(sequence);
    }

    fn add(&mut self, slot: SlotRef, entry: Entry<T>) {
        self.instances[slot.instance as usize].waiting += 1;
        let Some(sequence) = self.occupant(slot) else { return };
        sequence.queue.push_back(entry);
        if sequence.queue.len() == 1 && !sequence.is_running {
            self.ready.push(slot);
        }
    }

    /// The sequence in a slot is over; the next one of the backlog takes it.
    fn free(&mut self, slot: SlotRef, now: Instant) {
        let Some(sequence) = self.slot(slot).sequence.take() else { return };
        if let Some(Place::Slot(place)) = self.live.get(&sequence.id)
            && *place == slot
        {
            self.live.remove(&sequence.id);
        }
        let instance = &mut self.instances[slot.instance as usize];
        instance.occupied -= 1;
        if !instance.is_retiring {
            self.free.insert(slot);
            self.fill(now);
        } else if instance.occupied == 0 {
            self.wake = self.wake.and(Wake::Instance(slot.instance as usize));
        }
    }

    /// Gives free slots to the backlog.
    fn fill(&mut self, now: Instant) {
        while !self.free.is_empty()
            && let Some((key, sequence)) = self.backlog.pop()
        {
            let Backlogged { id, mut queue, .. } = sequence;
            let before = self.gone.len();
            let is_over = skip_abandoned(&mut queue, &mut self.gone);
            if self.gone.len() > before {
                self.waiting -= self.gone.len() - before;
                self.wake = self.wake.and(Wake::Any); // somebody has to answer them
            }
            if is_over {
                self.forget(&id, key);
                continue;
            }
            let Some(slot) = self.take_free() else { return };
            if let Some(place) = self.live.get_mut(&id)
                && matches!(place, Place::Backlog(own) if *own == key)
            {
                *place = Place::Slot(slot);
            }
            self.occupy(slot, id, queue, now);
            self.ready.push(slot); // a sequence waits with the request that starts it at least
        }
    }

    fn forget(&mut self, id: &CorrelationId, key: u64) {
        if matches!(self.live.get(id), Some(Place::Backlog(own)) if *own == key) {
            self.live.remove(id);
        }
    }
}
