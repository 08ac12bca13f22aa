//! Which form of the page a client is sent.

use super::family::Page;

/// A form of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4, as Triton sends it whatever is asked for.
    Text,
    /// OpenMetrics text 1.0.0.
    OpenMetrics,
    /// Prometheus' protobuf messages.
    Protobuf,
}

impl Format {
    /// The one that a client likes best of those it names, by the values of its `Accept` headers: the first of several that it
    /// likes equally. Text if it names none of them, or says nothing that can be understood.
    ///
    /// Source: RFC 9110, section 12.5.1; the headers of Prometheus.
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut best = (Self::Text, 0);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            if let Some((format, weight)) = parse(range)
                && weight > best.1
            {
                best = (format, weight);
            }
        }
        best.0
    }

    /// The media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The page in this form.
    pub fn write(self, page: &Page) -> Vec<u8> {
        match self {
            Self::Text => page.text().into_bytes(),
            Self::OpenMetrics => page.openmetrics().into_bytes(),
            Self::Protobuf => page.protobuf(),
        }
    }
}

/// The form that a range of media types names, and how much it is liked, in thousandths.
fn parse(range: &str) -> Option<(Format, u32)> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next()?.to_ascii_lowercase();
    let (mut weight, mut version, mut proto, mut encoding) = (1.0, None, None, None);
    for parameter in parts {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        match &*name.trim().to_ascii_lowercase() {
            "q" => weight = value.parse::<f64>().ok().filter(|weight| (0.0..=1.0).contains(weight))?,
            "version" => version = Some(value),
            "proto" => proto = Some(value),
            "encoding" => encoding = Some(value),
            _ => {} // `escaping` of names, `charset`: names here need none, and all is UTF-8
        }
    }
    let format = match &*media_type {
        "text/plain" | "text/*" | "*/*" if version.is_none_or(|version| version == "0.0.4") => Format::Text,
        // 0.0.1 is what Prometheus called it before it was a standard
        "application/openmetrics-text" if matches!(version, None | Some("1.0.0" | "0.0.1")) => Format::OpenMetrics,
        "application/vnd.google.protobuf"
            if proto == Some("io.prometheus.client.MetricFamily") && encoding == Some("delimited") =>
        {
            Format::Protobuf
        }
        _ => return None,
    };
    Some((format, (weight * 1000.0) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expect: Format) {
        assert_eq!(Format::accepted([accept]), expect, "{accept}");
    }

    #[test]
    fn a_client_gets_what_it_likes_best() {
        check("*/*", Format::Text);
        check("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text);
        let openmetrics =
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75";
        check(&format!("{openmetrics},text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), Format::OpenMetrics);
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        check(&format!("{protobuf},{openmetrics},text/plain;version=0.0.4;q=0.5"), Format::Protobuf);
        check(&format!("{protobuf};q=0.4,{openmetrics};q=0.3"), Format::OpenMetrics);
        check("text/plain;version=0.0.4;q=0.9, application/openmetrics-text;q=0.8", Format::Text);
        check("application/openmetrics-text; version=\"1.0.0\"; escaping=allow-utf-8; Q=1", Format::OpenMetrics);
        assert_eq!(Format::accepted(["text/plain;q=0.1", "application/openmetrics-text"]), Format::OpenMetrics);
    }

    #[test]
    fn what_is_not_understood_is_answered_with_text() {
        for junk in [
            "",
            ",,;;=",
            "application/openmetrics-text;version=9",
            "application/openmetrics-text;q=2",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
            "application/openmetrics-text;q",
            "application/vnd.google.protobuf",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
            "image/png",
        ] {
            check(junk, Format::Text);
        }
        assert_eq!(Format::accepted([]), Format::Text);
        check(&"a/b;c=d,".repeat(10_000), Format::Text);
    }
}
