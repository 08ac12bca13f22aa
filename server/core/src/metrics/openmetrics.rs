//! OpenMetrics 1.0 text, which has exemplars.
//!
//! A counter must end in `_total` there. Series must not have other names than on Triton's page, or dashboards would depend on who
//! asked; so counters that end otherwise are of type `unknown`, which any name may be.
//!
//! Source: OpenMetrics 1.0, sections on the text format.

use std::time::UNIX_EPOCH;

use super::{
    extra_label::ExtraLabel,
    family::{Family, Kind, Page, Value},
    labels::escape,
    text::{TYPICAL_LINE, write_value},
};
use crate::latency::{Exemplar, HistogramReading, SummaryReading};

impl Page {
    /// The page, OpenMetrics text 1.0.0.
    pub fn openmetrics(&self) -> String {
        let mut text = String::with_capacity(self.lines() * TYPICAL_LINE);
        let extra = |label| ExtraLabel::new(label, write_label_number);
        let (mut limits, mut quantiles) = (extra("le"), extra("quantile"));
        for family in &self.families {
            write_family(&mut text, family, &mut limits, &mut quantiles);
        }
        text.push_str("# EOF\n");
        text
    }
}

fn write_family(text: &mut String, family: &Family, limits: &mut ExtraLabel, quantiles: &mut ExtraLabel) {
    let (name, kind) = match (family.kind, family.name.strip_suffix("_total")) {
        (Kind::Counter, Some(name)) => (name, "counter"),
        (Kind::Counter, None) => (&*family.name, "unknown"),
        (kind, _) => (&*family.name, kind.text()),
    };
    text.extend(["# HELP ", name, " "]);
    escape(text, &family.help);
    text.extend(["\n# TYPE ", name, " ", kind, "\n"]);
    for series in &family.series {
        let labels = series.labels.text();
        match &series.value {
            Value::Number(value) => write_line(text, &[&family.name], labels, *value),
            Value::Histogram(histogram) => write_histogram(text, name, labels, histogram, limits),
            Value::Summary(summary) => write_summary(text, name, labels, summary, quantiles),
        }
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &str, histogram: &HistogramReading, limits: &mut ExtraLabel) {
    let mut count = 0;
    limits.next_series(&[name, "_bucket"], labels, histogram.limits.iter().copied().chain([f64::INFINITY]));
    for (index, own) in histogram.counts.iter().enumerate() {
        count += own;
        limits.begin_line(text, index);
        write_number(text, count as f64);
        if let Some(exemplar) = histogram.exemplars.get(index).and_then(Option::as_ref) {
            write_exemplar(text, exemplar);
        }
        text.push('\n');
    }
    // where buckets lie below zero, a sum could fall, and is not given then
    if histogram.limits.first().is_none_or(|lowest| *lowest >= 0.0) {
        write_line(text, &[name, "_sum"], labels, histogram.sum);
        write_line(text, &[name, "_count"], labels, count as f64);
    }
}

fn write_summary(text: &mut String, name: &str, labels: &str, summary: &SummaryReading, quantiles: &mut ExtraLabel) {
    quantiles.next_series(&[name], labels, summary.quantiles.iter().map(|(quantile, _)| *quantile));
    for (index, (_, value)) in summary.quantiles.iter().enumerate() {
        quantiles.begin_line(text, index);
        write_number(text, *value);
        text.push('\n');
    }
    write_line(text, &[name, "_sum"], labels, summary.sum);
    write_line(text, &[name, "_count"], labels, summary.count as f64);
}

fn write_line(text: &mut String, name: &[&str], labels: &str, value: f64) {
    text.extend(name.iter().copied());
    if !labels.is_empty() {
        text.extend(["{", labels, "}"]);
    }
    text.push(' ');
    write_number(text, value);
    text.push('\n');
}

fn write_exemplar(text: &mut String, Exemplar { trace_id, value, at }: &Exemplar) {
    text.push_str(&format!(" # {{trace_id=\"{trace_id}\"}} "));
    write_number(text, *value);
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    text.push_str(&format!(" {}.{:03}", at.as_secs(), at.subsec_millis()));
}

fn write_number(text: &mut String, value: f64) {
    if value.is_nan() {
        text.push_str("NaN");
    } else {
        write_value(text, value);
    }
}

/// Numbers in labels have a point or an exponent always, so that one series has one name.
fn write_label_number(text: &mut String, value: f64) {
    let begin = text.len();
    write_number(text, value);
    if text[begin..].bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        text.push_str(".0");
    }
}

#[cfg(test)]
mod tests {
    use super::super::exposition_tests::page;

    #[test]
    fn every_kind_is_written_as_the_specification_has_it() {
        insta::assert_snapshot!(page().openmetrics());
    }
}
