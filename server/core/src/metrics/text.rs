//! Prometheus' text format 0.0.4, as Triton writes it.
//!
//! Source: Prometheus "Exposition formats"; order and forms of prometheus-cpp, which Triton uses.

use super::family::{Family, Page, Value};
use crate::latency::{HistogramReading, SummaryReading};

/// Bytes of most lines, so that a page of many models is written without growing much.
const TYPICAL_LINE: usize = 112;

impl Page {
    /// The page, Prometheus text format 0.0.4.
    pub fn text(&self) -> String {
        let lines = self.families.iter().map(|family| family.series.len() + 2).sum::<usize>();
        let mut text = String::with_capacity(lines * TYPICAL_LINE);
        for family in &self.families {
            write_family(&mut text, family);
        }
        text
    }
}

fn write_family(text: &mut String, family: &Family) {
    let name = &*family.name;
    let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
    text.extend(["# HELP ", name, " ", &help, "\n# TYPE ", name, " ", family.kind.text(), "\n"]);
    for series in &family.series {
        let labels = series.labels.text();
        match &series.value {
            Value::Number(value) => write_line(text, &[name], labels, None, *value),
            Value::Histogram(histogram) => write_histogram(text, name, labels, histogram),
            Value::Summary(summary) => write_summary(text, name, labels, summary),
        }
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &str, histogram: &HistogramReading) {
    write_line(text, &[name, "_count"], labels, None, histogram.count() as f64);
    write_line(text, &[name, "_sum"], labels, None, histogram.sum);
    let mut count = 0;
    let limits = histogram.limits.iter().copied().chain([f64::INFINITY]);
    for (limit, own) in limits.zip(&histogram.counts) {
        count += own;
        write_line(text, &[name, "_bucket"], labels, Some(("le", limit)), count as f64);
    }
}

fn write_summary(text: &mut String, name: &str, labels: &str, summary: &SummaryReading) {
    write_line(text, &[name, "_count"], labels, None, summary.count as f64);
    write_line(text, &[name, "_sum"], labels, None, summary.sum);
    for &(quantile, value) in &summary.quantiles {
        write_line(text, &[name], labels, Some(("quantile", quantile)), value);
    }
}

fn write_line(text: &mut String, name: &[&str], labels: &str, more: Option<(&str, f64)>, value: f64) {
    text.extend(name.iter().copied());
    if !labels.is_empty() || more.is_some() {
        text.extend(["{", labels]);
        if let Some((label, value)) = more {
            text.extend([if labels.is_empty() { "" } else { "," }, label, "=\""]);
            write_value(text, value);
            text.push('"');
        }
        text.push('}');
    }
    text.push(' ');
    write_value(text, value);
    text.push('\n');
}

/// A label's value in the text format: backslash, quote and line feed are escaped.
pub(crate) fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

/// A value in the text format, in its shortest form.
pub(crate) fn write_value(page: &mut String, value: f64) {
    // Most values are whole, and those are printed the quicker way.
    if (0.0..WHOLE).contains(&value) && value.fract() == 0.0 {
        page.push_str(itoa::Buffer::new().format(value as u64));
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
        page.push_str(&value.to_string());
    }
}

/// Below this every whole number is a double.
const WHOLE: f64 = (1u64 << 53) as f64;

/// Values that are smaller than the one, or not below the other, are written with an exponent.
const SMALL: f64 = 1e-4;
const LARGE: f64 = 1e17;
