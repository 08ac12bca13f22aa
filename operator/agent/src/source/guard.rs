//! Which addresses a source may have. A source is named by whoever may write a model and fetched by a pod that stands inside the
//! cluster: without a rule it reads what only the machine itself may reach. Judged is the address that is connected to, so
//! neither a name that leads elsewhere nor a redirect gets around it. Pure but for [`Resolver`], which asks for names.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use operator_core::source_rules::SourceRules;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Addresses at which clouds serve metadata and credentials to their machines, besides the link-local ones.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba Cloud
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure's platform
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle Cloud
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google Cloud
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)), // Oracle Cloud
];

/// Which addresses sources may have. The default one refuses loopback, link-local, metadata, unspecified, multicast and
/// reserved addresses; that of a pod its own and its node's as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRule {
    /// Taken out of what is refused otherwise.
    allowed: Vec<IpNet>,
    /// Addresses of the pod.
    own: Vec<IpAddr>,
    /// Addresses of its node.
    of_node: Vec<IpAddr>,
    /// What a source must be one of; absent: nothing more is asked.
    hosts: Option<Vec<HostPattern>>,
    /// It is the user's own machine, where no operator has settings.
    is_users_machine: bool,
}

/// A host that sources may have.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Name(String),
    /// Every name below this one.
    Below(String),
    Range(IpNet),
}

/// An address that a source may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    host: String,
    address: IpAddr,
    why: Why,
    is_users_machine: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Loopback,
    LinkLocal,
    Own,
    OfNode,
    Metadata,
    Unspecified,
    Multicast,
    Reserved,
    NotListed,
}

