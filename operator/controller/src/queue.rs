//! The controller queue: servers to reconcile, each once however often it was queued, one reconcile per server at a time. It is
//! keyed by name and not by object, so that models whose server does not exist are reconciled as well. A change that a user has made
//! goes before all that comes of changes, so that it takes effect at once even while a thousand servers start.

mod server_key;
mod waits;

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use kube::runtime::scheduler::{ScheduleRequest, Scheduler, scheduler};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

pub(crate) use self::server_key::ServerKey;
use self::waits::Waits;

/// How long a key waits for more events about it: a file applied with fifty models is one reconcile.
const FOLD: Duration = Duration::from_millis(100);
/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The same after failures that a status tells of.
const LONGEST_PAUSE_TOLD: Duration = Duration::from_secs(30);
/// How long reconciles under way may take to end when the operator ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of so many keys that are taken, one is no change of a user's if any waits that is none: who changes all the time does not keep out what
/// pods report.
const ONE_OTHER_OF: u32 = 4;
/// Changes that are reconciled though as many others as may be are under way: none of them waits for a place.
const PLACES_FOR_CHANGES: usize = 2;

/// What came of a reconcile.
pub(crate) enum Reconciled {
    /// Queue it again after this time.
    RequeueAfter(Duration),
    /// Nothing to come back for.
    Done,
    /// It did not come to its end: it is queued again after a pause that grows.
    Failed,
    /// The same, and the status says why: the pause does not grow for long, so that the status does not say it long after it is over.
    FailedAndTold,
}

/// Reconciles of one server that failed, one after the other.
struct Failures {
    count: u32,
    since: Instant,
}

/// Where keys are put in.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    changes: mpsc::UnboundedSender<ScheduleRequest<ServerKey>>,
    others: mpsc::UnboundedSender<ScheduleRequest<ServerKey>>,
    waits: Arc<Mutex<Waits>>,
    pushes: watch::Sender<u64>,
}

/// Where keys come out.
#[derive(Debug)]
pub(crate) struct Requests {
    changes: mpsc::UnboundedReceiver<ScheduleRequest<ServerKey>>,
    others: mpsc::UnboundedReceiver<ScheduleRequest<ServerKey>>,
}

impl Queue {
    /// Both ends. The worker empties the channels at once and keeps each key once, so that they are as long as there are servers.
    pub(crate) fn new() -> (Self, Requests) {
        let (changes, of_changes) = mpsc::unbounded_channel();
        let (others, of_others) = mpsc::unbounded_channel();
        let queue = Self { changes, others, waits: Arc::default(), pushes: watch::channel(0).0 };
        (queue, Requests { changes: of_changes, others: of_others })
    }

    /// Something happened to a server or around it.
    pub(crate) fn push(&self, key: ServerKey) {
        self.push_after(key, FOLD);
        self.count_push();
    }

    /// A user has changed a server or a model of it.
    pub(crate) fn push_change(&self, key: ServerKey) {
        // nobody receives only when the operator ends
        let _ = self.changes.send(ScheduleRequest { message: key, run_at: Instant::now() + FOLD });
        self.count_push();
    }

    /// Counts what happened to any server.
    pub(crate) fn pushes(&self) -> watch::Receiver<u64> {
        self.pushes.subscribe()
    }

    /// How many keys wait, changes aside, and how long the one that was taken last had waited.
    pub(crate) fn waiting(&self) -> (usize, Duration) {
        let waits = self.waits();
        (waits.len(), waits.last())
    }

    fn push_after(&self, key: ServerKey, pause: Duration) {
        let run_at = Instant::now() + pause;
        self.waits().put(&key, run_at);
        let _ = self.others.send(ScheduleRequest { message: key, run_at });
    }

