//! The `binaryData` of a ConfigMap and the `data` of a Secret: base64 over any number of lines, as API servers read it.

use serde_json::Value as Json;

use super::{
    Mistake,
    tree::{Node, Value},
};
use crate::path::FieldPath;

/// The field of a ConfigMap.
pub(super) const CONFIG_MAP: &str = "binaryData";
/// The field of a Secret.
pub(super) const SECRET: &str = "data";

/// The field of a resource of that kind that holds base64.
pub(super) fn field_of(kind: &str) -> Option<&'static str> {
    match kind {
        "ConfigMap" => Some(CONFIG_MAP),
        "Secret" => Some(SECRET),
        _ => None,
    }
}

/// The entries that are no base64.
pub(super) fn check(tree: &Node, field: &str) -> Vec<Mistake> {
    let Some(Node { value: Value::Map(entries), .. }) = tree.at(&[field]) else { return vec![] };
    entries
        .iter()
        .filter(|entry| !matches!(&entry.node.value, Value::Text(text) if is_base64(text)))
        .map(|entry| Mistake {
            line: entry.line,
            column: entry.column,
            resource: String::new(),
            path: FieldPath::default().field(field).field(&entry.key).into(),
            message: format!(
                "is not base64: write what `base64 FILE` prints; texts belong into {}",
                if field == SECRET { "stringData" } else { "data" }
            ),
        })
        .collect()
}

/// `resource` with the base64 of that field on one line each.
pub(super) fn without_breaks(mut resource: Json, field: &str) -> Json {
    for entry in resource.get_mut(field).and_then(Json::as_object_mut).into_iter().flat_map(|map| map.values_mut()) {
        if let Json::String(text) = entry {
            text.retain(|c| !is_break(c));
        }
    }
    resource
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

fn is_base64(text: &str) -> bool {
    let digits: usize = text.chars().filter(|c| !is_break(*c)).count();
    let bare = text.trim_end_matches(|c| is_break(c) || c == '=');
    let padding = text[bare.len()..].chars().filter(|c| *c == '=').count();
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/') || is_break(c);
    digits.is_multiple_of(4) && padding <= 2 && bare.chars().all(known)
}

#[cfg(test)]
mod tests {
    use super::is_base64;

    #[test]
    fn base64_has_whole_groups_of_its_own_letters() {
        for text in ["", "AAEC", "AAE=", "AA==", "AAEC\nAA==\n", "+/9z"] {
            assert!(is_base64(text), "{text:?}");
        }
        for text in ["A", "AAE", "A===", "AA=A", "A-E_", "AA EC"] {
            assert!(!is_base64(text), "{text:?}");
        }
    }
}
