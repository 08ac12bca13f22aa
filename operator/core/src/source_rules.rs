//! Where sources of models may be and what they may be opened with, as the manifest tells the agent: ranges of addresses, hosts,
//! names of Secrets and claims. Texts are read here and judged here, for the operator and the agent alike; nothing is looked up.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// What the sources of a server's models may use. A list that is absent allows everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRules {
    /// Addresses that may be reached though sources refuse them otherwise (loopback, link-local and the like): ranges such as
    /// `127.0.0.0/8`. From the settings of the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<AddressRange>,
    /// Hosts that may be fetched from, redirects included. From `spec.modelAccess.hosts` of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostPattern>>,
    /// Secrets that may be used now, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<String>>,
    /// Claims that may be used now, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<String>>,
}

/// What can be said of a host by its text alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be fetched from.
    Allowed,
    /// It may not, whatever its address is.
    Refused,
    /// Its address decides: it is a name, and ranges of addresses are allowed.
    ByAddress,
}

impl SourceRules {
    /// Whether nothing is ruled.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What the list of hosts says of `host`: a name or an address, as it stands in a URL, without a port.
    pub fn of_host(&self, host: &str) -> Verdict {
        let Some(patterns) = &self.hosts else { return Verdict::Allowed };
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        if let Ok(address) = host.parse() {
            return if self.names_address(address) { Verdict::Allowed } else { Verdict::Refused };
        }
        if patterns.iter().any(|pattern| pattern.matches_name(host)) {
            return Verdict::Allowed;
        }
        let has_ranges = patterns.iter().any(|pattern| matches!(pattern, HostPattern::Addresses(_)));
        if has_ranges { Verdict::ByAddress } else { Verdict::Refused }
    }

    /// Whether a Secret may be used.
    pub fn allows_secret(&self, name: &str) -> bool {
        self.secrets.as_ref().is_none_or(|names| names.iter().any(|allowed| allowed == name))
    }

    /// Whether a claim may be used.
    pub fn allows_claim(&self, name: &str) -> bool {
        self.claims.as_ref().is_none_or(|names| names.iter().any(|allowed| allowed == name))
    }

    fn names_address(&self, address: IpAddr) -> bool {
        self.hosts
            .iter()
            .flatten()
            .any(|pattern| matches!(pattern, HostPattern::Addresses(range) if range.contains(address)))
    }
}

/// A range of addresses: an address and the length of its prefix in bits. Written `10.0.0.0/8`; a single address without a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no range of addresses: write an address and the length of its prefix, such as 10.0.0.0/8 or fd00::/8"
)]
pub struct NotARange(String);

impl AddressRange {
    /// Whether `address` is in the range. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    pub fn contains(self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let ((ours, is_v4), (theirs, other_is_v4)) = (bits(self.address), bits(address));
        let same = match self.prefix {
            0 => true,
            prefix => (ours ^ theirs) >> (128 - u32::from(prefix)) == 0,
        };
        is_v4 == other_is_v4 && same
    }
}

impl FromStr for AddressRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let error = || NotARange(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(error)?
            }
            Some(_) => return Err(error()),
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// One item of a list of hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// A name, in lower case.
    Name(String),
    /// Every name below one, written `*.name`; not that name itself.
    Below(String),
    /// An address or a range of them.
    Addresses(AddressRange),
}

impl HostPattern {
    fn matches_name(&self, host: &str) -> bool {
        match self {
            Self::Name(name) => name.eq_ignore_ascii_case(host),
            Self::Below(parent) => host
                .len()
                .checked_sub(parent.len() + 1)
                .filter(|at| *at > 0 && host.is_char_boundary(*at))
                .is_some_and(|at| host.as_bytes()[at] == b'.' && host[at + 1..].eq_ignore_ascii_case(parent)),
            Self::Addresses(_) => false,
        }
    }
}

impl FromStr for HostPattern {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        if text.contains(['/', ':']) || text.parse::<IpAddr>().is_ok() {
            return text.parse().map(Self::Addresses);
        }
        let name = text.to_ascii_lowercase();
        Ok(match name.strip_prefix("*.") {
            Some(parent) => Self::Below(parent.to_owned()),
            None => Self::Name(name),
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Addresses(range) => range.fmt(f),
        }
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(AddressRange, HostPattern);

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hosts: &[&str]) -> SourceRules {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        SourceRules { hosts: Some(hosts), ..SourceRules::default() }
    }

    #[test]
    fn a_range_holds_the_addresses_of_its_prefix() {
        let holds =
            |range: &str, address: &str| range.parse::<AddressRange>().unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.7", "10.0.0.7") && !holds("10.0.0.7", "10.0.0.6"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"), "of one family only");
        assert!(holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fe80::1"));
        assert!(holds("127.0.0.0/8", "::ffff:127.0.0.1"), "the same address in its other form");
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "fd00::/129", "10.0.0.0/+8", "a/8"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_is_judged_by_its_name_or_by_its_address() {
        use Verdict::{Allowed, ByAddress, Refused};
        let names = rules(&["models.example", "*.Hub.example"]);
        for (host, verdict) in [
            ("models.example", Allowed),
            ("MODELS.example.", Allowed),
            ("a.models.example", Refused),
            ("a.hub.example", Allowed),
            ("a.b.hub.example", Allowed),
            ("hub.example", Refused),
            ("ahub.example", Refused),
            (".hub.example", Refused),
            ("10.0.0.1", Refused),
            ("é.hub.example", Allowed),
            ("éhub.example", Refused),
        ] {
            assert_eq!(names.of_host(host), verdict, "{host}");
        }
        let ranges = rules(&["10.0.0.0/8", "fd00::1"]);
        assert_eq!(
            [ranges.of_host("10.1.1.1"), ranges.of_host("[fd00::1]"), ranges.of_host("fd00::2")],
            [Allowed, Allowed, Refused]
        );
        assert_eq!(ranges.of_host("models.example"), ByAddress);
        assert_eq!(SourceRules::default().of_host("anything"), Allowed);
        assert_eq!(rules(&[]).of_host("anything"), Refused, "an empty list allows none");
    }

    #[test]
    fn rules_read_back_as_they_were_written() {
        let mut all = rules(&["*.hub.example", "models.example", "10.0.0.0/8"]);
        all.allow = vec!["127.0.0.0/8".parse().unwrap()];
        all.secrets = Some(vec!["token".into()]);
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(
            text,
            r#"{"allow":["127.0.0.0/8"],"hosts":["*.hub.example","models.example","10.0.0.0/8"],"secrets":["token"]}"#
        );
        assert_eq!(serde_json::from_str::<SourceRules>(&text).unwrap(), all);
        assert!(all.allows_secret("token") && !all.allows_secret("other") && all.allows_claim("any"));
    }
}
