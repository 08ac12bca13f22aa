//! Metrics of a model: every control names a family and says how to keep it, and tags can be labels: one that cannot
//! would make the page of all models unreadable.

use server_proto::inference::model_metrics::{MetricControl, metric_control::MetricOptions};

use super::findings::Findings;
use crate::config::ModelConfig;

pub(super) fn check(config: &ModelConfig, findings: &mut Findings<'_>) {
    let controls = config.model_metrics.iter().flat_map(|metrics| &metrics.metric_control);
    for (index, control) in controls.enumerate() {
        check_control(control, &format!("model_metrics.metric_control[{index}]"), findings);
    }
    let mut tags: Vec<&String> = config.metric_tags.keys().filter(|tag| !is_label(tag)).collect();
    tags.sort();
    for tag in tags {
        findings.add_for_model(
            format!("metric_tags[{tag:?}]"),
            format!("metric tag '{tag}' must be made of letters, digits and underscores, the first one no underscore,"),
        );
    }
}

/// Whether `_` and the tag make the name of a label. Names that start with two underscores belong to Prometheus.
fn is_label(tag: &str) -> bool {
    !tag.is_empty() && !tag.starts_with('_') && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn check_control(control: &MetricControl, path: &str, findings: &mut Findings<'_>) {
    match &control.metric_identifier {
        None => findings.add(format!("{path}.metric_identifier"), "metric control must specify 'metric_identifier'"),
        Some(identifier) if identifier.family.is_empty() => findings
            .add(format!("{path}.metric_identifier.family"), "metric identifier must specify non-empty 'family'"),
        Some(_) => {}
    }
    match &control.metric_options {
        None => findings.add(format!("{path}.histogram_options"), "metric control must specify 'histogram_options'"),
        Some(MetricOptions::HistogramOptions(options)) if options.buckets.is_empty() => findings
            .add(format!("{path}.histogram_options.buckets"), "histogram options must specify non-empty 'buckets'"),
        Some(MetricOptions::HistogramOptions(options)) if !are_ascending(&options.buckets) => {
            findings.add(format!("{path}.histogram_options.buckets"), "Bucket Boundaries must be strictly sorted");
        }
        Some(MetricOptions::HistogramOptions(_)) => {}
    }
}

/// Only the last may be infinite: that bucket is always there.
fn are_ascending(buckets: &[f64]) -> bool {
    buckets.windows(2).all(|pair| pair[0] < pair[1]) && buckets.iter().all(|limit| *limit > f64::NEG_INFINITY)
}
