//! OpenMetrics 1.0 text, which has exemplars.
//!
//! A counter must end in `_total` there. Series must not have other names than on Triton's page, or dashboards would depend on who
//! asked; so counters that end otherwise are of type `unknown`, which any name may be.
//!
//! Source: OpenMetrics 1.0, sections on the text format.

use std::time::UNIX_EPOCH;

use super::{
    family::{Family, Kind, Page, Value},
    text::{escape, write_value},
};
use crate::latency::{Exemplar, HistogramReading, SummaryReading};

impl Page {
    /// The page, OpenMetrics text 1.0.0.
    pub fn openmetrics(&self) -> String {
        let mut text = String::new();
        for family in &self.families {
            write_family(&mut text, family);
        }
        text.push_str("# EOF\n");
        text
    }
}

fn write_family(text: &mut String, family: &Family) {
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
            Value::Number(value) => write_line(text, &[&family.name], labels, None, *value, None),
            Value::Histogram(histogram) => write_histogram(text, name, labels, histogram),
            Value::Summary(summary) => write_summary(text, name, labels, summary),
        }
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &str, histogram: &HistogramReading) {
    let mut count = 0;
    let limits = histogram.limits.iter().copied().chain([f64::INFINITY]);
    for (index, (limit, own)) in limits.zip(&histogram.counts).enumerate() {
        count += own;
        let exemplar = histogram.exemplars.get(index).and_then(Option::as_ref);
        write_line(text, &[name, "_bucket"], labels, Some(("le", limit)), count as f64, exemplar);
    }
    // where buckets lie below zero, a sum could fall, and is not given then
    if histogram.limits.first().is_none_or(|lowest| *lowest >= 0.0) {
        write_line(text, &[name, "_sum"], labels, None, histogram.sum, None);
        write_line(text, &[name, "_count"], labels, None, count as f64, None);
    }
}

fn write_summary(text: &mut String, name: &str, labels: &str, summary: &SummaryReading) {
    for &(quantile, value) in &summary.quantiles {
        write_line(text, &[name], labels, Some(("quantile", quantile)), value, None);
    }
    write_line(text, &[name, "_sum"], labels, None, summary.sum, None);
    write_line(text, &[name, "_count"], labels, None, summary.count as f64, None);
}

fn write_line(
    text: &mut String,
    name: &[&str],
    labels: &str,
    more: Option<(&str, f64)>,
    value: f64,
    exemplar: Option<&Exemplar>,
) {
    text.extend(name.iter().copied());
    if !labels.is_empty() || more.is_some() {
        text.extend(["{", labels]);
        if let Some((label, value)) = more {
            text.extend([if labels.is_empty() { "" } else { "," }, label, "=\""]);
            write_label_number(text, value);
            text.push('"');
        }
        text.push('}');
    }
    text.push(' ');
    write_number(text, value);
    if let Some(Exemplar { trace_id, value, at }) = exemplar {
        text.push_str(&format!(" # {{trace_id=\"{trace_id}\"}} "));
        write_number(text, *value);
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        text.push_str(&format!(" {}.{:03}", at.as_secs(), at.subsec_millis()));
    }
    text.push('\n');
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
