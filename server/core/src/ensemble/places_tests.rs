//! Who gets a place, and histories of requests to limited ensembles of ensembles, with readers that stop.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    Asker, Graph, Places, Progress, Run, Turn, Wakers,
    places::PATIENCE,
    testing::{byte, compile, interface, members},
};
use crate::{interface::Interface, response::Outputs};

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn flag(is_set: bool) -> (Arc<Flag>, Waker) {
    let flag = Arc::new(Flag(AtomicBool::new(is_set)));
    (flag.clone(), flag.into())
}

fn wake(wakers: Wakers) {
    wakers.into_iter().for_each(Waker::wake);
}

/// Requests that ask for places of one step.
struct Step {
    places: Places,
    askers: Vec<Asker>,
    now: Instant,
}

impl Step {
    fn new(limit: usize, askers: usize) -> Self {
        let askers = (0..askers).map(|_| Asker::default()).collect();
        Self { places: Places::new(limit), askers, now: Instant::now() }
    }

    fn ask(&mut self, asker: usize, in_flight: usize) -> Turn {
        let (turn, wakers) = self.places.ask(&mut self.askers[asker], in_flight, self.now, Waker::noop());
        wake(wakers);
        turn
    }

    fn patience(&self) -> Turn {
        Turn::Wait(Some(self.now + PATIENCE))
    }
}

#[test]
fn places_are_given_in_the_order_in_which_they_were_asked_for() {
    let mut step = Step::new(1, 3);
    assert_eq!(step.ask(0, 0), Turn::Granted);
    assert_eq!((step.ask(1, 0), step.ask(2, 0)), (step.patience(), step.patience()));
    step.places.give_back(step.now);
    assert_eq!(step.ask(0, 0), step.patience(), "it had one: the others come first");
    assert_eq!(step.ask(2, 0), step.patience());
    assert_eq!(step.ask(1, 0), Turn::Granted);
    step.places.give_back(step.now);
    assert_eq!(step.ask(2, 0), Turn::Granted);
    step.places.give_back(step.now);
    assert_eq!(step.ask(0, 0), Turn::Granted);
}

#[test]
fn a_request_waits_for_its_own_as_long_as_it_has_some_and_else_for_a_second() {
    let mut step = Step::new(1, 2);
    assert_eq!(step.ask(0, 0), Turn::Granted);
    assert_eq!(step.ask(1, 1), Turn::Wait(None));
    step.now += PATIENCE * 5;
    assert_eq!(step.ask(1, 1), Turn::Wait(None));
    assert_eq!(step.ask(1, 0), step.patience(), "from now on it waits for others");
    step.now += PATIENCE;
    assert_eq!(step.ask(1, 0), Turn::Beyond);
    assert_eq!(step.ask(1, 0), Turn::Beyond, "no place has come free since");
    assert_eq!(step.ask(1, 1), Turn::Wait(None), "but only one at a time");
    step.places.give_back(step.now);
    assert_eq!(step.ask(1, 1), Turn::Granted);
}

#[test]
fn who_is_not_polled_keeps_its_turn_but_no_place() {
    let mut step = Step::new(1, 3);
    assert_eq!(step.ask(0, 0), Turn::Granted);
    assert_eq!((step.ask(1, 0), step.ask(2, 0)), (step.patience(), step.patience()));
    wake(step.places.rest(&mut step.askers[1], step.now));
    step.places.give_back(step.now);
    assert_eq!(step.ask(2, 0), Turn::Granted);
    assert_eq!((step.ask(0, 0), step.ask(1, 0)), (step.patience(), step.patience()));
    step.places.give_back(step.now);
    assert_eq!(step.ask(0, 0), step.patience());
    assert_eq!(step.ask(1, 0), Turn::Granted, "it had asked first");
}

#[test]
fn a_place_does_not_wait_long_for_a_request_that_does_not_come_for_it() {
    let mut step = Step::new(1, 3);
    assert_eq!(step.ask(0, 0), Turn::Granted);
    assert_eq!(step.ask(1, 0), step.patience());
    step.places.give_back(step.now); // it is 1's turn
    let since = step.now;
    step.now += PATIENCE / 2;
    assert_eq!(step.ask(2, 1), Turn::Wait(None));
    step.now = since + PATIENCE;
    assert_eq!(step.ask(2, 1), Turn::Granted);
    wake(step.places.leave(&mut step.askers[1], step.now));
    step.places.give_back(step.now);
    assert_eq!(step.ask(0, 0), Turn::Granted);
}