/// A word that is neither an address range nor a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no {1}")]
pub struct BadPattern(String, &'static str);

impl AddressRule {
    /// A rule that allows the ranges `allow` (`10.0.0.0/8`, or one address) besides what is allowed anyway, and of all this only
    /// `hosts`, if there are any: names, `*.` and a name for all below it, ranges, addresses.
    ///
    /// Errors: the word that is none of these.
    pub fn new<S: AsRef<str>>(
        allow: impl IntoIterator<Item = S>,
        hosts: Option<impl IntoIterator<Item = S>>,
    ) -> Result<Self, BadPattern> {
        let range = |text: S| {
            let text = text.as_ref().trim();
            range(text).ok_or_else(|| BadPattern(text.to_owned(), "address range such as 10.0.0.0/8"))
        };
        let allowed = allow.into_iter().map(range).collect::<Result<_, _>>()?;
        let hosts = hosts.map(|hosts| hosts.into_iter().map(|host| HostPattern::parse(host.as_ref().trim())));
        Ok(Self { allowed, hosts: hosts.map(Iterator::collect).transpose()?, ..Self::default() })
    }

    /// The rule of somebody's own machine, whose servers are his: loopback addresses are allowed.
    pub fn with_loopback() -> Self {
        let rule = Self::new(["127.0.0.0/8", "::1/128"], None::<[&str; 0]>).expect("these are ranges");
        Self { is_users_machine: true, ..rule }
    }

    /// The rule of a pod that has the addresses `own`, on a node that has those of `of_node`; each with commas between them. Words that are
    /// no addresses are passed over.
    pub fn of_pod(own: &str, of_node: &str) -> Self {
        let addresses = |text: &str| text.split(',').filter_map(|word| word.trim().parse().ok()).collect();
        Self { own: addresses(own), of_node: addresses(of_node), ..Self::default() }
    }

    /// This rule and what a manifest rules besides: what it allows is allowed as well, and only its hosts are.
    pub fn with(&self, rules: &SourceRules) -> Self {
        // both sides read the same words; one that only the other understands allows nothing
        let allow = rules.allow.iter().filter_map(|range| self::range(&range.to_string()));
        let hosts = rules.hosts.as_ref().map(|hosts| {
            hosts.iter().filter_map(|host| HostPattern::parse(&host.to_string()).ok()).collect::<Vec<_>>()
        });
        Self {
            allowed: self.allowed.iter().copied().chain(allow).collect(),
            hosts: hosts.or_else(|| self.hosts.clone()),
            ..self.clone()
        }
    }

    /// Whether a source may have `address`, which its `host` has led to: a name, or the address itself.
    pub fn check(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let meant = meant(address);
        let is_in = |range: &IpNet| range.contains(&address) || range.contains(&meant);
        let refused =
            |why| Err(Refused { host: host.to_owned(), address, why, is_users_machine: self.is_users_machine });
        let of_machine = || match meant {
            _ if self.own.contains(&meant) => Some(Why::Own),
            _ if self.of_node.contains(&meant) => Some(Why::OfNode),
            _ => None,
        };
        if let Some(why) = refused_by_default(meant).or_else(|| refused_by_default(address)).or_else(of_machine)
            && !self.allowed.iter().any(is_in)
        {
            return refused(why);
        }
        let host = plain(host);
        let is_listed = |pattern: &HostPattern| match pattern {
            HostPattern::Name(name) => *name == host,
            HostPattern::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            HostPattern::Range(range) => is_in(range),
        };
        match &self.hosts {
            Some(hosts) if !hosts.iter().any(is_listed) => refused(Why::NotListed),
            _ => Ok(()),
        }
    }

    /// Of the addresses that a name has led to, those that a source may have. Errors: there are some, and none of them.
    fn permitted(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let mut first = None;
        let mut permitted = found;
        permitted.retain(|address| match self.check(host, address.ip()) {
            Ok(()) => true,
            Err(refused) => {
                first.get_or_insert(refused);
                false
            }
        });
        match first {
            Some(refused) if permitted.is_empty() => Err(refused),
            _ => Ok(permitted),
        }
    }

    /// The rule as a text that differs when it does.
    pub fn revision(&self) -> String {
        format!("{self:?}")
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, BadPattern> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 253
                && name.split('.').all(|label| {
                    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                })
        };
        let lower = plain(text);
        match (range(text), lower.strip_prefix("*.")) {
            (Some(range), _) => Ok(Self::Range(range)),
            (None, Some(below)) if is_name(below) => Ok(Self::Below(below.to_owned())),
            (None, None) if is_name(&lower) => Ok(Self::Name(lower)),
            _ => Err(BadPattern(
                text.to_owned(),
                "host: write a name, *.example.org for all below it, an address, or a range such as 10.0.0.0/8",
            )),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, why, is_users_machine } = self;
        match host.trim_matches(['[', ']']) == address.to_string() {
            true => write!(f, "the address {address} is refused")?,
            false => write!(f, "'{host}' leads to {address}, which is refused")?,
        }
        let kind = match why {
            Why::Loopback => "a loopback address",
            Why::LinkLocal => "a link-local address",
            Why::Own => "an address of the pod itself",
            Why::OfNode => "an address of the pod's node",
            Why::Metadata => "an address of a cloud's metadata service",
            Why::Unspecified => "no address of a machine",
            Why::Multicast => "a multicast address",
            Why::Reserved => "a reserved address",
            Why::NotListed => {
                return f.write_str(": it is not one of the server's spec.modelAccess.hosts");
            }
        };
        let cure = match is_users_machine {
            true => "bring the files here and use a source pvc, whose folder --volume NAME=DIR gives",
            false => {
                "whoever runs the operator can allow it: sources.allowedAddresses among the values of its chart (its flag \
                 --allow-source-addresses)"
            }
        };
        write!(f, ": it is {kind}; {cure}")
    }
}

impl Error for Refused {}

/// The kind of address it is, if sources may not have it unless somebody allows it.
fn refused_by_default(address: IpAddr) -> Option<Why> {
    if METADATA.contains(&address) {
        return Some(Why::Metadata);
    }
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [0, ..] => Some(Why::Unspecified), // all of 0.0.0.0/8 is "this network": Linux takes 0.0.0.0 for itself
            [127, ..] => Some(Why::Loopback),
            [169, 254, ..] => Some(Why::LinkLocal),
            [224..=239, ..] => Some(Why::Multicast),
            [240..=255, ..] => Some(Why::Reserved),
            _ => None,
        },
        IpAddr::V6(v6) => match v6.segments()[0] {
            _ if v6.is_unspecified() => Some(Why::Unspecified),
            _ if v6.is_loopback() => Some(Why::Loopback),
            0xfe80..=0xfeff => Some(Why::LinkLocal), // with the former site-local ones
            0xff00..=0xffff => Some(Why::Multicast),
            _ => None,
        },
    }
}

