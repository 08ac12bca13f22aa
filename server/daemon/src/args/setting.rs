//! Values made of parts: `NAME,KEY=VALUE` and its relatives, as Triton's repeatable flags write them.
//!
//! Forms that only serve unsupported flags are checked and carry nothing.

use super::{
    error::ArgsError,
    refused::Refused,
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

    fn read(text: &str) -> Result<Self, Refused> {
        Ok(Self(text.to_owned()))
    }
}

/// `FIRST-LAST`: ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRange(pub(crate) u16, pub(crate) u16);

impl Value for PortRange {
    const FORM: &'static str = "<port>-<port>";

    fn read(text: &str) -> Result<Self, Refused> {
        let expected = "<first>-<last>, two ports, the first not above the last";
        match pair(text, '-', "<first>-<second>") {
            Ok((first, last)) if first <= last => Ok(Self(first, last)),
            Ok(_) => Err(Refused::argument().expected(expected)),
            Err(refused) => Err(refused.expected(expected)),
        }
    }
}

impl Value for CacheSetting {
    const FORM: &'static str = "<name>,<key>=<value>";

    fn read(text: &str) -> Result<Self, Refused> {
        Ok(Self(text.to_owned()))
    }
}

impl Value for LimitedResource {
    const FORM: &'static str = "<name>:<count>[:<device>]";

    fn read(text: &str) -> Result<Self, Refused> {
        let form = || Refused::format("'<resource_name>:<count>:<device>' or '<resource_name>:<count>'");
        let (name, rest) = text.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(form)?;
        let (count, device) = rest.split_once(':').unwrap_or((rest, "-1"));
        if device.contains(':') {
            return Err(form());
        }
        let number = |text| u32::read(text).map_err(|refused| refused.expected(Self::FORM));
        let device = if device.trim() == "-1" { None } else { Some(number(device)?) };
        Ok(Self { name: name.to_owned(), count: number(count)?, device })
    }
}

impl Setting {
    /// `None` if it has another form. A comma after the first `=` belongs to the value: `tensorflow,places=a,b`.
    fn parse(text: &str) -> Option<Self> {
        let (left, value) = text.split_once('=').filter(|(_, value)| !value.is_empty())?;
        let (name, key) = match left.split_once(',') {
            Some((name, key)) => (Some(name), key),
            None => (None, left),
        };
        let is_whole = !key.is_empty() && !name.is_some_and(str::is_empty);
        is_whole.then(|| Self { name: name.map(str::to_owned), key: key.to_owned(), value: value.to_owned() })
    }

    /// The same of the flag `--trace-config`, whose settings are of a mode or of all.
    pub(crate) fn of_trace(text: &str) -> Result<Self, Refused> {
        let form = "<trace mode>,<setting>=<value>";
        Self::parse(text).ok_or_else(|| no_setting(text, "No trace mode specified.", "--trace-config", form))
    }
}

/// As a setting of a backend or of all backends.
impl Value for Setting {
    const FORM: &'static str = "<name>,<key>=<value>";

    fn read(text: &str) -> Result<Self, Refused> {
        let form = "<backend name>,<setting>=<value>";
        Self::parse(text).ok_or_else(|| no_setting(text, "No backend specified.", "--backend-config", form))
    }
}

fn no_setting(text: &str, no_name: &str, flag: &str, form: &str) -> Refused {
    if text.starts_with(',') {
        return Refused::words(format!("{no_name} {flag} option format is {form} or <setting>=<value>. Got {text}"));
    }
    Refused::format(format!("'{form}'"))
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

    fn read(text: &str) -> Result<Self, Refused> {
        match Setting::parse(text) {
            Some(Setting { name: Some(policy), key, value }) => Ok(Self { policy, key, value }),
            _ => Err(Refused::format(format!("'{}'", Self::FORM))),
        }
    }
}

impl Value for Restriction {
    const FORM: &'static str = "<category>,...:<header>=<value>";

    fn read(text: &str) -> Result<Self, Refused> {
        let form = || {
            Refused::format("'<config name>:<setting>=<value>'").expected("<category>[,<category>...]:<header>=<value>")
        };
        let (categories, pair) = text.split_once(':').ok_or_else(form)?;
        let (header, value) = pair.split_once('=').ok_or_else(form)?;
        if categories.is_empty() || header.is_empty() || value.is_empty() {
            return Err(form());
        }
        let categories = categories.split(',').map(|category| category.trim().to_owned()).collect();
        Ok(Self { categories, header: header.to_owned(), value: value.to_owned() })
    }
}

macro_rules! pairs {
    ($($(#[$doc:meta])* $name:ident as $form:literal of $first:ty, $second:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub(crate) struct $name;

            impl Value for $name {
                const FORM: &'static str = $form;

                fn read(text: &str) -> Result<Self, Refused> {
                    let both = pair::<$first, $second>(text, ':', "<first>:<second>");
                    both.map(|_| Self).map_err(|refused| refused.expected($form))
                }
            }
        )*
    };
}

pairs! {
    /// Bytes on one device.
    DeviceBytes as "<device>:<integer>" of i32, u64;
    /// A part of one device.
    DeviceFraction as "<device>:<fraction>" of u16, Fraction;
}

/// Two values; `form` is what Triton calls them.
fn pair<A: Value, B: Value>(text: &str, separator: char, form: &str) -> Result<(A, B), Refused> {
    let (first, second) = text.split_once(separator).ok_or_else(|| {
        Refused::words(format!(
            "Cannot parse pair option due to incorrect number of inputs.--<pair option> argument requires format {form}. \
             Found: {text}"
        ))
    })?;
    Ok((A::read(first)?, B::read(second)?))
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
            assert!(Setting::read(text).is_err(), "{text}");
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
            assert!(LimitedResource::read(text).is_err(), "{text}");
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
