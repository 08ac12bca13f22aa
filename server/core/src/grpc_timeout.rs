//! How long a gRPC client waits, as its header `grpc-timeout` says it. Read by the server and by whoever passes requests on to one.
//!
//! Source: gRPC over HTTP/2, "Timeout": up to eight digits and a unit.

use std::time::Duration;

/// The header.
pub const HEADER: &str = "grpc-timeout";

/// Most digits of a value.
const DIGITS: usize = 8;

/// The time that a value of the header stands for; none where it is of another form, which then sets no limit.
pub fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// A time as a value of the header, rounded up to milliseconds, or to seconds where those have too many digits; at most 99999999 s.
pub fn format(time: Duration) -> String {
    match time.as_millis() {
        0..=99_999_998 => format!("{}m", time.as_nanos().div_ceil(1_000_000)),
        _ => format!("{}S", time.as_millis().div_ceil(1000).min(99_999_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("-1S", None),
            ("+1S", None),
            ("1x", None),
            ("1ä", None),
            ("1", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_time_that_was_written_is_read_as_no_less() {
        for millis in [0, 1, 999, 99_999_998, 99_999_999, 360_000_000_000] {
            let time = Duration::from_millis(millis);
            let back = parse(&format(time)).unwrap();
            assert!(back >= time.min(Duration::from_secs(99_999_999)), "{millis}");
        }
        assert_eq!(format(Duration::from_micros(1500)), "2m");
    }
}
