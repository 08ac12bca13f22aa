//! Restricted groups of calls: which there are, and which header opens them. What belongs to a group is said by each front
//! end for its own calls.

use crate::secret;

macro_rules! groups {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// A group of calls, the same over HTTP (an API) and gRPC (a protocol).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ApiGroup {
            $($(#[$doc])* $name),*
        }

        impl ApiGroup {
            /// Every group, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The group's name on the command line, e.g. `model-config`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

groups! {
    /// Liveness and readiness, of the server and of models.
    Health = "health",
    /// Server and model metadata.
    Metadata = "metadata",
    /// Inference in all its forms.
    Inference = "inference",
    /// Status and registration of shared memory.
    SharedMemory = "shared-memory",
    /// Model configurations.
    ModelConfig = "model-config",
    /// Index, load, unload.
    ModelRepository = "model-repository",
    /// Statistics.
    Statistics = "statistics",
    /// Trace settings.
    Trace = "trace",
    /// Log settings.
    Logging = "logging",
}

impl ApiGroup {
    /// The group of that name on the command line.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|group| group.name() == name)
    }
}

/// Groups that share one header: one `--http-restricted-api` or `--grpc-restricted-protocol`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restriction {
    /// The restricted groups. A group occurs in one restriction at most.
    pub groups: Vec<ApiGroup>,
    /// Name of the header as it is given; gRPC has a prefix in front of it on the wire.
    pub header: String,
    /// The value it must have.
    pub value: String,
}

impl Restriction {
    /// The restriction of a group, if there is one.
    pub fn of(restrictions: &[Self], group: ApiGroup) -> Option<&Self> {
        restrictions.iter().find(|restriction| restriction.groups.contains(&group))
    }

    /// Whether a header's value is the right one. Takes the same time for all values of one length.
    pub fn is_met_by(&self, value: Option<&[u8]>) -> bool {
        value.is_some_and(|value| secret::is_equal(value, self.value.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_found_by_its_name() {
        for &group in ApiGroup::ALL {
            assert_eq!(ApiGroup::from_name(group.name()), Some(group));
        }
        assert_eq!(ApiGroup::from_name("everything"), None);
    }

    #[test]
    fn a_group_needs_the_value_of_its_own_restriction() {
        let restriction =
            |group, value: &str| Restriction { groups: vec![group], header: "key".into(), value: value.into() };
        let restrictions = [restriction(ApiGroup::Health, "a"), restriction(ApiGroup::Trace, "b")];
        assert_eq!(Restriction::of(&restrictions, ApiGroup::Metadata), None);
        let trace = Restriction::of(&restrictions, ApiGroup::Trace).unwrap();
        assert!(trace.is_met_by(Some(b"b")));
        assert!(!trace.is_met_by(Some(b"a")) && !trace.is_met_by(None));
    }
}
