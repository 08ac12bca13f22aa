//! Custom metrics on the page: families by name, series by their labels.

use std::sync::Arc;

use super::{families::Families, kind::MetricKind, series::Reading};
use crate::metrics::{Family, Kind, LabelSet, Page, Series, Value};

pub(super) fn add_to(page: &mut Page, families: &Families) {
    let shown = families.iter().filter(|(_, family)| !family.series.is_empty());
    page.merge(shown.map(|(name, family)| {
        Family {
            name: name.to_string().into(),
            help: family.help.clone().into(),
            kind: family.kind.into(),
            series: family
                .series
                .iter()
                .map(|(labels, state)| Series {
                    labels: Arc::new(LabelSet::new(
                        labels.iter().map(|(name, value)| (name.clone().into(), value.as_str().into())).collect(),
                    )),
                    value: match state.series.read() {
                        Reading::Number(value) => Value::Number(value),
                        Reading::Histogram(histogram) => Value::Histogram(Box::new(histogram)),
                    },
                })
                .collect(),
        }
    }));
}

impl From<MetricKind> for Kind {
    fn from(kind: MetricKind) -> Self {
        match kind {
            MetricKind::Counter => Self::Counter,
            MetricKind::Gauge => Self::Gauge,
            MetricKind::Histogram => Self::Histogram,
        }
    }
}
