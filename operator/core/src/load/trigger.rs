//! What a trigger of KEDA asks the operator for, as the metadata of a ScaledObject say it, and which total answers it.

use std::collections::BTreeMap;

use super::{Metric, Models, ServerLoad};

/// Longest text of a value that is taken.
const LONGEST: usize = 4096;
/// Keys that KEDA itself reads and passes on.
const OF_KEDA: [&str; 6] = ["scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey"];

/// One measure of one server, and the value a replica is to have. Its trigger has metric type Value for the queue latency, which does
/// not add up over replicas, and AverageValue for all else.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// Name of the TritonServer, in the namespace of the ScaledObject.
    pub server: String,
    /// What is measured.
    pub metric: Metric,
    /// What each replica is to have, in the unit of the metric.
    pub target: f64,
    /// The models that count; none: all.
    pub models: Vec<String>,
}

/// Why metadata are no trigger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// A key is missing.
    #[error("the trigger's metadata have no '{key}': {cure}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to write.
        cure: String,
    },
    /// A key is not known.
    #[error("the trigger's metadata have '{0}', which nobody reads: the keys are server, metric, target and models")]
    Unknown(String),
    /// A value is wrong.
    #[error("the trigger's metadata say {key}: '{value}': {cure}")]
    Wrong {
        /// Its key.
        key: &'static str,
        /// What it is, cut.
        value: String,
        /// What to write.
        cure: String,
    },
}

impl Trigger {
    /// Reads the metadata of the trigger of a ScaledObject of that name: `metric` and `target`, and, if they say so, `server` (else the
    /// ScaledObject is named like it) and `models`, with commas between them.
    ///
    /// Errors: [`TriggerError`], with what to write.
    pub fn read<'a>(
        scaled_object: &str,
        metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, TriggerError> {
        let (mut server, mut metric, mut target, mut models) = (None, None, None, None);
        for (key, value) in metadata {
            let place = match key {
                "server" => &mut server,
                "metric" => &mut metric,
                "target" => &mut target,
                "models" => &mut models,
                key if OF_KEDA.contains(&key) => continue,
                key => return Err(TriggerError::Unknown(cut(key))),
            };
            *place = Some(value);
        }
        let names = || Metric::ALL.map(Metric::name).join(", ");
        let metric = metric.ok_or_else(|| missing("metric", format!("name one of {}", names())))?;
        let target = target.ok_or_else(|| missing("target", "say what each replica is to have".to_owned()))?;
        let server = server.unwrap_or(scaled_object);
        if server.is_empty() || server.len() > 253 {
            return Err(wrong("server", server, "name a TritonServer of the same namespace"));
        }
        let models: Vec<String> = match models {
            None => vec![],
            Some(text) if text.len() <= LONGEST => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Some(text) => return Err(wrong("models", text, "it is too long")),
        };
        if models.iter().any(String::is_empty) {
            return Err(wrong("models", &models.join(","), "name models, with commas between them"));
        }
        Ok(Self {
            server: server.to_owned(),
            metric: Metric::named(metric)
                .ok_or_else(|| wrong("metric", metric, &format!("name one of {}", names())))?,
            target: target
                .parse()
                .ok()
                .filter(|target: &f64| target.is_finite() && *target > 0.0)
                .ok_or_else(|| wrong("target", target, "write a number above 0"))?,
            models,
        })
    }