/// The IPv4 address that an IPv6 address stands for (mapped, compatible, translated, 6to4), else the address itself.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let of = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address, // unspecified and loopback
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, _, _, _, _, _] => of(high, low),
        _ => address,
    }
}

/// A range, or one address as a range of one.
fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.trim_matches(['[', ']']).parse().ok().map(|address: IpAddr| address.into()))
}

/// A name in the form that names are compared in.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Asks for the addresses of names as the machine does, and gives out only those that the rule permits.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    pub(super) rule: Arc<AddressRule>,
    /// Names that are no sources: the proxies set up for this process.
    pub(super) exempt: Arc<BTreeSet<String>>,
}

impl Resolver {
    /// The addresses of `host` that a source may have. Errors: it has none, or none of these; [`Refused`] is then inside.
    pub(super) async fn look_up(&self, host: &str) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
        Ok(self.rule.permitted(host, found)?)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let addresses = if resolver.exempt.contains(&plain(host)) {
                tokio::net::lookup_host((host, 0)).await?.collect()
            } else {
                resolver.look_up(host).await?
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_HOSTS: Option<[&str; 0]> = None;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_manifest_rules_comes_on_top() {
        let rules = r#"{"allow":["169.254.169.254/32"],"hosts":["*.hub.test","169.254.0.0/16","127.0.0.1"]}"#;
        let rule = AddressRule::with_loopback().with(&serde_json::from_str(rules).unwrap());
        for (host, at, is_allowed) in [
            ("a.hub.test", "8.8.8.8", true),
            ("other.test", "8.8.8.8", false),
            ("metadata", "169.254.169.254", true),
            ("169.254.169.253", "169.254.169.253", false),
            ("localhost", "127.0.0.1", true),
        ] {
            assert_eq!(rule.check(host, address(at)).is_ok(), is_allowed, "{host} at {at}");
        }
    }

    #[test]
    fn what_only_the_machine_itself_may_reach_is_refused_however_it_is_written() {
        let rule = AddressRule::default();
        for (refused, kind) in [
            ("127.0.0.1", "loopback"),
            ("127.255.0.9", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::127.0.0.1", "loopback"),
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b:1::7f00:1", "loopback"),
            ("2002:7f00:1::", "loopback"),
            ("::ffff:0:7f00:1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("::ffff:169.254.169.254", "link-local"),
            ("169.254.170.2", "link-local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "link-local"),
            ("fd00:ec2::254", "metadata"),
            ("fd20:ce::254", "metadata"),
            ("100.100.100.200", "metadata"),
            ("168.63.129.16", "metadata"),
            ("::ffff:168.63.129.16", "metadata"),
            ("0.0.0.0", "no address of a machine"),
            ("0.1.2.3", "no address of a machine"),
            ("::", "no address of a machine"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("240.0.0.1", "reserved"),
        ] {
            let error = rule.check("models.example.org", address(refused)).unwrap_err().to_string();
            assert!(error.contains(kind) && error.contains(&address(refused).to_string()), "{refused}: {error}");
            assert!(error.contains("--allow-source-addresses"), "{error}");
        }
        for fine in
            ["10.0.0.1", "192.168.3.4", "172.16.0.1", "100.64.0.1", "8.8.8.8", "fd00::1", "2600::1", "::ffff:10.0.0.1"]
        {
            assert_eq!(rule.check("h", address(fine)), Ok(()), "{fine}");
        }
    }

    #[test]
    fn the_operator_s_settings_take_addresses_out() {
        let rule = AddressRule::new(["127.0.0.1", "169.254.169.254/32", "fd00:ec2::/32"], NO_HOSTS).unwrap();
        for fine in ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "fd00:ec2::254"] {
            assert_eq!(rule.check("h", address(fine)), Ok(()), "{fine}");
        }
        for refused in ["127.0.0.2", "169.254.170.2", "::1"] {
            assert!(rule.check("h", address(refused)).is_err(), "{refused}");
        }
        assert_eq!(AddressRule::with_loopback().check("localhost", address("::1")), Ok(()));
    }

    #[test]
    fn hosts_narrow_what_is_allowed_and_never_widen_it() {
        let rule = AddressRule::new([], Some(["*.Example.org", "hub.test", "10.0.0.0/8", "127.0.0.1"])).unwrap();
        let check = |host: &str, at: &str| rule.check(host, address(at)).map_err(|refused| refused.why);
        for host in ["a.example.org", "A.B.EXAMPLE.ORG", "a.example.org.", "hub.test"] {
            assert_eq!(check(host, "8.8.8.8"), Ok(()), "{host}");
        }
        for host in ["example.org", ".example.org", "notexample.org", "example.org.evil.test", "8.8.8.8", "x.hub.test"]
        {
            assert_eq!(check(host, "8.8.8.8"), Err(Why::NotListed), "{host}");
        }
        assert_eq!(check("minio", "10.2.3.4"), Ok(()), "a range is about the address");
        assert_eq!(check("minio", "::ffff:10.2.3.4"), Ok(()));
        assert_eq!(check("a.example.org", "169.254.169.254"), Err(Why::LinkLocal), "its name does not help");
        assert_eq!(check("127.0.0.1", "127.0.0.1"), Err(Why::Loopback));
        assert!(AddressRule::new([], Some(["h"; 0])).unwrap().check("h", address("8.8.8.8")).is_err(), "none of none");
    }

    #[test]
    fn a_word_that_is_no_pattern_is_named() {
        for bad in ["*", "*.*.org", "http://h", "h:80", "a..b", "", "10.0.0.0/33", "a b", "*."] {
            let error = AddressRule::new([], Some([bad])).unwrap_err();
            assert!(error.to_string().starts_with(&format!("'{bad}' is no host")), "{error}");
        }
        for bad in ["10.0.0.0/33", "example.org", ""] {
            assert!(AddressRule::new([bad], NO_HOSTS).is_err(), "{bad}");
        }
    }

    #[test]
    fn of_several_addresses_those_permitted_are_used() {
        let rule = AddressRule::default();
        let both = vec!["127.0.0.1:0".parse().unwrap(), "10.0.0.1:0".parse().unwrap()];
        assert_eq!(rule.permitted("h", both.clone()).unwrap(), both[1..]);
        assert!(rule.permitted("h", both[..1].to_vec()).unwrap_err().to_string().starts_with("'h' leads to 127.0.0.1"));
        let literal = rule.check("[::1]", address("::1")).unwrap_err().to_string();
        assert!(literal.starts_with("the address ::1 is refused"), "{literal}");
    }

    #[tokio::test]
    async fn names_are_judged_by_where_they_lead() {
        let resolver = Resolver { rule: Arc::default(), exempt: Arc::default() };
        let error = resolver.look_up("localhost").await.unwrap_err();
        assert!(error.is::<Refused>(), "{error}");
        let resolver = Resolver { rule: Arc::new(AddressRule::with_loopback()), exempt: Arc::default() };
        assert!(!resolver.look_up("localhost").await.unwrap().is_empty());
    }

    #[test]
    fn a_pod_does_not_fetch_from_itself_or_its_node_unless_that_is_allowed() {
        let rule = AddressRule::of_pod("10.1.0.7,fd01::7", "192.168.0.4, junk,");
        let check =
            |rule: &AddressRule, text: &str| rule.check("h", text.parse().unwrap()).map_err(|refused| refused.why);
        for own in ["10.1.0.7", "::ffff:10.1.0.7", "fd01::7"] {
            assert_eq!(check(&rule, own), Err(Why::Own), "{own}");
        }
        assert_eq!(check(&rule, "192.168.0.4"), Err(Why::OfNode));
        for other in ["10.1.0.8", "192.168.0.5", "fd01::8"] {
            assert_eq!(check(&rule, other), Ok(()), "{other}");
        }
        let refused = rule.check("web.example", "10.1.0.7".parse().unwrap()).unwrap_err().to_string();
        assert!(
            refused
                .starts_with("'web.example' leads to 10.1.0.7, which is refused: it is an address of the pod itself;"),
            "{refused}"
        );
        let rules: SourceRules =
            serde_json::from_str(r#"{"allow":["192.168.0.0/24"],"hosts":["192.168.0.0/24","10.1.0.7"]}"#).unwrap();
        assert_eq!(check(&rule.with(&rules), "192.168.0.4"), Ok(()));
        assert_eq!(
            check(&rule.with(&rules), "10.1.0.7"),
            Err(Why::Own),
            "what a server lists allows nothing that is refused"
        );
        assert_eq!(AddressRule::of_pod("", ""), AddressRule::default());
    }
}
