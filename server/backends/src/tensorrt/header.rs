//! The first bytes of a plan file: which version of TensorRT made it. Pure.
//!
//! Source: `trtexec --getPlanVersionOnly` of TensorRT's samples.

use server_core::error::{Error, Result};

use super::raw::Version;

/// How many bytes [`read`] looks at.
pub(super) const LENGTH: usize = 28;

/// The tag of a plan, and of those from before version 8.6.
const TAG: &[u8] = b"ftrt";
const OLDER_TAG: &[u8] = b"ptrt";
/// Where the version lies, four bytes.
const VERSION: usize = 24;

/// What to do about a plan that this library cannot read.
pub(super) const CURE: &str =
    "build it again on this kind of GPU with the TensorRT that the server uses (deploy/trt/build)";

/// The version that made a plan; `None` for a form that does not say it. `start` is the beginning of the file.
///
/// Errors: `InvalidArgument` if it is no plan.
pub(super) fn read(start: &[u8], file: &str) -> Result<Option<Version>> {
    let refused =
        |what: &str| Err(Error::invalid_argument(format!("unable to create TensorRT engine: '{file}' {what}; {CURE}")));
    match start {
        [] => refused("is empty"),
        _ if start.starts_with(OLDER_TAG) => Ok(None),
        _ if !start.starts_with(TAG) => refused("is no TensorRT plan: it does not begin like one"),
        _ if start.len() < LENGTH => refused("is truncated: its header is not complete"),
        _ if start[TAG.len()..8] != [0; 4] => Ok(None),
        _ => Ok(Some(Version([0, 1, 2, 3].map(|part| i32::from(start[VERSION + part]))))),
    }
}

/// Checks that a library may read what another version made.
///
/// Errors: `InvalidArgument` with both versions and what to do.
pub(super) fn check(made_by: Option<Version>, library: Version, is_version_compatible: bool, file: &str) -> Result<()> {
    match made_by {
        Some(made_by) if made_by.0[..2] != library.0[..2] && !is_version_compatible => {
            Err(Error::invalid_argument(format!(
                "unable to create TensorRT engine: '{file}' was made by TensorRT {made_by}, and this is {library}; {CURE}, have the server \
             use that version (--backend-config=tensorrt,library=PATH), or, if the plan was built version-compatible, allow it with \
             --backend-config=tensorrt,version-compatible=true"
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tag: &[u8], version: [u8; 4]) -> Vec<u8> {
        let mut plan = vec![0; 64];
        plan[..4].copy_from_slice(tag);
        plan[VERSION..LENGTH].copy_from_slice(&version);
        plan
    }

    #[test]
    fn the_version_is_read_where_the_form_says_it() {
        assert_eq!(read(&plan(b"ftrt", [10, 3, 0, 26]), "m").unwrap(), Some(Version([10, 3, 0, 26])));
        let mut later_form = plan(b"ftrt", [10, 3, 0, 26]);
        later_form[4] = 1;
        assert_eq!(read(&later_form, "m").unwrap(), None);
        assert_eq!(read(&plan(b"ptrt", [0; 4]), "m").unwrap(), None);
    }

    #[test]
    fn what_is_no_plan_is_refused_with_the_reason() {
        let message = |start: &[u8]| read(start, "m.plan").unwrap_err().message;
        assert!(message(b"").contains("'m.plan' is empty; build it again"));
        assert!(message(b"\x08\x07onnx and so on and on and on").contains("is no TensorRT plan"));
        assert!(message(&plan(b"ftrt", [10; 4])[..20]).contains("is truncated"));
    }

    #[test]
    fn another_minor_version_is_refused_unless_the_plan_may_be_compatible() {
        let library = Version([10, 15, 1, 29]);
        assert!(check(Some(Version([10, 15, 0, 1])), library, false, "m").is_ok());
        assert!(check(None, library, false, "m").is_ok());
        assert!(check(Some(Version([8, 6, 1, 6])), library, true, "m").is_ok());
        let error = check(Some(Version([10, 3, 0, 26])), library, false, "m.plan").unwrap_err();
        assert!(error.message.contains("'m.plan' was made by TensorRT 10.3.0.26, and this is 10.15.1.29;"), "{error}");
    }
}