    /// Something happened that no reconcile is needed for.
    pub(crate) fn count_push(&self) {
        self.pushes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Requests {
    /// How many were put in since the last look.
    pub(crate) fn count_waiting(&mut self) -> usize {
        let Self { changes, others } = self;
        [changes, others].into_iter().map(|lane| std::iter::from_fn(|| lane.try_recv().ok()).count()).sum()
    }
}

/// Takes keys and reconciles, at most `limit` at a time, and [`PLACES_FOR_CHANGES`] more of changes; only while `leads`, until `stop`. Then
/// lets those under way end. `reconcile` gets for how long those of its server have failed, if the last one did.
pub(crate) async fn work<F>(
    queue: Queue,
    Requests { mut changes, mut others }: Requests,
    limit: usize,
    mut leads: watch::Receiver<bool>,
    reconcile: impl Fn(ServerKey, Option<Duration>) -> F,
    stop: impl Future<Output = ()>,
) where
    F: Future<Output = Reconciled> + Send + 'static,
{
    let mut changes = pin!(scheduler(stream::poll_fn(move |context| changes.poll_recv(context))));
    let mut others = pin!(scheduler(stream::poll_fn(move |context| others.poll_recv(context))));
    let mut taken: u32 = 0;
    let mut stop = pin!(stop);
    let mut running: JoinSet<Reconciled> = JoinSet::new();
    let mut keys: HashMap<Id, ServerKey> = HashMap::new();
    let mut busy: HashSet<ServerKey> = HashSet::new();
    let mut failures: HashMap<ServerKey, Failures> = HashMap::new();
    let jitter = RandomState::new();
    loop {
        let may_take = match busy.len() {
            _ if !*leads.borrow_and_update() => May::Nothing,
            count if count < limit => May::Any(&busy),
            count if count < limit + PLACES_FOR_CHANGES => May::Changes(&busy),
            _ => May::Nothing,
        };
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = running.join_next_with_id() => {
                let Some((key, reconciled)) = ended_reconcile(ended, &mut keys) else { continue };
                busy.remove(&key);
                if !matches!(reconciled, Reconciled::Failed | Reconciled::FailedAndTold) {
                    failures.remove(&key);
                }
                match reconciled {
                    Reconciled::RequeueAfter(pause) => queue.push_after(key, spread(pause, &jitter)),
                    Reconciled::Done => {}
                    Reconciled::Failed | Reconciled::FailedAndTold => {
                        let longest = match reconciled {
                            Reconciled::FailedAndTold => LONGEST_PAUSE_TOLD,
                            _ => LONGEST_PAUSE,
                        };
                        let failures =
                            failures.entry(key.clone()).or_insert_with(|| Failures { count: 0, since: Instant::now() });
                        let pause = pause_after(failures.count).min(longest);
                        failures.count = failures.count.saturating_add(1);
                        queue.push_after(key, spread(pause, &jitter));
                    }
                }
            }
            changed = leads.changed() => {
                if changed.is_err() {
                    break; // nobody can make us lead any more
                }
                if *leads.borrow() {
                    queue.waits().restart(Instant::now()); // another one led so far
                }
            }
            Some((key, is_change)) =
                next(changes.as_mut(), others.as_mut(), taken.is_multiple_of(ONE_OTHER_OF), may_take) =>
            {
                taken = taken.wrapping_add(1);
                if !is_change {
                    queue.waits().take(&key, Instant::now());
                }
                busy.insert(key.clone());
                let failing_for = failures.get(&key).map(|failures| failures.since.elapsed());
                let id = running.spawn(reconcile(key.clone(), failing_for)).id();
                keys.insert(id, key);
            }
        }
    }
    let _ = tokio::time::timeout(PATIENCE, async { while running.join_next().await.is_some() {} }).await;
}

/// Which keys may be taken; those of servers that are reconciled already stay.
enum May<'a> {
    Any(&'a HashSet<ServerKey>),
    Changes(&'a HashSet<ServerKey>),
    Nothing,
}

/// The next key that is due and may be taken, and whether it is a change. The others stay, each once.
async fn next<C, O>(
    mut changes: Pin<&mut Scheduler<ServerKey, C>>,
    mut others: Pin<&mut Scheduler<ServerKey, O>>,
    others_first: bool,
    may: May<'_>,
) -> Option<(ServerKey, bool)>
where
    C: Stream<Item = ScheduleRequest<ServerKey>>,
    O: Stream<Item = ScheduleRequest<ServerKey>>,
{
    match may {
        May::Any(busy) => {
            let is_free = |key: &ServerKey| !busy.contains(key);
            let (mut changes, mut others) =
                (changes.as_mut().hold_unless(is_free), others.as_mut().hold_unless(is_free));
            let change = async { changes.next().await.map(|key| (key, true)) };
            let other = async { others.next().await.map(|key| (key, false)) };
            match others_first {
                true => {
                    tokio::select! { biased; Some(key) = other => Some(key), Some(key) = change => Some(key), else => None }
                }
                false => {
                    tokio::select! { biased; Some(key) = change => Some(key), Some(key) = other => Some(key), else => None }
                }
            }
        }
        // those that stay are not looked through
        May::Changes(busy) => {
            let mut changes = changes.as_mut().hold_unless(|key| !busy.contains(key));
            let mut others = others.as_mut().hold();
            tokio::select! {
                biased;
                Some(key) = changes.next() => Some((key, true)),
                Some(key) = others.next() => Some((key, false)),
                else => None,
            }
        }
        May::Nothing => {
            let (mut changes, mut others) = (changes.as_mut().hold(), others.as_mut().hold());
            tokio::join!(changes.next(), others.next()).0.map(|key| (key, true))
        }
    }
}

fn ended_reconcile(
    ended: Result<(Id, Reconciled), JoinError>,
    keys: &mut HashMap<Id, ServerKey>,
) -> Option<(ServerKey, Reconciled)> {
    match ended {
        Ok((id, reconciled)) => Some((keys.remove(&id)?, reconciled)),
        Err(error) => {
            let key = keys.remove(&error.id())?;
            tracing::error!(server = %key, %error, "a reconcile broke off");
            Some((key, Reconciled::Failed))
        }
    }
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(LONGEST_PAUSE)
}

/// A pause up to a quarter longer, so that many servers do not come back at the same moment.
fn spread(pause: Duration, jitter: &RandomState) -> Duration {
    let share = jitter.hash_one(Instant::now()) % 256;
    pause + pause.mul_f64(share as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServerKey {
        ServerKey { namespace: "ml".into(), name: name.into() }
    }

    /// Works on a queue with a reconcile that takes a second; returns when it reconciled what.
    async fn watched(
        leads: watch::Receiver<bool>,
        feed: impl FnOnce(Queue),
        answer: fn(usize) -> Reconciled,
        seconds: u64,
    ) -> Vec<(u64, String)> {
        let (queue, requests) = Queue::new();
        feed(queue.clone());
        let began = Instant::now();
        let seen: Arc<Mutex<Vec<(u64, String)>>> = Arc::default();
        let record = Arc::clone(&seen);
        let reconcile = move |key: ServerKey, _: Option<Duration>| {
            let seen = Arc::clone(&record);
            async move {
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push((began.elapsed().as_secs(), key.name));
                    seen.len()
                };
                tokio::time::sleep(Duration::from_secs(1)).await;
                answer(number)
            }
        };
        work(queue, requests, 2, leads, reconcile, tokio::time::sleep(Duration::from_secs(seconds))).await;
        seen.lock().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_about_one_server_is_one_look_and_one_more_if_it_goes_on() {
        let (_leads, leading) = watch::channel(true);
        let feed = |queue: Queue| {
            for _ in 0..50 {
                queue.push(key("a"));
            }
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                queue.push(key("a"));
                queue.push(key("a"));
            });
        };
        let seen = watched(leading, feed, |_| Reconciled::Done, 60).await;
        assert_eq!(seen, [(0, "a".to_owned()), (1, "a".to_owned())], "the second begins after the first has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_looks_than_allowed_run_at_once() {
        let (_leads, leading) = watch::channel(true);
        let feed = |queue: Queue| ["a", "b", "c", "d"].into_iter().for_each(|name| queue.push(key(name)));
        let mut times: Vec<u64> =
            watched(leading, feed, |_| Reconciled::Done, 60).await.into_iter().map(|(second, _)| second).collect();
        times.sort_unstable();
        assert_eq!(times, [0, 0, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_after_pauses_that_grow_and_success_forgets_them() {
        let (_leads, leading) = watch::channel(true);
        let answer =
            |number| if number < 5 { Reconciled::Failed } else { Reconciled::RequeueAfter(Duration::from_secs(40)) };
        let times: Vec<u64> = watched(leading, |queue| queue.push(key("a")), answer, 100)
            .await
            .into_iter()
            .map(|(second, _)| second)
            .collect();
        let pauses: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0] - 1).collect();
        assert!(pauses.windows(2).all(|pair| pair[1] >= pair[0]) && pauses[3] >= 8 && pauses[4] >= 40, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_status_tells_of_is_tried_again_before_long() {
        for (is_told, longest) in [(false, 300), (true, 30)] {
            let (_leads, leading) = watch::channel(true);
            let answer: fn(usize) -> Reconciled =
                if is_told { |_| Reconciled::FailedAndTold } else { |_| Reconciled::Failed };
            let times = watched(leading, |queue| queue.push(key("a")), answer, 3600).await;
            let last = times[times.len() - 1].0 - times[times.len() - 2].0;
            assert!((longest..=longest * 5 / 4 + 2).contains(&last), "{last} s between {times:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reconcile_is_told_for_how_long_those_before_it_have_failed() {
        let (_leads, leading) = watch::channel(true);
        let (queue, requests) = Queue::new();
        queue.push(key("a"));
        let told: Arc<Mutex<Vec<Option<u64>>>> = Arc::default();
        let record = Arc::clone(&told);
        let reconcile = move |_, failing_for: Option<Duration>| {
            let mut told = record.lock().unwrap();
            told.push(failing_for.map(|time| time.as_secs()));
            let answer = match told.len() {
                1 | 2 | 4 => Reconciled::Failed,
                3 => Reconciled::RequeueAfter(Duration::from_secs(20)),
                _ => Reconciled::Done,
            };
            async { answer }
        };
        work(queue, requests, 2, leading, reconcile, tokio::time::sleep(Duration::from_secs(60))).await;
        let told = told.lock().unwrap().clone();
        assert!(matches!(told[..], [None, Some(1), Some(3..=4), None, Some(1)]), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_looked_at_before_this_one_leads() {
        let (leads, leading) = watch::channel(false);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(30)).await;
            leads.send_replace(true);
            tokio::time::sleep(Duration::from_secs(600)).await;
        });
        let seen = watched(leading, |queue| queue.push(key("a")), |_| Reconciled::Done, 60).await;
        assert_eq!(seen, [(30, "a".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_goes_before_all_that_waits_and_does_not_keep_it_out() {
        let (_leads, leading) = watch::channel(true);
        let feed = |queue: Queue| {
            (0..12).for_each(|number| queue.push(key(&format!("other{number}"))));
            (0..8).for_each(|number| queue.push_change(key(&format!("change{number}"))));
        };
        let seen = watched(leading, feed, |_| Reconciled::Done, 60).await;
        let changes = |until: u64| {
            let taken: Vec<_> = seen.iter().filter(|(second, _)| *second < until).collect();
            (taken.iter().filter(|(_, name)| name.starts_with("change")).count(), taken.len())
        };
        assert_eq!(changes(2), (6, 8), "three changes to one other");
        assert_eq!(changes(60), (8, 20), "nothing is lost");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_waits_for_no_place() {
        let (_leads, leading) = watch::channel(true);
        let feed = |queue: Queue| {
            (0..9).for_each(|number| queue.push(key(&format!("other{number}"))));
            tokio::spawn(async move {
                tokio::time::sleep(FOLD + Duration::from_millis(300)).await;
                ["a", "b", "c"].into_iter().for_each(|name| queue.push_change(key(name)));
            });
        };
        let seen = watched(leading, feed, |_| Reconciled::Done, 60).await;
        let of = |second: u64| seen.iter().filter(move |(at, _)| *at == second).map(|(_, name)| &name[..1]);
        assert_eq!(of(0).collect::<String>(), "ooab", "all places of others are taken");
        assert!(of(1).any(|name| name == "c"));
        assert_eq!(seen.len(), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_known_how_long_keys_wait() {
        let (_leads, leading) = watch::channel(true);
        let (queue, requests) = Queue::new();
        (0..9).for_each(|number| queue.push(key(&format!("{number}"))));
        assert_eq!(queue.waiting(), (9, Duration::ZERO));
        let reconcile = |_, _| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Reconciled::Done
        };
        let stop = tokio::time::sleep(Duration::from_secs(60));
        work(queue.clone(), requests, 1, leading, reconcile, stop).await;
        let (length, wait) = queue.waiting();
        assert_eq!((length, wait.as_secs()), (0, 24));
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        assert_eq!(pause_after(0), Duration::from_secs(1));
        assert_eq!(pause_after(3), Duration::from_secs(8));
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }
}