#[test]
fn who_is_next_is_woken_when_a_place_is_given_back_or_left_to_it() {
    let mut step = Step::new(1, 3);
    assert_eq!(step.ask(0, 0), Turn::Granted);
    let flags = [(); 2].map(|()| flag(false));
    for (asker, (_, waker)) in flags.iter().enumerate() {
        step.places.ask(&mut step.askers[asker + 1], 0, step.now, waker);
    }
    let woken = || flags.each_ref().map(|(flag, _)| flag.0.load(Ordering::Relaxed));
    wake(step.places.give_back(step.now));
    assert_eq!(woken(), [true, false]);
    wake(step.places.leave(&mut step.askers[1], step.now));
    assert_eq!(woken(), [true, true]);
}

// === histories ===

/// What a step of an ensemble asks.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A model that gives one response.
    Once,
    /// A decoupled model, and how many it gives.
    Often(u32),
    /// An ensemble that was made before.
    Ensemble(usize),
}

/// An ensemble of steps in a row.
struct Ensemble {
    graph: Arc<Graph>,
    models: Vec<Interface>,
    kinds: Vec<Kind>,
    places: Option<Vec<RefCell<Places>>>,
    limit: usize,
    responses: u32,
}

const DECOUPLED: &str = "model_transaction_policy { decoupled: true }";

fn ensemble(kinds: &[Kind], limit: usize, before: &[Ensemble]) -> Ensemble {
    let responses = |kind: &Kind| match *kind {
        Kind::Once => 1,
        Kind::Often(responses) => responses,
        Kind::Ensemble(ensemble) => before[ensemble].responses,
    };
    let model = |name: &str, is_decoupled: bool| {
        let more = if is_decoupled { DECOUPLED } else { "" };
        format!(
            "name: '{name}' {more} input {{ name: 'i' data_type: TYPE_UINT8 dims: 1 }} \
             output {{ name: 'o' data_type: TYPE_UINT8 dims: 1 }}"
        )
    };
    let is_decoupled = |kind: &Kind| match *kind {
        Kind::Ensemble(ensemble) => before[ensemble].graph.origins.len() > 1,
        kind => matches!(kind, Kind::Often(_)),
    };
    let configs: Vec<String> =
        kinds.iter().enumerate().map(|(step, kind)| model(&format!("m{step}"), is_decoupled(kind))).collect();
    let configs: Vec<&str> = configs.iter().map(String::as_str).collect();
    let tensor = |step: usize| match step {
        0 => "i".to_owned(),
        step if step == kinds.len() => "o".to_owned(),
        step => format!("t{step}"),
    };
    let steps = (0..kinds.len()).map(|step| {
        format!(
            "step {{ model_name: 'm{step}' model_version: -1 input_map {{ key: 'i' value: '{}' }} \
             output_map {{ key: 'o' value: '{}' }} }}",
            tensor(step),
            tensor(step + 1)
        )
    });
    let text = format!("{} ensemble_scheduling {{ {} }}", model("e", false), steps.collect::<String>());
    let (graph, _, _) = compile(&text, &members(&configs)).unwrap();
    let places = (limit > 0).then(|| kinds.iter().map(|_| RefCell::new(Places::new(limit))).collect());
    Ensemble {
        graph: Arc::new(graph),
        models: configs.iter().map(|text| interface(text, 1)).collect(),
        kinds: kinds.to_vec(),
        places,
        limit,
        responses: kinds.iter().map(responses).product(),
    }
}

/// Requests of one model, and an ensemble's place that each has.
struct Leaf {
    left: u32,
    unread: u32,
    waker: Option<Waker>,
    place: Option<(usize, usize)>,
}

/// A request to an ensemble, as the engine runs it.
struct Request {
    ensemble: usize,
    progress: Progress,
    askers: Vec<Asker>,
    running: Vec<(Run, Child)>,
    place: Option<(usize, usize)>,
    until: Option<Instant>,
}

enum Child {
    Leaf(Rc<RefCell<Leaf>>),
    Request(Box<Request>),
}

struct World {
    ensembles: Vec<Ensemble>,
    leaves: Vec<Rc<RefCell<Leaf>>>,
    now: Instant,
}

/// What a poll gives: a response, the end, or nothing yet.
#[derive(PartialEq)]
enum Polled {
    Response,
    End,
    Pending,
}

impl World {
    fn request(&self, ensemble: usize, place: Option<(usize, usize)>) -> Request {
        let graph = self.ensembles[ensemble].graph.clone();
        let askers = (0..graph.step_count()).map(|_| Asker::default()).collect();
        let inputs = [byte("i", &[1], 0)].into_iter().collect();
        let progress = Progress::new(graph, inputs, &[], 0, String::new(), None);
        Request { ensemble, progress, askers, running: Vec::new(), place, until: None }
    }

