//! Readiness in a model's own word: asked when somebody probes, one question at a time, with a limit on its answer.

use std::time::Duration;

use server_core::backend::Readiness;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// How long a model may take for its answer: as long as Triton waits for `is_ready` of a Python model.
const LIMIT: Duration = Duration::from_secs(5);

/// The questions of one model version.
#[derive(Default)]
pub(crate) struct ReadinessProbe {
    /// When the last answer came, and what it was. Locked while one is waited for.
    last: Mutex<Option<(Instant, bool)>>,
}

impl ReadinessProbe {
    /// Asks a model whether it can serve. Whoever comes while another waits for an answer is content with that one. `false`
    /// if none comes in time.
    pub(crate) async fn ask(&self, question: Readiness) -> bool {
        let came = Instant::now();
        let answer = async {
            let mut last = self.last.lock().await;
            if let Some((answered, is_ready)) = *last
                && answered > came
            {
                return is_ready;
            }
            let is_ready = question.await;
            *last = Some((Instant::now(), is_ready));
            is_ready
        };
        timeout(LIMIT, answer).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::sleep;

    use super::*;

    fn question(asked: &Arc<AtomicUsize>, takes: Duration) -> Readiness {
        let asked = asked.clone();
        Box::pin(async move {
            asked.fetch_add(1, Ordering::SeqCst);
            sleep(takes).await;
            true
        })
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_probe_together_ask_once() {
        let (probe, asked) = (Arc::new(ReadinessProbe::default()), Arc::new(AtomicUsize::new(0)));
        let mut probes = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (probe, question) = (probe.clone(), question(&asked, Duration::from_secs(1)));
            probes.spawn(async move { probe.ask(question).await });
        }
        assert_eq!(probes.join_all().await, [true; 10]);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(probe.ask(question(&asked, Duration::ZERO)).await);
        assert_eq!(asked.load(Ordering::SeqCst), 2, "who comes later asks anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_does_not_answer_in_time_is_not_ready() {
        let (probe, asked) = (ReadinessProbe::default(), Arc::new(AtomicUsize::new(0)));
        let began = Instant::now();
        assert!(!probe.ask(question(&asked, Duration::from_secs(3600))).await);
        assert_eq!(began.elapsed(), LIMIT);
        assert!(probe.ask(question(&asked, LIMIT / 2)).await, "the question before is forgotten");
    }
}
