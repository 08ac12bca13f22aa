//! The way to a field, as problems name it: `spec.config.inputs[0].dims`, `spec.source.inline.files["1/model.py"]`.

use std::fmt;

/// The way from the root of a resource to one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(String);

/// One step of the way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A field, or a key of a map.
    Key(String),
    /// A place in a list, from 0.
    Index(usize),
}

impl FieldPath {
    #[cfg(test)]
    pub(crate) fn new(start: &str) -> Self {
        Self(start.to_owned())
    }

    /// The field `name` below this one. Names that could be mistaken for several steps are quoted.
    pub(crate) fn field(&self, name: &str) -> Self {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        Self(match (plain, self.0.is_empty()) {
            (true, true) => name.to_owned(),
            (true, false) => format!("{}.{name}", self.0),
            (false, _) => format!("{}[{name:?}]", self.0),
        })
    }

    /// The item at `at` of the list this is.
    pub(crate) fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> Self {
        path.0
    }
}

/// The steps of a path. What cannot be read as a step ends the way there.
pub(crate) fn steps(path: &str) -> Vec<Step> {
    let mut steps = vec![];
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let quoted = inner.starts_with('"');
            let end = if quoted { end_of_quoted(inner) } else { inner.find(']') };
            let Some(end) = end else { break };
            let step = if quoted {
                serde_json::from_str(&inner[..end]).ok().map(Step::Key)
            } else {
                inner[..end].parse().ok().map(Step::Index)
            };
            let Some(step) = step else { break };
            steps.push(step);
            rest = inner[end..].strip_prefix(']').unwrap_or_default();
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            steps.push(Step::Key(name[..end].to_owned()));
            rest = &name[end..];
        }
    }
    steps
}

/// The byte after the closing quote of a text that begins with one.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_back_as_the_steps_it_was_made_of() {
        let path = FieldPath::new("spec").field("files").field("1/model.py").index(2).field("dims");
        assert_eq!(path.to_string(), r#"spec.files["1/model.py"][2].dims"#);
        let key = |name: &str| Step::Key(name.into());
        assert_eq!(
            steps(&path.to_string()),
            [key("spec"), key("files"), key("1/model.py"), Step::Index(2), key("dims")]
        );
        let odd = FieldPath::default().field("a").field("x\"]y");
        assert_eq!(steps(&odd.to_string()), [key("a"), key("x\"]y")]);
        assert!(steps("spec.args[2].name") < steps("spec.args[11]"), "by number");
    }
}