    fn give_back(&self, place: Option<(usize, usize)>) {
        if let Some((ensemble, step)) = place
            && let Some(places) = &self.ensembles[ensemble].places
        {
            wake(places[step].borrow_mut().give_back(self.now));
        }
    }

    fn start(&mut self, request: &mut Request, waker: &Waker) -> bool {
        let (mut has_started, index) = (false, request.ensemble);
        request.until = None;
        loop {
            let mut place = None;
            let ensemble = &self.ensembles[index];
            let (askers, until, now) = (&mut request.askers, &mut request.until, self.now);
            let may_start = |step: usize, in_flight: usize| {
                let Some(places) = &ensemble.places else { return true };
                let (turn, wakers) = places[step].borrow_mut().ask(&mut askers[step], in_flight, now, waker);
                wake(wakers);
                match turn {
                    Turn::Granted => place = Some((index, step)),
                    Turn::Beyond => assert_eq!(in_flight, 0, "one request beyond the limit"),
                    Turn::Wait(moment) => {
                        *until = [*until, moment].into_iter().flatten().min();
                        return false;
                    }
                }
                true
            };
            let Some((run, _)) = request.progress.start(may_start, |step| Some(&ensemble.models[step])) else {
                return has_started;
            };
            has_started = true;
            let left = match ensemble.kinds[run.step] {
                Kind::Once => 1,
                Kind::Often(responses) => responses,
                Kind::Ensemble(inner) => {
                    let mut inner = self.request(inner, place);
                    self.start(&mut inner, Waker::noop());
                    request.running.push((run, Child::Request(Box::new(inner))));
                    continue;
                }
            };
            let leaf = Rc::new(RefCell::new(Leaf { left, unread: 0, waker: None, place }));
            self.leaves.push(leaf.clone());
            request.running.push((run, Child::Leaf(leaf)));
        }
    }

    fn poll_ahead(&mut self, request: &mut Request, waker: &Waker) {
        while !request.progress.has_response() && request.progress.end().is_none() {
            let has_started = self.start(request, waker);
            let mut events = Vec::new();
            let Request { running, progress, .. } = request;
            for (at, (run, child)) in running.iter_mut().enumerate() {
                let is_paused = progress.is_paused(run.step);
                let polled = match child {
                    Child::Request(inner) if is_paused => {
                        self.poll_ahead(inner, waker);
                        Polled::Pending
                    }
                    Child::Request(inner) => self.poll(inner, waker),
                    Child::Leaf(_) if is_paused => Polled::Pending,
                    Child::Leaf(leaf) => leaf.borrow_mut().poll(waker),
                };
                if polled != Polled::Pending {
                    events.push((at, polled));
                }
            }
            if !has_started && events.is_empty() {
                request.until = [request.until, request.inner_until()].into_iter().flatten().min();
                return;
            }
            for (at, polled) in events.into_iter().rev() {
                let run = &request.running[at].0;
                if polled == Polled::Response {
                    let answer = Outputs { tensors: [byte("o", &[1], 0)].into_iter().collect(), ..Outputs::default() };
                    request.progress.responded(run, answer);
                } else {
                    request.progress.finished(run);
                    request.running.remove(at);
                }
            }
            if request.progress.has_run() {
                self.give_back(request.place.take());
            }
        }
        self.rest(request);
    }

    fn rest(&self, request: &mut Request) {
        request.until = None;
        for (step, asker) in request.askers.iter_mut().enumerate() {
            if let Some(places) = &self.ensembles[request.ensemble].places {
                wake(places[step].borrow_mut().rest(asker, self.now));
            }
        }
        for (_, child) in &mut request.running {
            if let Child::Request(inner) = child {
                self.rest(inner);
            }
        }
    }

    fn poll(&mut self, request: &mut Request, waker: &Waker) -> Polled {
        self.poll_ahead(request, waker);
        if request.progress.next_response().is_some() {
            return Polled::Response;
        }
        match request.progress.end() {
            None => Polled::Pending,
            Some(end) => {
                assert_eq!(end, Ok(()));
                Polled::End
            }
        }
    }

    /// No more models' requests have a place than there are.
    fn check_places(&self) {
        for (ensemble, index) in self.ensembles.iter().zip(0..) {
            for step in 0..ensemble.kinds.len() {
                let place = Some((index, step));
                let count = self.leaves.iter().filter(|leaf| leaf.borrow().place == place).count();
                assert!(ensemble.places.is_none() || count <= ensemble.limit);
            }
        }
    }
}

impl Request {
    fn inner_until(&self) -> Option<Instant> {
        let inner = self.running.iter().filter_map(|(_, child)| match child {
            Child::Request(inner) => inner.until,
            Child::Leaf(_) => None,
        });
        inner.min()
    }
}

