//! Custom metrics in Prometheus' text format 0.0.4: families by name, series by their labels.

use super::{
    Families, FamilyState, Labels,
    series::{Histogram, Reading},
};
use crate::metrics::{escape, write_value};

pub(super) fn add_to(page: &mut String, families: &Families) {
    for (name, family) in families.iter().filter(|(_, family)| !family.series.is_empty()) {
        if let Some(end) = end_of(page, name) {
            // what the server counts itself under the same labels stands alone
            let mut more = String::new();
            write_series(&mut more, name, family);
            let is_there =
                |line: &str| line.rsplit_once(' ').is_some_and(|(series, _)| page.contains(&format!("\n{series} ")));
            let more: String = more.split_inclusive('\n').filter(|line| !is_there(line)).collect();
            page.insert_str(end, &more);
            continue;
        }
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        page.extend(["# HELP ", name, " ", &help, "\n# TYPE ", name, " ", family.kind.text(), "\n"]);
        write_series(page, name, family);
    }
}

/// Where the series of a family end that is on the page already.
fn end_of(page: &str, name: &str) -> Option<usize> {
    let heading = format!("# TYPE {name} ");
    let begin = page.find(&heading)?;
    Some(page[begin + 1..].find("\n#").map_or(page.len(), |end| begin + 1 + end + 1))
}

fn write_series(page: &mut String, name: &str, family: &FamilyState) {
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
