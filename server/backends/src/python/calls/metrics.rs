//! The metrics of one worker: what its objects stand for. They go with the channel they were made through.

use std::collections::HashMap;

use server_core::{
    custom_metrics::{Labels, Metric, MetricFamily, MetricKind},
    error::{Error, Result},
};

use super::{
    super::{channel::not_understood, encode::Message, marshal::Value, wire::metric},
    Calls, answer,
};

/// Families and series, each by the number that the worker has given it.
#[derive(Default)]
pub(super) struct Metrics {
    families: HashMap<u64, MetricFamily>,
    series: HashMap<u64, Series>,
}

struct Series {
    family: u64,
    metric: Metric,
}

/// What a worker wants of metrics.
pub(super) enum MetricCall {
    /// A family.
    Family { number: u64, name: String, description: String, kind: MetricKind },
    /// A series of a family.
    Series { number: u64, family: u64, labels: Labels, buckets: Option<Vec<f64>> },
    /// A change of a number, which is answered where it might fail.
    Change { what: Change, number: u64, value: f64, wants_answer: bool },
    /// The value of a series.
    Value { number: u64 },
    /// A family is not held any more, nor are its series. No answer.
    DropFamily { number: u64 },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Increment,
    Set,
    Observe,
}

impl MetricCall {
    /// Reads one, without the word that it is one.
    ///
    /// Errors: it cannot be understood.
    pub(super) fn read(items: &[Value<'_>]) -> Result<Self> {
        let number = |value: &Value<'_>| value.number().unwrap_or_default();
        let (Some(kind), rest) = (items.first().and_then(Value::number), &items[1.min(items.len())..]) else {
            return Err(not_understood("no such call for metrics"));
        };
        let change = |what| match rest {
            [series, Value::Float(value), Value::Bool(wants_answer)] => {
                Ok(Self::Change { what, number: number(series), value: *value, wants_answer: *wants_answer })
            }
            _ => Err(not_understood("no such change of a metric")),
        };
        match (kind, rest) {
            (metric::FAMILY, [family, name, description, kind]) => Ok(Self::Family {
                number: number(family),
                name: name.text().to_owned(),
                description: description.text().to_owned(),
                kind: match kind.number() {
                    Some(0) => MetricKind::Counter,
                    Some(1) => MetricKind::Gauge,
                    Some(2) => MetricKind::Histogram,
                    _ => return Err(not_understood("no such kind of metric")),
                },
            }),
            (metric::SERIES, [series, family, Value::Dict(labels), buckets]) => Ok(Self::Series {
                number: number(series),
                family: number(family),
                labels: labels.iter().map(|(name, value)| (name.text().to_owned(), value.text().to_owned())).collect(),
                buckets: match buckets {
                    Value::List(bounds) => Some(bounds.iter().map(float).collect::<Result<_>>()?),
                    _ => None,
                },
            }),
            (metric::INCREMENT, _) => change(Change::Increment),
            (metric::SET, _) => change(Change::Set),
            (metric::OBSERVE, _) => change(Change::Observe),
            (metric::VALUE, [series]) => Ok(Self::Value { number: number(series) }),
            (metric::DROP_FAMILY, [family]) => Ok(Self::DropFamily { number: number(family) }),
            _ => Err(not_understood("no such call for metrics")),
        }
    }
}

fn float(value: &Value<'_>) -> Result<f64> {
    match value {
        Value::Float(value) => Ok(*value),
        _ => Err(not_understood("a bound of a bucket that is no number")),
    }
}

impl Metrics {
    /// Does what the worker wants. Returns the answer, if it waits for one.
    ///
    /// Errors: it waits for an answer, and that is the error.
    pub(super) fn answer(&mut self, call: MetricCall, calls: &Calls) -> Result<Option<Message>> {
        match call {
            MetricCall::Family { number, name, description, kind } => {
                let family = calls.host()?.custom_metrics().family(kind, &name, &description)?;
                self.families.insert(number, family);
            }
            MetricCall::Series { number, family, labels, buckets } => {
                let holder = self.families.get(&family).ok_or_else(|| Error::internal("the metric family is gone"))?;
                let metric = holder.metric(labels, buckets.as_deref())?;
                self.series.insert(number, Series { family, metric });
            }
            MetricCall::Change { what, number, value, wants_answer } => {
                let changed = self.series(number).and_then(|series| match what {
                    Change::Increment => series.increment(value),
                    Change::Set => series.set(value),
                    Change::Observe => series.observe(value),
                });
                if !wants_answer {
                    return Ok(None);
                }
                changed?;
            }
            MetricCall::Value { number } => return Ok(Some(answer::number(self.series(number)?.value()?))),
            MetricCall::DropFamily { number } => {
                self.series.retain(|_, series| series.family != number);
                self.families.remove(&number);
                return Ok(None);
            }
        }
        Ok(Some(answer::done()))
    }

    fn series(&self, number: u64) -> Result<&Metric> {
        self.series.get(&number).map(|series| &series.metric).ok_or_else(|| Error::internal("the metric is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_understood_is_refused() {
        let call = |kind, rest: &[Value<'static>]| {
            MetricCall::read(&[&[Value::Int(kind)], rest].concat()).map(|_| ()).map_err(|error| error.message)
        };
        assert!(call(5, &[Value::Int(1)]).is_ok());
        assert!(call(2, &[Value::Int(1), Value::Float(1.0), Value::Bool(false)]).is_ok());
        assert!(call(2, &[Value::Int(1), Value::Int(1), Value::Bool(false)]).is_err());
        assert!(call(0, &[Value::Int(1), Value::Str("a"), Value::Str("b"), Value::Int(3)]).is_err());
        assert!(call(99, &[]).is_err());
        assert!(MetricCall::read(&[]).is_err());
    }
}
