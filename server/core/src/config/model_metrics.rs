//! What a model says of its own metrics: `model_metrics`.

use server_proto::inference::model_metrics::{MetricControl, metric_control::MetricOptions};

use super::ModelConfig;
use crate::latency::FIRST_RESPONSE_FAMILY;

/// Upper limits of the buckets that a model wants of its histogram of first responses, milliseconds. The first of several counts.
pub fn first_response_limits(config: &ModelConfig) -> Option<&[f64]> {
    let control = controls(config).find(|control| family(control) == FIRST_RESPONSE_FAMILY)?;
    match &control.metric_options {
        Some(MetricOptions::HistogramOptions(options)) => Some(&options.buckets),
        None => None,
    }
}

/// Families that a model would have otherwise and that it cannot choose anything of, each once.
pub fn fixed_families(config: &ModelConfig) -> Vec<&str> {
    let mut families: Vec<&str> = controls(config).map(family).filter(|name| *name != FIRST_RESPONSE_FAMILY).collect();
    families.sort_unstable();
    families.dedup();
    families
}

fn controls(config: &ModelConfig) -> impl Iterator<Item = &MetricControl> {
    config.model_metrics.iter().flat_map(|metrics| &metrics.metric_control)
}

fn family(control: &MetricControl) -> &str {
    control.metric_identifier.as_ref().map_or("", |identifier| &identifier.family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    #[test]
    fn buckets_are_those_of_the_family_that_has_some() {
        let control = |family: &str, buckets: &str| {
            format!(
                "metric_control {{ metric_identifier {{ family: \"{family}\" }} histogram_options {{ buckets: [{buckets}] }} }}"
            )
        };
        let own = control(FIRST_RESPONSE_FAMILY, "-1, 0.0, 1, 2.5");
        let text = format!("model_metrics {{ {} {own} {} }}", control("other", "7"), control("other", "8"));
        let config = from_text(&text).unwrap();
        assert_eq!(first_response_limits(&config), Some(&[-1.0, 0.0, 1.0, 2.5][..]));
        assert_eq!(fixed_families(&config), ["other"]);
        let none = ModelConfig::default();
        assert_eq!((first_response_limits(&none), fixed_families(&none)), (None, vec![]));
    }
}