impl Leaf {
    /// Unread responses that its reply slot holds.
    const ROOM: u32 = 2;

    fn can_go_on(&self) -> bool {
        self.left > 0 && self.unread < Self::ROOM
    }

    fn poll(&mut self, waker: &Waker) -> Polled {
        if self.unread > 0 {
            self.unread -= 1;
            return Polled::Response;
        }
        if self.left == 0 {
            return Polled::End;
        }
        self.waker = Some(waker.clone());
        Polled::Pending
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is asked of limited ensembles of ensembles, and whoever stops reading: who reads gets every response, within
    /// some seconds, and is woken in time for it.
    #[test]
    fn nobody_who_reads_waits_for_ever(
        raw in prop::collection::vec((prop::collection::vec((0u32..3, any::<usize>()), 1..4), 0usize..3), 1..4),
        asked in prop::collection::vec((any::<usize>(), prop::option::weighted(0.3, 0u32..4)), 1..6),
        choices in prop::collection::vec(any::<usize>(), 1..100),
    ) {
        let mut ensembles: Vec<Ensemble> = Vec::new();
        for (kinds, limit) in &raw {
            let kind = |&(kind, more): &(u32, usize)| match (kind, ensembles.len()) {
                (0, _) | (2, 0) => Kind::Once,
                (1, _) => Kind::Often((more % 4) as u32),
                (_, count) => Kind::Ensemble(more % count),
            };
            let mut kinds: Vec<Kind> = kinds.iter().map(kind).collect();
            let few = ensemble(&kinds, *limit, &ensembles);
            if few.responses > 40 {
                kinds.truncate(1);
            }
            ensembles.push(ensemble(&kinds, *limit, &ensembles));
        }
        let mut world = World { ensembles, leaves: Vec::new(), now: Instant::now() };
        let begin = world.now;
        let mut choices = choices.into_iter().cycle();
        let mut choose = |count: usize| choices.next().unwrap_or(0) % count;
        let mut callers = Vec::new();
        for &(ensemble, reads) in &asked {
            let ensemble = ensemble % world.ensembles.len();
            let mut request = world.request(ensemble, None);
            world.start(&mut request, Waker::noop());
            callers.push((request, flag(true), 0u32, reads));
        }
        let has_stopped = |read: u32, reads: Option<u32>| reads.is_some_and(|reads| read >= reads);
        let mut turns = 0;
        while callers.iter().any(|&(.., read, reads)| !has_stopped(read, reads)) {
            turns += 1;
            prop_assert!(turns < 200_000, "it goes on and on");
            world.check_places();
            world.leaves.retain(|leaf| leaf.borrow().left > 0);
            let leaves: Vec<_> = world.leaves.iter().filter(|leaf| leaf.borrow().can_go_on()).cloned().collect();
            let now = world.now;
            let is_due = |request: &Request| request.until.is_some_and(|until| until <= now);
            let ready: Vec<usize> = (0..callers.len())
                .filter(|&at| {
                    let (request, (flag, _), read, reads) = &callers[at];
                    !has_stopped(*read, *reads) && (flag.0.load(Ordering::Relaxed) || is_due(request))
                })
                .collect();
            if leaves.is_empty() && ready.is_empty() {
                let waits = callers.iter().filter(|(.., read, reads)| !has_stopped(*read, *reads));
                let until = waits.filter_map(|(request, ..)| request.until).min();
                prop_assert!(until.is_some(), "somebody waits for what cannot come");
                world.now = until.unwrap_or(now);
                continue;
            }
            if !leaves.is_empty() && (ready.is_empty() || choose(2) == 0) {
                let mut leaf = leaves[choose(leaves.len())].borrow_mut();
                leaf.left -= 1;
                leaf.unread += 1;
                let place = if leaf.left == 0 { leaf.place.take() } else { None };
                leaf.waker.take().into_iter().for_each(Waker::wake);
                drop(leaf);
                world.give_back(place);
                world.now += Duration::from_millis(1);
                continue;
            }
            let at = ready[choose(ready.len())];
            let (request, (flag, waker), read, _) = &mut callers[at];
            flag.0.store(false, Ordering::Relaxed);
            match world.poll(request, waker) {
                Polled::Pending => {}
                Polled::Response => {
                    *read += 1;
                    flag.0.store(true, Ordering::Relaxed);
                }
                Polled::End => {
                    prop_assert_eq!(*read, world.ensembles[request.ensemble].responses);
                    callers.swap_remove(at);
                }
            }
        }
        prop_assert!(world.now - begin < Duration::from_secs(60), "{:?}", world.now - begin);
    }
}
