//! The controller queue: servers to reconcile, each once however often it was queued, one reconcile per server at a time. It is
//! keyed by name and not by object, so that models whose server does not exist are reconciled as well.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::pin,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use kube::runtime::scheduler::{ScheduleRequest, scheduler};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

/// How long a key waits for more events about it: a file applied with fifty models is one reconcile.
const FOLD: Duration = Duration::from_millis(100);
/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long reconciles under way may take to end when the operator ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server by its name, whether it exists or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServerKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What came of a reconcile.
pub(crate) enum Reconciled {
    /// Queue it again after this time.
    RequeueAfter(Duration),
    /// Nothing to come back for.
    Done,
    /// It did not come to its end: it is queued again after a pause that grows.
    Failed,
}

/// Where keys are put in.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    sender: mpsc::UnboundedSender<ScheduleRequest<ServerKey>>,
    pushes: watch::Sender<u64>,
}

/// Where keys come out.
#[derive(Debug)]
pub(crate) struct Requests(mpsc::UnboundedReceiver<ScheduleRequest<ServerKey>>);

impl Queue {
    /// Both ends. The worker empties the channel at once and keeps each key once, so that it is as long as there are servers.
    pub(crate) fn new() -> (Self, Requests) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender, pushes: watch::channel(0).0 }, Requests(receiver))
    }

    /// Something happened to a server or around it.
    pub(crate) fn push(&self, key: ServerKey) {
        self.push_after(key, FOLD);
        self.pushes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Counts what happened to any server.
    pub(crate) fn pushes(&self) -> watch::Receiver<u64> {
        self.pushes.subscribe()
    }

    fn push_after(&self, key: ServerKey, pause: Duration) {
        // nobody receives only when the operator ends
        let _ = self.sender.send(ScheduleRequest { message: key, run_at: Instant::now() + pause });
    }
}

#[cfg(test)]
impl Requests {
    /// How many were put in since the last look.
    pub(crate) fn count_waiting(&mut self) -> usize {
        std::iter::from_fn(|| self.0.try_recv().ok()).count()
    }
}

/// Takes keys and reconciles, at most `limit` at a time and only while `leads`, until `stop`; then lets those under way end.
pub(crate) async fn work<F>(
    queue: Queue,
    Requests(mut requests): Requests,
    limit: usize,
    mut leads: watch::Receiver<bool>,
    reconcile: impl Fn(ServerKey) -> F,
    stop: impl Future<Output = ()>,
) where
    F: Future<Output = Reconciled> + Send + 'static,
{
    let requests = stream::poll_fn(move |context| requests.poll_recv(context));
    let mut scheduler = pin!(scheduler(requests));
    let mut stop = pin!(stop);
    let mut running: JoinSet<Reconciled> = JoinSet::new();
    let mut keys: HashMap<Id, ServerKey> = HashMap::new();
    let mut busy: HashSet<ServerKey> = HashSet::new();
    let mut failures: HashMap<ServerKey, u32> = HashMap::new();
    let jitter = RandomState::new();
    loop {
        let may_take = *leads.borrow_and_update() && busy.len() < limit;
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = running.join_next_with_id() => {
                let Some((key, reconciled)) = ended_reconcile(ended, &mut keys) else { continue };
                busy.remove(&key);
                if !matches!(reconciled, Reconciled::Failed) {
                    failures.remove(&key);
                }
                match reconciled {
                    Reconciled::RequeueAfter(pause) => queue.push_after(key, spread(pause, &jitter)),
                    Reconciled::Done => {}
                    Reconciled::Failed => {
                        let count = failures.entry(key.clone()).or_default();
                        let pause = pause_after(*count);
                        *count = count.saturating_add(1);
                        queue.push_after(key, spread(pause, &jitter));
                    }
                }
            }
            changed = leads.changed() => {
                if changed.is_err() {
                    break; // nobody can make us lead any more
                }
            }
            Some(key) = next(&mut scheduler, may_take, &busy) => {
                busy.insert(key.clone());
                let id = running.spawn(reconcile(key.clone())).id();
                keys.insert(id, key);
            }
        }
    }
    let _ = tokio::time::timeout(PATIENCE, async { while running.join_next().await.is_some() {} }).await;
}

/// The next key that is due and not being reconciled. Keys that may not be taken stay, each once.
async fn next<R>(
    scheduler: &mut std::pin::Pin<&mut kube::runtime::scheduler::Scheduler<ServerKey, R>>,
    may_take: bool,
    busy: &HashSet<ServerKey>,
) -> Option<ServerKey>
where
    R: futures_util::Stream<Item = ScheduleRequest<ServerKey>>,
{
    if !may_take {
        return scheduler.as_mut().hold().next().await; // does not look through all that wait
    }
    scheduler.as_mut().hold_unless(|key| !busy.contains(key)).next().await
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
    use std::sync::{Arc, Mutex};

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
        let reconcile = move |key: ServerKey| {
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

    #[test]
    fn pauses_double_up_to_five_minutes() {
        assert_eq!(pause_after(0), Duration::from_secs(1));
        assert_eq!(pause_after(3), Duration::from_secs(8));
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }
}