    /// The metadata that say so.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::from([
            ("server".to_owned(), self.server.clone()),
            ("metric".to_owned(), self.metric.name().to_owned()),
            ("target".to_owned(), self.target.to_string()),
        ]);
        if !self.models.is_empty() {
            metadata.insert("models".to_owned(), self.models.join(","));
        }
        metadata
    }

    /// The models it is about.
    pub fn selected(&self) -> Models {
        if self.models.is_empty() { Models::All } else { Models::Named(self.models.clone()) }
    }

    /// The number that answers it: for the queue latency, the mean over all requests; else the sum over all replicas. Replicas that say nothing count as a horizontal pod autoscaler counts them: as having the target
    /// where the others have less, and as having none where the others have more, so that they never turn the decision round. None
    /// where no replica says anything although there are some.
    ///
    /// Source: "Horizontal Pod Autoscaling", algorithm details, missing metrics.
    pub fn answer(&self, load: &ServerLoad) -> Option<f64> {
        let values: Vec<f64> = load.values(self.metric, &self.selected()).into_values().collect();
        let all = load.pods.len() + load.silent.len() + load.unready;
        let missing = all.saturating_sub(values.len());
        let sum: f64 = values.iter().sum();
        if values.is_empty() {
            return (missing == 0).then_some(0.0);
        }
        if self.metric == Metric::QueueLatency {
            return load.queue_latency(&self.selected());
        }
        Some(match sum > self.target * count(values.len()) {
            true => sum.max(self.target * count(all)),
            false => sum + self.target * count(missing),
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "a number of replicas")]
fn count(number: usize) -> f64 {
    number as f64
}

fn missing(key: &'static str, cure: String) -> TriggerError {
    TriggerError::Missing { key, cure }
}

fn wrong(key: &'static str, value: &str, cure: &str) -> TriggerError {
    TriggerError::Wrong { key, value: cut(value), cure: cure.to_owned() }
}

fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::{ModelLoad, PodLoad};

    fn read(metadata: &[(&str, &str)]) -> Result<Trigger, String> {
        Trigger::read("vision", metadata.iter().copied()).map_err(|error| error.to_string())
    }

    #[test]
    fn metadata_are_read_and_written() {
        let short = [("metric", "triton_queued_requests"), ("target", "4"), ("scalerAddress", "x:9090")];
        let trigger = read(&short).unwrap();
        let expected = Trigger { server: "vision".into(), metric: Metric::QueuedRequests, target: 4.0, models: vec![] };
        assert_eq!(trigger, expected);
        let full = Trigger { server: "speech".into(), target: 0.5, models: vec!["a".into(), "b".into()], ..expected };
        let metadata = full.metadata();
        assert_eq!(metadata["models"], "a,b");
        assert_eq!(Trigger::read("vision", metadata.iter().map(|(key, value)| (&**key, &**value))), Ok(full));
    }

    #[test]
    fn mistakes_are_told_with_their_cure() {
        let metric = ("metric", "triton_queued_requests");
        for (metadata, words) in [
            (vec![], "no 'metric': name one of triton_queue_latency_us, triton_queued_requests"),
            (vec![metric], "no 'target'"),
            (vec![("metric", "cpu"), ("target", "1")], "metric: 'cpu': name one of"),
            (vec![metric, ("target", "0")], "target: '0': write a number above 0"),
            (vec![metric, ("target", "NaN")], "write a number above 0"),
            (vec![metric, ("target", "inf")], "write a number above 0"),
            (vec![metric, ("target", "20ms")], "target: '20ms'"),
            (vec![metric, ("target", "1"), ("models", "a,,b")], "name models"),
            (vec![metric, ("target", "1"), ("server", "")], "name a TritonServer"),
            (vec![metric, ("target", "1"), ("model", "a")], "have 'model', which nobody reads"),
        ] {
            let error = read(&metadata).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let long = "x".repeat(LONGEST + 1);
        assert!(read(&[metric, ("target", "1"), ("models", &long)]).unwrap_err().len() < 300);
    }

    fn load(pending: &[f64], silent: usize, unready: usize) -> ServerLoad {
        let pod = |pending: &f64| {
            let model = ModelLoad { pending: *pending, ..ModelLoad::default() };
            PodLoad { models: [("a".to_owned(), model)].into(), ..PodLoad::default() }
        };
        ServerLoad {
            pods: pending.iter().enumerate().map(|(index, value)| (format!("p{index}"), pod(value))).collect(),
            silent: (0..silent).map(|index| (format!("s{index}"), String::new())).collect(),
            unready,
            idle_since: None,
        }
    }

    #[test]
    fn the_queue_latency_is_a_mean_over_requests() {
        let pod = |exits, waited_us| {
            let model = ModelLoad { exits, waited_us, ..ModelLoad::default() };
            PodLoad { models: [("a".to_owned(), model)].into(), ..PodLoad::default() }
        };
        let pods = [("p0".to_owned(), pod(1.0, 90.0)), ("p1".to_owned(), pod(9.0, 10.0))].into();
        let load = ServerLoad { pods, silent: [("s".to_owned(), String::new())].into(), ..ServerLoad::default() };
        let latency = Trigger { metric: Metric::QueueLatency, ..trigger(5.0) };
        assert_eq!(latency.answer(&load), Some(10.0));
        assert_eq!(Trigger { models: vec!["b".into()], ..latency.clone() }.answer(&load), None);
        assert_eq!(latency.answer(&ServerLoad::default()), Some(0.0));
    }

    fn trigger(target: f64) -> Trigger {
        Trigger { server: "vision".into(), metric: Metric::PendingRequests, target, models: vec![] }
    }

    #[test]
    fn replicas_that_say_nothing_never_turn_the_decision_round() {
        let total = |pending: &[f64], silent, unready| trigger(4.0).answer(&load(pending, silent, unready));
        assert_eq!(total(&[], 0, 0), Some(0.0), "there is nobody");
        assert_eq!(total(&[], 1, 0), None);
        assert_eq!(total(&[], 0, 1), None);
        assert_eq!(total(&[2.0, 3.0], 0, 0), Some(5.0));
        assert_eq!(total(&[2.0], 1, 1), Some(10.0), "less than the target: they have the target");
        assert_eq!(total(&[20.0], 1, 1), Some(20.0), "more: they have none");
        assert_eq!(total(&[5.0], 1, 1), Some(12.0), "but fewer replicas than now is no answer to more load");
        let absent = Trigger { models: vec!["b".into()], ..trigger(4.0) };
        assert_eq!(absent.answer(&load(&[1.0], 0, 0)), None, "no replica has the model");
    }

    proptest! {
        #[test]
        fn the_sum_and_the_mean_ask_for_the_same_direction(
            pending in prop::collection::vec(0.0..100.0_f64, 1..6), silent in 0..3_usize, unready in 0..3_usize, target in 0.1..50.0_f64,
        ) {
            let replicas = count(pending.len() + silent + unready);
            let mean = pending.iter().sum::<f64>() / count(pending.len());
            let per_replica = trigger(target).answer(&load(&pending, silent, unready)).unwrap() / replicas;
            match mean > target {
                true => prop_assert!(per_replica >= target * 0.999_999 && per_replica <= mean.max(target) * 1.000_001),
                false => prop_assert!(per_replica <= target * 1.000_001 && per_replica >= mean * 0.999_999),
            }
        }
    }
}
