//! Values made of parts: `NAME,KEY=VALUE` and its relatives, as Triton's repeatable flags write them.
//!
//! Forms that only serve unsupported flags are checked and carry nothing.

use super::{
    ArgsError,
    value::{Fraction, Value},
};

/// `NAME,KEY=VALUE` about one of several things (a backend, a trace mode), or `KEY=VALUE` about all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Whom it is for; `None` is everyone.
    pub(crate) name: Option<String>,
    /// Which setting.
    pub(crate) key: String,
    /// Its new value.
    pub(crate) value: String,
}

/// `CATEGORY[,CATEGORY...]:HEADER=VALUE`: calls of these categories must bring that header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restriction {
    /// Groups of calls, in the order given; whether they exist is checked later.
    pub(crate) categories: Vec<String>,
    /// The header to look for.
    pub(crate) header: String,
    /// What it must say.
    pub(crate) value: String,
}

/// `NAME:COUNT[:DEVICE]`: so much there is of a resource, on that device or on each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitedResource {
    /// Which resource.
    pub(crate) name: String,
    /// How much of it.
    pub(crate) count: u32,
    /// Where; `None`, also written -1, is every device.
    pub(crate) device: Option<u32>,
}

/// `NAME,KEY=VALUE` about a response cache, as it was given: what is wrong with it has texts of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheSetting(pub(crate) String);

/// `KEY=VALUE` about metrics, as it was given: what is wrong with it has texts of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetricsSetting(pub(crate) String);

impl MetricsSetting {
    /// Its key and value. Errors: it has another form.
    pub(crate) fn pair(&self) -> Result<(&str, &str), ArgsError> {
        let pair =
            self.0.split_once('=').filter(|(key, value)| !key.is_empty() && !key.contains(',') && !value.is_empty());
        pair.ok_or_else(|| ArgsError::MetricsSetting(self.0.clone()))
    }
}

impl Value for MetricsSetting {
    const FORM: &'static str = "<key>=<value>";

