//! Custom metrics in Prometheus' text format 0.0.4: families by name, series by their labels.

use super::{
    Families, FamilyState, Labels,
    series::{Histogram, Reading},
};
use crate::metrics::{escape, write_value};

pub(super) fn page(families: &Families) -> String {
    let mut page = String::new();
    for (name, family) in families.iter().filter(|(_, family)| !family.series.is_empty()) {
        write_family(&mut page, name, family);
    }
    page
}

fn write_family(page: &mut String, name: &str, family: &FamilyState) {
    let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
    page.extend(["# HELP ", name, " ", &help, "\n# TYPE ", name, " ", family.kind.text(), "\n"]);
    for (labels, state) in &family.series {
        match state.series.read() {
            Reading::Number(value) => write_line(page, &[name], labels, None, value),
            Reading::Histogram(histogram) => write_histogram(page, name, labels, &histogram),
        }
    }
}

fn write_histogram(page: &mut String, name: &str, labels: &Labels, histogram: &Histogram) {
    let mut count = 0;
    let limits = histogram.limits.iter().copied().chain([f64::INFINITY]);
    for (limit, own) in limits.zip(&histogram.counts) {
        count += own;
        write_line(page, &[name, "_bucket"], labels, Some(limit), count as f64);
    }
    write_line(page, &[name, "_sum"], labels, None, histogram.sum);
    write_line(page, &[name, "_count"], labels, None, count as f64);
}

fn write_line(page: &mut String, name: &[&str], labels: &Labels, limit: Option<f64>, value: f64) {
    page.extend(name.iter().copied());
    let mut opening = "{";
    for (label, value) in labels {
        page.extend([opening, label, "=\""]);
        escape(page, value);
        page.push('"');
        opening = ",";
    }
    if let Some(limit) = limit {
        page.extend([opening, "le=\""]);
        write_value(page, limit);
        page.push('"');
        opening = ",";
    }
    page.push_str(if opening == "{" { " " } else { "} " });
    write_value(page, value);
    page.push('\n');
}
