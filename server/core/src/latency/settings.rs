//! Which distributions are kept: `--metrics-config`.

use std::sync::Arc;

use super::quantiles::Quantile;

/// Triton's histogram of the time to the first response, whose buckets a model may choose.
pub const FIRST_RESPONSE_FAMILY: &str = "nv_inference_first_response_histogram_ms";

/// Its buckets where a model chooses none, milliseconds.
pub(super) const FIRST_RESPONSE_LIMITS: [f64; 4] = [100.0, 500.0, 2000.0, 5000.0];

/// Quantiles of summaries where none are given, and their errors.
const DEFAULT_QUANTILES: [(f64, f64); 5] = [(0.5, 0.05), (0.9, 0.01), (0.95, 0.001), (0.99, 0.001), (0.999, 0.001)];

/// Most quantiles that may be asked for: each is a series of seven families, for every model.
const MAX_QUANTILES: usize = 64;

/// Which distributions are kept of every model version.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencySettings {
    /// `counter_latencies`: without them the counters of models stay 0 on the page, all of them, as in Triton.
    pub counters: bool,
    /// `histogram_latencies`: Triton's histogram of first responses.
    pub first_response: bool,
    /// `summary_latencies`, with `summary_quantiles`.
    pub quantiles: Option<Arc<[Quantile]>>,
    /// `latency_histograms`: this server's own, which can be aggregated.
    pub own_histograms: bool,
}

impl Default for LatencySettings {
    fn default() -> Self {
        Self { counters: true, first_response: false, quantiles: None, own_histograms: false }
    }
}

/// Why a setting is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Neither true nor false.
    #[error("--metrics-config {key}: expected true or false, got '{value}'")]
    NotBoolean {
        /// The setting.
        key: String,
        /// What was given.
        value: String,
    },
    /// Not a list of pairs.
    #[error(
        "--metrics-config summary_quantiles: expected <quantile>:<error> pairs, both numbers between 0 and 1, separated by commas, \
         for example 0.5:0.05,0.9:0.01; got '{0}'"
    )]
    NotQuantiles(String),
    /// More than are kept.
    #[error("--metrics-config summary_quantiles: {0} quantiles are given, and at most {MAX_QUANTILES} are possible")]
    TooManyQuantiles(usize),
}

impl LatencySettings {
    /// From pairs of key and value; the last of two wins. What has another key changes nothing, as in Triton.
    ///
    /// Errors: a value is none for its key.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, SettingError> {
        let mut settings = Self::default();
        let (mut has_summaries, mut quantiles) = (false, None);
        for (key, value) in pairs {
            match key {
                "counter_latencies" => settings.counters = boolean(key, value)?,
                "histogram_latencies" => settings.first_response = boolean(key, value)?,
                "summary_latencies" => has_summaries = boolean(key, value)?,
                "summary_quantiles" => quantiles = Some(parse_quantiles(value)?),
                "latency_histograms" => settings.own_histograms = boolean(key, value)?,
                _ => {}
            }
        }
        if has_summaries {
            let default = || DEFAULT_QUANTILES.map(|(quantile, error)| Quantile { quantile, error }).to_vec();
            settings.quantiles = Some(quantiles.unwrap_or_else(default).into());
        }
        Ok(settings)
    }

    /// Whether any are kept at all.
    pub fn has_distributions(&self) -> bool {
        self.first_response || self.quantiles.is_some() || self.own_histograms
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, SettingError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" => Ok(true),
        "false" | "0" | "off" => Ok(false),
        _ => Err(SettingError::NotBoolean { key: key.into(), value: value.into() }),
    }
}

fn parse_quantiles(text: &str) -> Result<Vec<Quantile>, SettingError> {
    let number = |text: &str| text.trim().parse().ok().filter(|number: &f64| (0.0..=1.0).contains(number));
    let pair = |pair: &str| {
        let (quantile, error) = pair.split_once(':')?;
        Some(Quantile { quantile: number(quantile)?, error: number(error)? })
    };
    let mut quantiles: Vec<Quantile> =
        text.split(',').map(pair).collect::<Option<_>>().ok_or_else(|| SettingError::NotQuantiles(text.into()))?;
    // one series for each: the last of two wins
    quantiles.reverse();
    quantiles.sort_by(|one, other| one.quantile.total_cmp(&other.quantile));
    quantiles.dedup_by(|next, kept| next.quantile == kept.quantile);
    if quantiles.len() > MAX_QUANTILES {
        return Err(SettingError::TooManyQuantiles(quantiles.len()));
    }
    Ok(quantiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_which_distributions_are_kept() {
        let default = LatencySettings::parse([]).unwrap();
        assert_eq!(default, LatencySettings::default());
        assert!(!default.has_distributions());
        let all = [("summary_latencies", "true"), ("histogram_latencies", "TRUE"), ("counter_latencies", "false")];
        let all = LatencySettings::parse(all.into_iter().chain([("another", "x")])).unwrap();
        assert!(all.first_response && !all.counters && !all.own_histograms);
        assert_eq!(all.quantiles.map(|quantiles| quantiles.len()), Some(5));
        let own = LatencySettings::parse([("latency_histograms", "false"), ("latency_histograms", "true")]).unwrap();
        assert!(own.own_histograms && own.has_distributions());
    }

    #[test]
    fn quantiles_are_pairs() {
        let of = |text| LatencySettings::parse([("summary_latencies", "true"), ("summary_quantiles", text)]);
        let pairs = |text| {
            let quantiles = of(text).unwrap().quantiles.unwrap();
            quantiles.iter().map(|it| (it.quantile, it.error)).collect::<Vec<_>>()
        };
        assert_eq!(pairs("0.9:0.01, 0.5:0.05"), [(0.5, 0.05), (0.9, 0.01)]);
        assert_eq!(pairs("0:0,1:1,1:0.5"), [(0.0, 0.0), (1.0, 0.5)]);
        for bad in ["", ",", "0.5", "0.5:", "a:b", "1.5:0.1", "0.5:-1", "0.5:0.1,", "nan:0.1", "0.5:0.1:2"] {
            assert_eq!(of(bad), Err(SettingError::NotQuantiles(bad.into())), "{bad:?}");
        }
        let many = (0..65).map(|it| format!("0.{it:03}1:0")).collect::<Vec<_>>().join(",");
        assert_eq!(of(&many), Err(SettingError::TooManyQuantiles(65)));
        let error = LatencySettings::parse([("histogram_latencies", "maybe")]).unwrap_err();
        assert_eq!(error.to_string(), "--metrics-config histogram_latencies: expected true or false, got 'maybe'");
    }
}
