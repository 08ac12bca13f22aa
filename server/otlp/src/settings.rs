//! Where spans go and how many wait: the settings of the batch span processor.

use std::time::Duration;

/// Where a collector listens that runs beside the program.
pub const DEFAULT_URL: &str = "http://localhost:4318/v1/traces";

/// Where spans go, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where they are posted to.
    pub url: String,
    /// Headers of each export: names and values.
    pub headers: Vec<(String, String)>,
    /// What is known of the program: names and values.
    pub resource: Vec<(String, String)>,
    /// The part of the program that makes them.
    pub scope: &'static str,
    /// Most spans that wait; more are dropped.
    pub max_queue_size: usize,
    /// Between two exports, unless a batch is full before.
    pub schedule_delay: Duration,
    /// Most spans of one export.
    pub max_export_batch_size: usize,
}

impl Settings {
    /// The defaults of the specification, for that part of a program.
    pub fn new(scope: &'static str) -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            headers: Vec::new(),
            resource: Vec::new(),
            scope,
            max_queue_size: 2048,
            schedule_delay: Duration::from_secs(5),
            max_export_batch_size: 512,
        }
    }
}

/// The headers that the environment wants exports to have, such as those by which a collector knows its callers:
/// `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, or else `OTEL_EXPORTER_OTLP_HEADERS`. What is no pair is left out.
pub fn headers_of_environment(variable: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let list = given("OTEL_EXPORTER_OTLP_TRACES_HEADERS").or_else(|| given("OTEL_EXPORTER_OTLP_HEADERS"));
    let pairs = list.iter().flat_map(|list| list.split(',')).filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), percent_decoded(value.trim()))).collect()
}

/// Values of such lists are percent-encoded.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What tells of this crate in every resource.
///
/// Source: OpenTelemetry semantic conventions, "Telemetry SDK": `opentelemetry` is the name of the project's own alone.
const SDK: [(&str, &str); 3] = [
    ("telemetry.sdk.language", "rust"),
    ("telemetry.sdk.name", "triton-operator"),
    ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
];

/// What is known of the program: what makes the spans, and what the environment says, `OTEL_RESOURCE_ATTRIBUTES` and
/// `OTEL_SERVICE_NAME`, over the name it has otherwise. What the program is told by itself goes over all.
pub fn resource_of_environment(
    service: &str,
    variable: impl Fn(&str) -> Option<String>,
    given: &[(String, String)],
) -> Vec<(String, String)> {
    let mut resource: Vec<(String, String)> = SDK
        .into_iter()
        .chain([("service.name", service)])
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut set = |key: &str, value: &str| match resource.iter_mut().find(|(other, _)| other == key) {
        Some(attribute) => value.clone_into(&mut attribute.1),
        None => resource.push((key.to_owned(), value.to_owned())),
    };
    for pair in variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default().split(',') {
        if let Some((key, value)) = pair.split_once('=') {
            set(key.trim(), value.trim());
        }
    }
    if let Some(name) = variable("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
        set("service.name", &name);
    }
    for (key, value) in given {
        set(key, value);
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_for_traces_or_else_for_everything() {
        let headers = |names: &[(&'static str, &'static str)]| {
            let names = names.to_vec();
            headers_of_environment(|name| {
                names.iter().find(|(other, _)| *other == name).map(|(_, it)| (*it).to_owned())
            })
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let all = ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b%3D=, x = %zz%4 ,junk");
        assert_eq!(headers(&[all]), [pair("api-key", "a b=="), pair("x", "%zz%4")]);
        assert_eq!(headers(&[all, ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "t=1")]), [pair("t", "1")]);
        assert_eq!(headers(&[]), []);
    }

    #[test]
    fn what_is_given_goes_over_the_environment() {
        let environment = |name: &str| match name {
            "OTEL_RESOURCE_ATTRIBUTES" => Some("service.name=a, zone = z ,junk".to_owned()),
            "OTEL_SERVICE_NAME" => Some("b".to_owned()),
            _ => None,
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let given = [pair("zone", "y"), pair("k", "v")];
        let own = SDK.map(|(key, value)| pair(key, value));
        let resource = resource_of_environment("own", environment, &given);
        let (sdk, others) = resource.split_at(own.len());
        assert_eq!(sdk, own);
        assert_eq!(others, [pair("service.name", "b"), pair("zone", "y"), pair("k", "v")]);
        let plain = resource_of_environment("own", |_| None, &[pair("telemetry.sdk.language", "x")]);
        assert_eq!((&plain[0].1, &plain[3]), (&"x".to_owned(), &pair("service.name", "own")));
    }
}
