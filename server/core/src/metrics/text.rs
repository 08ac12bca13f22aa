//! Prometheus' text format 0.0.4, as Triton writes it.
//!
//! Source: Prometheus "Exposition formats"; order and forms of prometheus-cpp, which Triton uses.

use std::fmt::Write;

use super::{
    extra_label::ExtraLabel,
    family::{Family, Page, Value},
};
use crate::latency::{HistogramReading, SummaryReading};

/// Bytes of most lines, so that a page of many models is written without growing much.
pub(super) const TYPICAL_LINE: usize = 112;

impl Page {
    /// The page, Prometheus text format 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.lines() * TYPICAL_LINE);
        let (mut limits, mut quantiles) =
            (ExtraLabel::new("le", write_value), ExtraLabel::new("quantile", write_value));
        for family in &self.families {
            write_family(&mut text, family, &mut limits, &mut quantiles);
        }
        text
    }
}

fn write_family(text: &mut String, family: &Family, limits: &mut ExtraLabel, quantiles: &mut ExtraLabel) {
    let name = &*family.name;
    let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
    text.extend(["# HELP ", name, " ", &help, "\n# TYPE ", name, " ", family.kind.text(), "\n"]);
    for series in &family.series {
        let labels = series.labels.text();
        match &series.value {
            Value::Number(value) => write_line(text, &[name], labels, *value),
            Value::Histogram(histogram) => write_histogram(text, name, labels, histogram, limits),
            Value::Summary(summary) => write_summary(text, name, labels, summary, quantiles),
        }
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &str, histogram: &HistogramReading, limits: &mut ExtraLabel) {
    write_line(text, &[name, "_count"], labels, histogram.count() as f64);
    write_line(text, &[name, "_sum"], labels, histogram.sum);
    let mut count = 0;
    limits.next_series(&[name, "_bucket"], labels, histogram.limits.iter().copied().chain([f64::INFINITY]));
    for (index, own) in histogram.counts.iter().enumerate() {
        count += own;
        limits.begin_line(text, index);
        end_line(text, count as f64);
    }
}

fn write_summary(text: &mut String, name: &str, labels: &str, summary: &SummaryReading, quantiles: &mut ExtraLabel) {
    write_line(text, &[name, "_count"], labels, summary.count as f64);
    write_line(text, &[name, "_sum"], labels, summary.sum);
    quantiles.next_series(&[name], labels, summary.quantiles.iter().map(|(quantile, _)| *quantile));
    for (index, (_, value)) in summary.quantiles.iter().enumerate() {
        quantiles.begin_line(text, index);
        end_line(text, *value);
    }
}

fn write_line(text: &mut String, name: &[&str], labels: &str, value: f64) {
    text.extend(name.iter().copied());
    if !labels.is_empty() {
        text.extend(["{", labels, "}"]);
    }
    text.push(' ');
    end_line(text, value);
}

fn end_line(text: &mut String, value: f64) {
    write_value(text, value);
    text.push('\n');
}

/// A value in the text format, in its shortest form.
pub(crate) fn write_value(page: &mut String, value: f64) {
    // Most values are whole, and those are printed the quicker way.
    let whole = value as u64;
    if whole < WHOLE && whole as f64 == value {
        page.push_str(itoa::Buffer::new().format(whole));
    } else if value.is_nan() {
        page.push_str("Nan");
    } else if value.is_infinite() {
        page.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else if value != 0.0 && value.is_finite() && !(SMALL..LARGE).contains(&value.abs()) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |exponent| ("-", exponent));
        page.extend([digits, "e", sign, if exponent.len() < 2 { "0" } else { "" }, exponent]);
    } else {
        let _ = write!(page, "{value}"); // a String takes everything
    }
}

/// Below this every whole number is a double.
const WHOLE: u64 = 1 << 53;

/// Values that are smaller than the one, or not below the other, are written with an exponent.
const SMALL: f64 = 1e-4;
const LARGE: f64 = 1e17;
