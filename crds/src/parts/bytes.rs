//! An amount of memory or storage as Kubernetes users write it: `4Gi`, `500M`, `1024`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes: a plain number, or one with a binary (`Ki`, `Mi`, `Gi`, `Ti`) or decimal (`k`, `M`, `G`, `T`) suffix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

/// What the text of a [`ByteCount`] must look like.
pub const PATTERN: &str = r"^[0-9]{1,15}(\.[0-9]{1,6})?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";

const SUFFIXES: [(&str, u64); 10] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
];

/// A text that is no number of bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a number of bytes: write a number with Ki, Mi, Gi, Ti or k, M, G, T, such as 4Gi")]
pub struct NotAByteCount(String);

impl ByteCount {
    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// For people: as it is where that is short, else rounded to a tenth of the largest unit that fits, down or up.
    pub fn rounded(self) -> String {
        let exact = self.to_string();
        if exact.len() <= "1536Mi".len() {
            return exact;
        }
        let largest = SUFFIXES[..5].iter().rev().find(|(_, scale)| self.0 >= *scale);
        largest.map_or(exact, |(suffix, scale)| format!("{:.1}{suffix}", self.0 as f64 / *scale as f64))
    }
}

impl FromStr for ByteCount {
    type Err = NotAByteCount;

    fn from_str(text: &str) -> Result<Self, NotAByteCount> {
        let wrong = || NotAByteCount(text.to_owned());
        let (number, scale) = SUFFIXES
            .iter()
            .find_map(|(suffix, scale)| text.strip_suffix(suffix).map(|number| (number, *scale)))
            .unwrap_or((text, 1));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 6 {
            return Err(wrong());
        }
        let whole: u128 = whole.parse().map_err(|_| wrong())?;
        let parts: u128 = fraction.parse().map_err(|_| wrong())?;
        let scale = u128::from(scale);
        // rounded up, as Kubernetes rounds quantities
        let fraction = (parts * scale).div_ceil(10u128.pow(fraction.len() as u32));
        let bytes = whole.saturating_mul(scale).saturating_add(fraction);
        Ok(Self(u64::try_from(bytes).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest = SUFFIXES[..5].iter().rev().find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        match largest {
            Some((suffix, scale)) => write!(f, "{}{suffix}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;
        impl de::Visitor<'_> for NumberOrText {
            type Value = ByteCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes such as 4Gi")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteCount, E> {
                Ok(ByteCount(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteCount, E> {
                u64::try_from(bytes).map(ByteCount).map_err(|_| E::custom(NotAByteCount(bytes.to_string())))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteCount, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(NumberOrText)
    }
}

impl JsonSchema for ByteCount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteCount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `minimum` speaks of the number, `pattern` of the text.
        json_schema!({ "x-kubernetes-int-or-string": true, "minimum": 0, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, bytes: u64, canonical: &str) {
        let count: ByteCount = text.parse().unwrap();
        assert_eq!(count, ByteCount(bytes), "{text}");
        assert_eq!(count.to_string(), canonical);
    }

    #[test]
    fn byte_counts_are_read_with_both_families_of_suffixes() {
        check("4Gi", 4 << 30, "4Gi");
        check("1.5Gi", 3 << 29, "1536Mi");
        check("500M", 500_000_000, "500000000");
        check("1024", 1024, "1Ki");
        check("0", 0, "0");
        check("999999999999999Pi", u64::MAX, "18446744073709551615");
    }

    #[test]
    fn people_are_told_short_numbers() {
        for (bytes, told) in
            [(0, "0"), (6 << 30, "6Gi"), (3 << 29, "1536Mi"), (72_000_000_000, "67.1Gi"), (9_663_676_417, "9.0Gi")]
        {
            assert_eq!(ByteCount(bytes).rounded(), told);
        }
    }

    #[test]
    fn what_is_no_byte_count_is_refused() {
        for text in ["", "Gi", "-1", "4GiB", "4 Gi", "banana", "1.", ".5Gi", "1e3"] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_byte_count_may_be_a_number_or_a_text_in_json() {
        assert_eq!(serde_json::from_str::<ByteCount>("1024").unwrap(), ByteCount(1024));
        assert_eq!(serde_json::from_str::<ByteCount>("\"1Ki\"").unwrap(), ByteCount(1024));
        assert!(serde_json::from_str::<ByteCount>("-1").is_err());
    }
}