    fn read(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

/// `FIRST-LAST`: ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRange(pub(crate) u16, pub(crate) u16);

impl Value for PortRange {
    const FORM: &'static str = "<port>-<port>";

    fn read(text: &str) -> Result<Self, String> {
        let range = text.split_once('-').and_then(|(first, last)| {
            Some(Self(first.trim().parse().ok()?, last.trim().parse().ok()?)).filter(|range| range.0 <= range.1)
        });
        range.ok_or_else(|| "<first>-<last>, two ports, the first not above the last".to_owned())
    }
}

impl Value for CacheSetting {
    const FORM: &'static str = "<name>,<key>=<value>";

    fn read(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

impl Value for LimitedResource {
    const FORM: &'static str = "<name>:<count>[:<device>]";

    fn read(text: &str) -> Result<Self, String> {
        let expected = || Self::FORM.to_owned();
        let (name, rest) = text.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(expected)?;
        let (count, device) = rest.split_once(':').unwrap_or((rest, "-1"));
        let device = if device.trim() == "-1" { None } else { Some(u32::read(device).map_err(|_| expected())?) };
        Ok(Self { name: name.to_owned(), count: u32::read(count).map_err(|_| expected())?, device })
    }
}

impl Value for Setting {
    const FORM: &'static str = "<name>,<key>=<value>";

    fn read(text: &str) -> Result<Self, String> {
        let expected = || "<name>,<key>=<value> or <key>=<value>".to_owned();
        // A comma after the first `=` belongs to the value: `tensorflow,places=a,b`.
        let (left, value) = text.split_once('=').ok_or_else(expected)?;
        let (name, key) = match left.split_once(',') {
            Some((name, key)) => (Some(name), key),
            None => (None, left),
        };
        if key.is_empty() || value.is_empty() || name.is_some_and(str::is_empty) {
            return Err(expected());
        }
        Ok(Self { name: name.map(str::to_owned), key: key.to_owned(), value: value.to_owned() })
    }
}

/// `NAME,KEY=VALUE` about one host policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPolicySetting {
    /// Which policy.
    pub(crate) policy: String,
    /// Which setting.
    pub(crate) key: String,
    /// Its new value.
    pub(crate) value: String,
}

impl Value for HostPolicySetting {
    const FORM: &'static str = "<policy name>,<setting>=<value>";

    fn read(text: &str) -> Result<Self, String> {
        match Setting::read(text) {
            Ok(Setting { name: Some(policy), key, value }) => Ok(Self { policy, key, value }),
            _ => Err(Self::FORM.into()),
        }
    }
}

impl Value for Restriction {
    const FORM: &'static str = "<category>,...:<header>=<value>";

    fn read(text: &str) -> Result<Self, String> {
        let expected = || "<category>[,<category>...]:<header>=<value>".to_owned();
        let (categories, pair) = text.split_once(':').ok_or_else(expected)?;
        let (header, value) = pair.split_once('=').ok_or_else(expected)?;
        if categories.is_empty() || header.is_empty() || value.is_empty() {
            return Err(expected());
        }
        let categories = categories.split(',').map(|category| category.trim().to_owned()).collect();
        Ok(Self { categories, header: header.to_owned(), value: value.to_owned() })
    }
}

macro_rules! checked {
    ($($(#[$doc:meta])* $name:ident as $form:literal = $check:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub(crate) struct $name;

            impl Value for $name {
                const FORM: &'static str = $form;

                fn read(text: &str) -> Result<Self, String> {
                    let check: fn(&str) -> bool = $check;
                    if check(text) { Ok(Self) } else { Err($form.into()) }
                }
            }
        )*
    };
}

checked! {
    /// Bytes on one device.
    DeviceBytes as "<device>:<integer>" = |text| pair::<i32, u64>(text, ':');
    /// A part of one device.
    DeviceFraction as "<device>:<fraction>" = |text| pair::<u16, Fraction>(text, ':');
}

fn pair<A: Value, B: Value>(text: &str, separator: char) -> bool {
    text.split_once(separator).is_some_and(|(first, second)| A::read(first).is_ok() && B::read(second).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, name: Option<&str>, key: &str, value: &str) {
        let expect = Setting { name: name.map(Into::into), key: key.into(), value: value.into() };
        assert_eq!(Setting::read(text), Ok(expect));
    }

    #[test]
    fn a_setting_is_for_one_or_for_all() {
        check("onnxruntime,library=/a/b.so", Some("onnxruntime"), "library", "/a/b.so");
        check("default-max-batch-size=4", None, "default-max-batch-size", "4");
    }

    #[test]
    fn what_follows_the_first_equals_sign_is_the_value() {
        check("places=a,b=c", None, "places", "a,b=c");
        check("python,list=a,b", Some("python"), "list", "a,b");
    }

    #[test]
    fn a_setting_with_an_empty_part_is_refused() {
        for text in ["", "a", ",a=b", "python,", "python,a", "a=", "=b", "python,=b"] {
            assert_eq!(Setting::read(text), Err("<name>,<key>=<value> or <key>=<value>".into()), "{text}");
        }
    }

    #[test]
    fn a_restriction_names_categories_and_a_header() {
        let read = Restriction::read("health,metadata:admin-key=secret=1");
        let expect = Restriction {
            categories: vec!["health".into(), "metadata".into()],
            header: "admin-key".into(),
            value: "secret=1".into(),
        };
        assert_eq!(read, Ok(expect));
        assert!(Restriction::read("health=x").is_err());
    }

    #[test]
    fn a_resource_is_of_a_device_or_of_each() {
        let of = |device| Ok(LimitedResource { name: "R1".into(), count: 4, device });
        assert_eq!(LimitedResource::read("R1:4"), of(None));
        assert_eq!(LimitedResource::read("R1:4:-1"), of(None));
        assert_eq!(LimitedResource::read("R1:4:2"), of(Some(2)));
        for text in ["R1", ":4", "R1:", "R1:-4", "R1:4:", "R1:4:-2", "R1:4:0:1"] {
            assert_eq!(LimitedResource::read(text), Err("<name>:<count>[:<device>]".into()), "{text}");
        }
    }

    #[test]
    fn forms_of_parts_check_their_parts() {
        assert!(DeviceBytes::read("0:67108864").is_ok() && DeviceBytes::read("0").is_err());
        assert!(DeviceFraction::read("0:0.5").is_ok() && DeviceFraction::read("a:0.5").is_err());
        assert!(DeviceFraction::read("-1:0.6").is_err() && DeviceFraction::read("0:1.5").is_err());
        assert_eq!(PortRange::read("8080-8090"), Ok(PortRange(8080, 8090)));
        for bad in ["8080", "9-5", "a-b", "1-70000", ""] {
            assert!(PortRange::read(bad).is_err(), "{bad}");
        }
    }
}
