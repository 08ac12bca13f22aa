//! Families of a page and their series, before anybody has decided how they are written.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::labels::LabelSet;
use crate::{
    latency::{HistogramReading, SummaryReading},
    stats::CustomCounter,
};

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// How many observations lie at or below each of some limits.
    Histogram,
    /// Quantiles of observations.
    Summary,
}

impl Kind {
    /// The word of the page.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// A family: one name, and one series for each set of labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Name, as Prometheus has them.
    pub name: Cow<'static, str>,
    /// What it tells, in any characters.
    pub help: Cow<'static, str>,
    /// What it is.
    pub kind: Kind,
    /// In the order of the page.
    pub series: Vec<Series>,
}

/// One series of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels, without those that its buckets have besides.
    pub labels: Arc<LabelSet>,
    /// What it says now.
    pub value: Value,
}

/// What a series says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Histogram(Box<HistogramReading>),
    /// Of a summary.
    Summary(Box<SummaryReading>),
}

/// Everything that a page shows, in its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// No two have one name.
    pub families: Vec<Family>,
}

impl Family {
    /// A family without series.
    pub(super) fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { name: name.into(), help: help.into(), kind, series: Vec::new() }
    }

    /// A family with one series that has no labels.
    pub(super) fn single(kind: Kind, name: &'static str, help: &'static str, value: f64) -> Self {
        let series = Series { labels: Arc::default(), value: Value::Number(value) };
        Self { series: vec![series], ..Self::new(kind, name, help) }
    }

    /// With one series for each of those numbers.
    pub(super) fn with(mut self, numbers: impl Iterator<Item = (Arc<LabelSet>, f64)>) -> Self {
        self.series.reserve(numbers.size_hint().1.unwrap_or(0));
        self.series.extend(numbers.map(|(labels, value)| Series { labels, value: Value::Number(value) }));
        self
    }
}

impl Value {
    /// Lines of a text that say it.
    fn lines(&self) -> usize {
        match self {
            Self::Number(_) => 1,
            Self::Histogram(reading) => reading.counts.len() + 2,
            Self::Summary(reading) => reading.quantiles.len() + 2,
        }
    }
}

impl Page {
    /// Lines of a text that is the page.
    pub(super) fn lines(&self) -> usize {
        let of_family = |family: &Family| 2 + family.series.iter().map(|series| series.value.lines()).sum::<usize>();
        self.families.iter().map(of_family).sum()
    }

    /// Adds counters of the server as a whole.
    pub fn add_counters(&mut self, counters: &[CustomCounter]) {
        let families = counters.iter().map(|it| Family::single(Kind::Counter, it.name, it.help, it.value as f64));
        self.families.extend(families);
    }

    /// Adds families whose names may be on the page already: the series stand with those then, but for labels that are there:
    /// what the server counts itself stands alone.
    pub(crate) fn merge(&mut self, families: impl Iterator<Item = Family>) {
        let there: HashMap<Cow<'static, str>, usize> =
            self.families.iter().enumerate().map(|(index, family)| (family.name.clone(), index)).collect();
        for family in families {
            let Some(own) = there.get(&family.name).map(|&index| &mut self.families[index]) else {
                self.families.push(family);
                continue;
            };
            let counted: HashSet<String> = own.series.iter().map(|series| series.labels.text().to_owned()).collect();
            own.series.extend(family.series.into_iter().filter(|series| !counted.contains(series.labels.text())));
        }
    }
}
